"""The fast form of one level of LPIPS: Σ_c lin_c (x̂_c − ŷ_c)² at each position of two feature maps.

It gives the numbers of the formula in `lpips.py` without copies of whole maps: it works through pieces that
stay in the processor's cache, and for a gradient it keeps the norms and the maps, which the backbone holds
anyway, and computes the rest again. On GPUs of CUDA each level is one kernel, see `kernels`.
"""

import os
from collections.abc import Iterator, Sequence
from functools import cache
from typing import Any, Literal, get_args

import torch
import torch.nn.functional as F
from torch import Tensor

from perceptual.features.backbone import is_transformed
from perceptual.files.messages import first_line

# compared at each position, as means over all of them, or as one vector of the embeddings of all levels
Form = Literal["per_position", "pooled", "concatenated"]
FORMS: tuple[Form, ...] = get_args(Form)
Outside = Literal["see", "fill"]  # what a network is shown outside a mask: what is there, or its mean colour
OUTSIDE: tuple[Outside, ...] = get_args(Outside)
Kernel = Literal["auto", "torch", "triton"]
KERNELS: tuple[Kernel, ...] = get_args(Kernel)
EPS = 1e-10
PIECE = {"cpu": 1 << 18}  # elements of a map worked on at once: what is computed of them stays in the cache
OFFSETS = 1 << 31  # elements of a map of an image, whose places are 32 bits in a kernel
LARGE_PIECE = 1 << 24  # elsewhere, where the start of a kernel costs more than its memory


def unit_normalize(f: Tensor) -> Tensor:
    """Feature vectors of length one: f / (‖f‖ + 1e-10) over the channels of (N, C, H, W).

    Where f is all zero, its gradient is zero: the formula has none there (‖f‖ is not differentiable at 0).
    """
    return f * _inverse(torch.linalg.vector_norm(f, dim=1, keepdim=True))


def reduced(mask: Tensor, maps: Tensor) -> Tensor:
    """Reduce masks (N, 1, H, W) to the size of maps (…, h, w) by areas."""
    return F.interpolate(mask, maps.shape[2:], mode="area")


def mean(maps: Tensor, mask: Tensor | None) -> Tensor:
    """Mean over the positions of (N, C, h, w), weighted by masks (N or 1, 1, H, W): (N, C)."""
    if mask is None:
        return maps.mean((2, 3))
    weight = reduced(mask, maps)
    return (maps * weight).sum((2, 3)) / weight.sum((2, 3))


def compare(lin: Tensor, x: Tensor, *others: Tensor, mean: bool = False, kernel: Kernel = "auto") -> Tensor:
    """Σ_c lin_c (x̂_c − ŷ_c)² at each position, for each of K others y, with first and second gradients.

    Args:
        lin: (C,) weights.
        x, others: (N, C, H, W) feature maps of any precision; what is computed of them has that of lin, and
            float32 at least.
        mean: take the mean over positions.
        kernel: as `LPIPS` takes it.

    Returns:
        (K, N, H, W), or the means (K, N), in the precision of lin.
    """
    wide = lin.to(torch.promote_types(lin.dtype, torch.float32))
    fused = takes_triton(lin.device, kernel) and wide.dtype == torch.float32 and 0 < x[:1].numel() < OFFSETS
    # as one: torch.compile of PyTorch 2.4 loses count of two
    out, _ = _Compare.apply(wide, (mean, fused), x, *others)
    return out.to(lin.dtype)


def mean_squares(maps: Tensor, first: Tensor, second: Tensor, kernel: Kernel = "auto") -> Tensor:
    """Mean squared differences (n, C) per channel of pairs of maps, without a gradient.

    Args:
        maps: (M, C, H, W).
        first, second: (n,) int64, which of them are compared.
        kernel: as `LPIPS` takes it.
    """
    if takes_triton(maps.device, kernel) and maps.dtype == torch.float32 and first.numel():
        from perceptual.distance import kernels

        return kernels.mean_squares(maps.flatten(2), first, second)
    return (maps[first] - maps[second]).square().mean((2, 3))


