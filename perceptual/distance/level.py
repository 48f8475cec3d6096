"""One level of LPIPS: Σ_c lin_c (x̂_c − ŷ_c)² at each position of two feature maps.

`level_map` is the formula, the form that torch.compile and export see. `compare` gives its numbers without
copies of whole maps: it works through pieces that stay in the processor's cache, and where a gradient is
asked for it keeps the maps alone, which the backbone holds anyway, and computes the rest again.
"""

import math
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

EPS = 1e-10
PIECE = {"cpu": 1 << 18}  # elements of a map worked on at once: what is computed of them stays in the cache
LARGE_PIECE = 1 << 24  # elsewhere, where the start of a kernel costs more than its memory


def unit_normalize(f: Tensor) -> Tensor:
    """Feature vectors of length one: f / (‖f‖ + 1e-10) over the channels of (N, C, H, W).

    Where f is all zero, its gradient is zero: the formula has none there (‖f‖ is not differentiable at 0).
    """
    return f * _inverse(torch.linalg.vector_norm(f, dim=1, keepdim=True))


def squared_differences(x: Tensor, y: Tensor) -> Tensor:
    """(x̂ − ŷ)² of maps (N, C, H, W): what lin weighs."""
    return (unit_normalize(x) - unit_normalize(y)).square()


def weigh(differences: Tensor, lin: Tensor) -> Tensor:
    """Σ_c lin_c · differences_c, (N, H, W), from (N, C, H, W) and (C,)."""
    return (differences * lin.view(-1, 1, 1)).sum(1)


def level_map(lin: Tensor, x: Tensor, *others: Tensor) -> Tensor:
    """The distance of x from each of K others at each position, (K, N, H, W), in the precision of lin.

    Args:
        lin: (C,) weights.
        x, others: (N, C, H, W) feature maps, of any precision: that of bfloat16 is no fit for distances, it
            would make ties of preferences.
    """
    x = x.to(lin.dtype)
    return torch.stack([weigh(squared_differences(x, y.to(lin.dtype)), lin) for y in others])


def compare(lin: Tensor, x: Tensor, *others: Tensor) -> Tensor:
    """What `level_map` gives, with its gradient and the gradient of that, in little memory."""
    if torch.compiler.is_compiling():  # it and export read the formula
        return level_map(lin, x, *others)
    out: Tensor = _Compare.apply(lin, x, *others)
    return out


def all_pairs(lin: Tensor, f: Tensor) -> Tensor:
    """Mean over positions of `level_map` for all pairs of maps f (M, C, H, W): (M, M), by one product.

    |a − b|² = |a|² + |b|² − 2ab loses digits where a is near b, and fewer of them when both are taken from
    the mean of all: about 1e-6 is lost, little for training; to order near-duplicates takes `compare`.
    """
    u = unit_normalize(f)
    u = u - u.mean(0)
    v = (u * lin.view(-1, 1, 1)).flatten(1)
    products = v @ u.flatten(1).T / math.prod(f.shape[2:])
    squares = products.diagonal()
    return squares.unsqueeze(1) + squares - products - products.T


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
        if torch.is_grad_enabled():  # a gradient of the gradient is asked for: a graph of whole maps
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
    """Gradients to lin, to x and to the others, those that are needed, from that to `level_map`."""
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
    """`unit_normalize` by fewer operations, for whom no gradient is taken."""
    inverse = torch.linalg.vector_norm(f, dim=1, keepdim=True).add_(EPS).reciprocal_()
    return f * inverse.clamp_(max=torch.finfo(f.dtype).max)  # 0 + ε is 0 in half precision


def _inverse(norm: Tensor) -> Tensor:
    """1 / (norm + ε), and 0 of a norm of 0: there the features are 0, and so is the gradient."""
    return (norm + EPS).reciprocal().masked_fill(norm == 0, 0)


def _pieces(maps: Tensor) -> Iterator[tuple[slice, slice]]:
    """Images and rows of each piece of maps (N, C, H, W)."""
    n, c, h, w = maps.shape
    rows = max(PIECE.get(maps.device.type, LARGE_PIECE) // max(c * w, 1), 1)
    images = max(rows // max(h, 1), 1)
    for first in range(0, n, images):
        for top in range(0, h, rows):
            yield slice(first, first + images), slice(top, top + rows)
