"""The fast form of one level of LPIPS: Σ_c lin_c (x̂_c − ŷ_c)² at each position of two feature maps.

It gives the numbers of the formula in `lpips.py` without copies of whole maps: it works through pieces that
stay in the processor's cache, and for a gradient it keeps the maps alone, which the backbone holds anyway,
and computes the rest again.
"""

from collections.abc import Iterator
from typing import Any, Literal, get_args

import torch
import torch.nn.functional as F
from torch import Tensor

from perceptual.features.backbone import is_transformed

# compared at each position, as means over all of them, or as one vector of the embeddings of all levels
Form = Literal["per_position", "pooled", "concatenated"]
FORMS: tuple[Form, ...] = get_args(Form)
Outside = Literal["see", "fill"]  # what a network is shown outside a mask: what is there, or its mean colour
OUTSIDE: tuple[Outside, ...] = get_args(Outside)
EPS = 1e-10
PIECE = {"cpu": 1 << 18}  # elements of a map worked on at once: what is computed of them stays in the cache
LARGE_PIECE = 1 << 24  # elsewhere, where the start of a kernel costs more than its memory


def unit_normalize(f: Tensor) -> Tensor:
    """Feature vectors of length one: f / (‖f‖ + 1e-10) over the channels of (N, C, H, W).

    Where f is all zero, its gradient is zero: the formula has none there (‖f‖ is not differentiable at 0).
    """
    return f * _inverse(torch.linalg.vector_norm(f, dim=1, keepdim=True))


def mean(maps: Tensor, mask: Tensor | None) -> Tensor:
    """Mean over the positions of (N, C, h, w), weighted by masks (N or 1, 1, H, W): (N, C).

    A mask is reduced to the size of the maps by areas.
    """
    if mask is None:
        return maps.mean((2, 3))
    weight = F.interpolate(mask, maps.shape[2:], mode="area")
    return (maps * weight).sum((2, 3)) / weight.sum((2, 3))


def compare(lin: Tensor, x: Tensor, *others: Tensor) -> Tensor:
    """Σ_c lin_c (x̂_c − ŷ_c)² at each position, for each of K others y, with first and second gradients.

    Args:
        lin: (C,) weights.
        x, others: (N, C, H, W) feature maps of any precision; what is computed of them has that of lin.

    Returns:
        (K, N, H, W).
    """
    out: Tensor = _Compare.apply(lin, x, *others)
    return out


class _Compare(torch.autograd.Function):
    @staticmethod
    def forward(lin: Tensor, x: Tensor, *others: Tensor) -> Tensor:
        n, _, h, w = x.shape
        out = lin.new_empty(len(others), n, h, w)
        for images, rows in _pieces(x):
            u, *rest = (_unit(m[images, :, rows].to(lin.dtype)) for m in (x, *others))
            for k, v in enumerate(rest):
                out[k, images, rows] = v.sub_(u).square_().mul_(lin.view(-1, 1, 1)).sum(1)
        return out

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        ctx.save_for_backward(*inputs)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        lin, *maps = ctx.saved_tensors
        needed = ctx.needs_input_grad
        # for a gradient of the gradient, a graph of whole maps; and many gradients at once cannot be cut
        many = torch._C._functorch.is_legacy_batchedtensor(grad)  # of is_grads_batched=True
        if torch.is_grad_enabled() or many or is_transformed():
            return _gradients(grad, lin, maps, needed)
        of_lin = torch.zeros_like(lin) if needed[0] else None
        of_maps = [torch.empty_like(m) if need else None for m, need in zip(maps, needed[1:], strict=True)]
        for images, rows in _pieces(maps[0]):
            pieces = [m[images, :, rows] for m in maps]
            part, *parts = _gradients(grad[:, images, rows], lin, pieces, needed)
            if of_lin is not None and part is not None:
                of_lin += part
            for whole, piece in zip(of_maps, parts, strict=True):
                if whole is not None and piece is not None:
                    whole[images, :, rows] = piece
        return of_lin, *of_maps


def _gradients(
    grad: Tensor, lin: Tensor, maps: list[Tensor], needed: tuple[bool, ...]
) -> tuple[Tensor | None, ...]:
    """Gradients to lin, to x and to the others, those that are needed, from that to `compare`."""
    weight = lin.view(-1, 1, 1)
    norms = [torch.linalg.vector_norm(m.to(lin.dtype), dim=1, keepdim=True) for m in maps]
    u, *others = (m.to(lin.dtype) * _inverse(norm) for m, norm in zip(maps, norms, strict=True))
    differences = [u - v for v in others]
    of_units = [2 * g.unsqueeze(1) * weight * d for g, d in zip(grad, differences, strict=True)]
    of_lin = None
    if needed[0]:
        of_lin = torch.stack(
            [(g.unsqueeze(1) * d.square()).sum((0, 2, 3)) for g, d in zip(grad, differences, strict=True)]
        ).sum(0)
    to_units = [torch.stack(of_units).sum(0) if len(of_units) > 1 else of_units[0], *(-g for g in of_units)]
    of_maps = [
        _through_norm(g, v, norm).to(m.dtype) if need else None
        for g, v, norm, m, need in zip(to_units, [u, *others], norms, maps, needed[1:], strict=True)
    ]
    return of_lin, *of_maps


def _through_norm(grad: Tensor, unit: Tensor, norm: Tensor) -> Tensor:
    """Gradient to f from that to its `unit_normalize`: less the part along f, over ‖f‖ + ε."""
    inverse = _inverse(norm)
    along = (grad * unit).sum(1, keepdim=True) * (norm + EPS) / norm.masked_fill(norm == 0, 1)
    return (grad - along * unit) * inverse


def _unit(f: Tensor) -> Tensor:
    """`unit_normalize` by fewer operations, where no gradient is taken."""
    inverse = torch.linalg.vector_norm(f, dim=1, keepdim=True).add_(EPS).reciprocal_()
    return f * inverse.clamp_(max=torch.finfo(f.dtype).max)  # 0 + ε is 0 in half precision


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