@cache
def takes_triton(device: torch.device, kernel: Kernel) -> bool:
    """Say if levels are compared by Triton: on a GPU of CUDA, or for `triton` in its interpreter.

    Raises:
        ValueError: `triton` was chosen, and cannot be used.
    """
    interpreted = kernel == "triton" and os.environ.get("TRITON_INTERPRET") == "1"
    reason = f"the device is {device.type}, and Triton needs a GPU of CUDA"
    if kernel != "torch" and (device.type == "cuda" or interpreted):
        try:
            from perceptual.distance import kernels

            one = torch.ones(1, 1, 1, device=device)
            kernels.compare(one[0, 0], one, one[None], True)
            return True
        except Exception as error:  # it is not installed, or cannot compile for this GPU
            reason = first_line(error)
    if kernel == "triton":
        raise ValueError(f"kernel='triton' cannot be used: {reason}")
    return False


class _Compare(torch.autograd.Function):
    """Returns what `compare` does, and the norms (1 + K, N, 1, H, W) of the maps for the gradient."""

    @staticmethod
    def forward(lin: Tensor, how: tuple[bool, bool], x: Tensor, *others: Tensor) -> tuple[Tensor, Tensor]:
        mean, fused = how
        n, _, h, w = x.shape
        if fused:
            from perceptual.distance import kernels

            flat = [m.flatten(2) for m in (x, *others)]
            out, norms = kernels.compare(lin, flat[0], kernels.stacked(flat[1:]), mean)
            return out.sum(2) if mean else out.view(-1, n, h, w), norms.view(-1, n, 1, h, w)
        out = lin.new_empty(len(others), n, h, w)
        norms = lin.new_empty(1 + len(others), n, 1, h, w)
        for images, rows in _pieces(x):
            pieces = [m[images, :, rows].to(lin.dtype) for m in (x, *others)]
            for norm, m in zip(norms[:, images, :, rows], pieces, strict=True):
                torch.linalg.vector_norm(m, dim=1, keepdim=True, out=norm)
            over = _inverse(norms[:, images, :, rows])
            u = pieces[0] * over[0]
            for k, m in enumerate(pieces[1:]):
                # both products are rounded before they are subtracted, so that equal maps are at 0
                d = F.mse_loss(m * over[k + 1], u, reduction="none")
                out[k, images, rows] = d.mul_(lin.view(-1, 1, 1)).sum(1)
        return out.mean((2, 3)) if mean else out, norms

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
        lin, (ctx.mean, ctx.fused), *maps = inputs
        ctx.mark_non_differentiable(output[1])
        ctx.set_materialize_grads(False)
        ctx.save_for_backward(lin, output[1], *maps)

    @staticmethod
    def backward(ctx: Any, grad: Tensor | None, _: None) -> tuple[Tensor | None, ...]:
        if grad is None:  # nothing that follows has a gradient
            return (None,) * len(ctx.needs_input_grad)
        lin, norms, *maps = ctx.saved_tensors
        needed = (ctx.needs_input_grad[0], *ctx.needs_input_grad[2:])
        # for a gradient of the gradient, a graph of whole maps; and many gradients at once cannot be cut
        many = torch._C._functorch.is_legacy_batchedtensor(grad)  # of is_grads_batched=True
        of_graph = torch.is_grad_enabled() or many or is_transformed()
        if ctx.fused and not of_graph:
            of_lin, *of_maps = _fused_gradients(grad, lin, maps, norms, needed, ctx.mean)
            return of_lin, None, *of_maps
        if ctx.mean:
            size = maps[0].shape[2:]
            grad = (grad / max(size.numel(), 1))[..., None, None].expand(*grad.shape, *size)
        if of_graph:
            norms = torch.stack(
                [torch.linalg.vector_norm(m.to(lin.dtype), dim=1, keepdim=True) for m in maps]
            )
        if of_graph or len(list(_pieces(maps[0]))) == 1:
            of_lin, *of_maps = _gradients(grad, lin, maps, norms, needed)
            return of_lin, None, *of_maps
        of_lin = torch.zeros_like(lin) if needed[0] else None
        of_maps = [torch.empty_like(m) if need else None for m, need in zip(maps, needed[1:], strict=True)]
        for images, rows in _pieces(maps[0]):
            pieces = [m[images, :, rows] for m in maps]
            part, *parts = _gradients(grad[:, images, rows], lin, pieces, norms[:, images, :, rows], needed)
            if of_lin is not None and part is not None:
                of_lin += part
            for whole, piece in zip(of_maps, parts, strict=True):
                if whole is not None and piece is not None:
                    whole[images, :, rows] = piece
        return of_lin, None, *of_maps


def _gradients(
    grad: Tensor, lin: Tensor, maps: Sequence[Tensor], norms: Tensor, needed: Sequence[bool]
) -> list[Tensor | None]:
    """Gradients to lin, to x and to the others, those that are needed, from that (K, N, H, W) to `compare`.

    A gradient passes the norm less its part along the map f: as g (d − f (d · f̂) / ‖f‖) / (‖f‖ + ε), where
    d = 2 lin (x̂ − ŷ), and x̂ − ŷ = (x − r y) / (‖x‖ + ε) with one ratio r a position; so what is multiplied
    by g is one number a position.
    """
    x, *others = (m.to(lin.dtype) for m in maps)
    bases = (norms + EPS).reciprocal()
    over, *overs = bases.masked_fill(norms == 0, 0)
    of_lin, of_x, of_others = [], [], list[Tensor | None]()
    for g, y, over_y, norm, need in zip(grad, others, overs, norms[1:], needed[2:], strict=True):
        d = torch.addcmul(x, y, over_y / bases[0], value=-1)  # exactly 0 of equal maps
        g = g.unsqueeze(1) * bases[0]
        if needed[0]:
            of_lin.append((g * bases[0] * d.square()).sum((0, 2, 3)))
        d = d * (2 * lin).view(-1, 1, 1)
        if needed[1]:
            of_x.append(_through_norm(d, x, g, over, norms[0]))
        of_others.append(_through_norm(d, y, -g, over_y, norm).to(y.dtype) if need else None)
    return [_sum(of_lin, lin), _sum(of_x, maps[0]), *of_others]


def _sum(parts: Sequence[Tensor], like: Tensor) -> Tensor | None:
    """Add up parts, in the precision of the tensor that they are gradients to; None without any."""
    if not parts:
        return None
    return (torch.stack(list(parts)).sum(0) if len(parts) > 1 else parts[0]).to(like.dtype)


def _through_norm(d: Tensor, f: Tensor, g: Tensor, over: Tensor, norm: Tensor) -> Tensor:
    along = (d * f).sum(1, keepdim=True) * over / norm.masked_fill(norm == 0, 1)
    return torch.addcmul(d, along, f, value=-1) * (g * over)


def _fused_gradients(
    grad: Tensor, lin: Tensor, maps: Sequence[Tensor], norms: Tensor, needed: Sequence[bool], mean: bool
) -> list[Tensor | None]:
    """What `_gradients` gives, by Triton; with `mean` from the gradient (K, N) to means."""
    from perceptual.distance import kernels

    flat = [m.flatten(2) for m in maps]
    grad = grad.unsqueeze(2) if mean else grad.flatten(2)
    wanted = [needed[0], needed[1], any(needed[2:])]
    of_lin, of_x, of_others = kernels.gradients(
        grad, lin, flat[0], kernels.stacked(flat[1:]), norms.flatten(2), mean, wanted
    )
    found = [of_x, *(of_others if wanted[2] else flat[1:])]
    shaped = [f.view_as(m) if need else None for f, m, need in zip(found, maps, needed[1:], strict=True)]
    return [of_lin.sum((0, 1)) if needed[0] else None, *shaped]


def _inverse(norm: Tensor) -> Tensor:
    """1 / (norm + ε), and 0 of a norm of 0: there the features are 0, and so is the gradient."""
    return (norm + EPS).reciprocal().masked_fill(norm == 0, 0)


def _pieces(maps: Tensor) -> Iterator[tuple[slice, slice]]:
    """Cut maps (N, C, H, W) into pieces: the images and rows of each."""
    n, c, h, w = maps.shape
    rows = max(PIECE.get(maps.device.type, LARGE_PIECE) // max(c * w, 1), 1)
    images = max(rows // max(h, 1), 1)
    for first in range(0, n, images):
        for top in range(0, h, rows):
            yield slice(first, first + images), slice(top, top + rows)
