"""The comparison of a level as one kernel of a GPU, in Triton: each map is read once from memory, forward and
backward, and nothing of its size is written but its gradient.

A program has one image and a block of positions. Its loops over channels read the maps of that block again,
from the cache. Maps may be of any precision and in either order of memory; what is computed is float32.
"""

from itertools import pairwise
from typing import Sequence  # noqa: UP035 - the only one that operators of PyTorch 2.6 take

import torch
import triton
import triton.language as tl
from torch import Tensor

EPS = 1e-10  # as in `level`, which imports this module
EXACT = {"enable_fp_fusion": False}  # fused, the products of equal maps would be rounded once and not at all


@triton.jit
def _tile(maps, start, c, p, C, P, of_c, of_p):  # type: ignore[no-untyped-def]
    """Load channels from `start` on at positions p, as float32; 0 outside."""
    inside = (start + c < C)[:, None] & (p < P)[None, :]
    place = maps + (start + c)[:, None] * of_c + p[None, :] * of_p
    return tl.load(place, inside, 0).to(tl.float32)


@triton.jit
def _put(maps, found, start, c, p, C, P, of_c, of_p):  # type: ignore[no-untyped-def]
    """Store what `_tile` would load, in the precision of the maps."""
    inside = (start + c < C)[:, None] & (p < P)[None, :]
    place = maps + (start + c)[:, None] * of_c + p[None, :] * of_p
    tl.store(place, found.to(maps.dtype.element_ty), inside)


@triton.jit
def _norm(maps, c, p, C, P, of_c, of_p, BC: tl.constexpr, BP: tl.constexpr):  # type: ignore[no-untyped-def]
    squares = tl.zeros([BP], tl.float32)
    for start in range(0, C, BC):
        u = _tile(maps, start, c, p, C, P, of_c, of_p)
        squares += tl.sum(u * u, 0)
    return tl.sqrt(squares)


@triton.jit
def _over(norm, EPS: tl.constexpr):  # type: ignore[no-untyped-def]
    """1 / (norm + ε), and 0 of a norm of 0."""
    return tl.where(norm == 0, 0.0, 1 / (norm + EPS))


@triton.jit
def _forward(  # type: ignore[no-untyped-def]
    lin, x, y, out, norms, C, P, B, x_n, x_c, x_p, y_k, y_n, y_c, y_p, scale,
    K: tl.constexpr, MEAN: tl.constexpr, EPS: tl.constexpr, BC: tl.constexpr, BP: tl.constexpr,
):  # fmt: skip
    block, n, count = tl.program_id(0), tl.program_id(1).to(tl.int64), tl.num_programs(1)
    p = block * BP + tl.arange(0, BP)
    c = tl.arange(0, BC)
    x += n * x_n
    y += n * y_n
    norm_x = _norm(x, c, p, C, P, x_c, x_p, BC, BP)
    tl.store(norms + n * P + p, norm_x, p < P)
    over_x = _over(norm_x, EPS)
    for k in tl.static_range(K):
        of = y + k * y_k
        norm_y = _norm(of, c, p, C, P, y_c, y_p, BC, BP)
        tl.store(norms + ((k + 1) * count + n) * P + p, norm_y, p < P)
        over_y = _over(norm_y, EPS)
        total = tl.zeros([BP], tl.float32)
        for start in range(0, C, BC):
            u = _tile(x, start, c, p, C, P, x_c, x_p)
            v = _tile(of, start, c, p, C, P, y_c, y_p)
            d = u * over_x[None, :] - v * over_y[None, :]
            w = tl.load(lin + start + c, start + c < C, 0)
            total += tl.sum(w[:, None] * d * d, 0)
        if MEAN:
            tl.store(out + (k * count + n) * B + block, tl.sum(tl.where(p < P, total, 0.0), 0) * scale)
        else:
            tl.store(out + (k * count + n) * P + p, total, p < P)


@triton.jit
def _backward(  # type: ignore[no-untyped-def]
    grad, lin, x, y, norms, to_x, to_y, to_lin, C, P, B, g_k, g_n, g_p, x_n, x_c, x_p, y_k, y_n, y_c, y_p,
    i_n, i_c, i_p, j_k, j_n, j_c, j_p, scale,
    K: tl.constexpr, X: tl.constexpr, Y: tl.constexpr, LIN: tl.constexpr,
    EPS: tl.constexpr, BC: tl.constexpr, BP: tl.constexpr,
):  # fmt: skip
    block, n, count = tl.program_id(0), tl.program_id(1).to(tl.int64), tl.num_programs(1)
    p = block * BP + tl.arange(0, BP)
    c = tl.arange(0, BC)
    x += n * x_n
    y += n * y_n
    norm_x = tl.load(norms + n * P + p, p < P, 0)
    over_x = _over(norm_x, EPS)
    along_x = tl.zeros([BP], tl.float32)  # Σ_kc of the gradient to the unit x, times the unit x
    for k in tl.static_range(K):
        of = y + k * y_k
        norm_y = tl.load(norms + ((k + 1) * count + n) * P + p, p < P, 0)
        over_y = _over(norm_y, EPS)
        g = 2 * scale * tl.load(grad + k * g_k + n * g_n + p * g_p, p < P, 0).to(tl.float32)
        along_y = tl.zeros([BP], tl.float32)
        for start in range(0, C, BC):
            u = _tile(x, start, c, p, C, P, x_c, x_p) * over_x[None, :]
            v = _tile(of, start, c, p, C, P, y_c, y_p) * over_y[None, :]
            w = tl.load(lin + start + c, start + c < C, 0)
            d = g[None, :] * w[:, None] * (u - v)
            along_x += tl.sum(d * u, 0)
            along_y += tl.sum(d * v, 0)
        if Y:
            along_y *= tl.where(norm_y == 0, 0.0, (norm_y + EPS) / norm_y)
            for start in range(0, C, BC):
                u = _tile(x, start, c, p, C, P, x_c, x_p) * over_x[None, :]
                v = _tile(of, start, c, p, C, P, y_c, y_p) * over_y[None, :]
                w = tl.load(lin + start + c, start + c < C, 0)
                found = (along_y[None, :] * v - g[None, :] * w[:, None] * (u - v)) * over_y[None, :]
                _put(to_y + k * j_k + n * j_n, found, start, c, p, C, P, j_c, j_p)
    if X or LIN:
        along_x *= tl.where(norm_x == 0, 0.0, (norm_x + EPS) / norm_x)
        for start in range(0, C, BC):
            u = _tile(x, start, c, p, C, P, x_c, x_p) * over_x[None, :]
            w = tl.load(lin + start + c, start + c < C, 0)
            to_unit = tl.zeros([BC, BP], tl.float32)
            of_lin = tl.zeros([BC], tl.float32)
            for k in tl.static_range(K):
                over_y = _over(tl.load(norms + ((k + 1) * count + n) * P + p, p < P, 0), EPS)
                g = 2 * scale * tl.load(grad + k * g_k + n * g_n + p * g_p, p < P, 0).to(tl.float32)
                d = u - _tile(y + k * y_k, start, c, p, C, P, y_c, y_p) * over_y[None, :]
                to_unit += g[None, :] * w[:, None] * d
                of_lin += tl.sum(0.5 * g[None, :] * d * d, 1)
            if LIN:
                tl.store(to_lin + (n * B + block) * C + start + c, of_lin, start + c < C)
            if X:
                found = (to_unit - along_x[None, :] * u) * over_x[None, :]
                _put(to_x + n * i_n, found, start, c, p, C, P, i_c, i_p)


@triton.jit
def _squares(  # type: ignore[no-untyped-def]
    maps, first, second, out, C, P, of_m, of_c, of_p, scale, BC: tl.constexpr, BP: tl.constexpr
):
    block, n = tl.program_id(0), tl.program_id(1)
    c = tl.arange(0, BC)
    p = tl.arange(0, BP)
    x = maps + tl.load(first + n) * of_m
    y = maps + tl.load(second + n) * of_m
    total = tl.zeros([BC], tl.float32)
    for start in range(0, P, BP):
        u = _tile(x, block * BC, c, start + p, C, P, of_c, of_p)
        d = u - _tile(y, block * BC, c, start + p, C, P, of_c, of_p)
        total += tl.sum(d * d, 1)
    tl.store(out + n * C + block * BC + c, total * scale, block * BC + c < C)


@torch.library.custom_op("perceptual::compare", mutates_args=())
def compare(lin: Tensor, x: Tensor, y: Tensor, mean: bool) -> tuple[Tensor, Tensor]:
    """Σ_c lin_c (x̂_c − ŷ_c)² of maps, and their norms.

    Args:
        lin: (C,) float32.
        x: (N, C, P) features at P positions.
        y: (K, N, C, P) others.
        mean: sum over blocks of positions, divided by P.

    Returns:
        (K, N, P), or (K, N, B) for B blocks; and (K + 1, N, P), the norms of x, then of y.
    """
    n, channels, positions = x.shape
    size = _size(x)
    blocks = triton.cdiv(positions, size["BP"])
    out = lin.new_empty(len(y), n, blocks if mean else positions)
    norms = lin.new_empty(len(y) + 1, n, positions)
    _forward[(blocks, n)](
        lin, x, y, out, norms, channels, positions, blocks, *x.stride(), *y.stride(), 1 / max(positions, 1),
        K=len(y), MEAN=mean, EPS=EPS, **size, **EXACT,
    )  # fmt: skip
    return out, norms


@torch.library.custom_op("perceptual::compare_backward", mutates_args=())
def gradients(
    grad: Tensor, lin: Tensor, x: Tensor, y: Tensor, norms: Tensor, mean: bool, needed: Sequence[bool]
) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients to lin (N, B, C) by image and block, to x and to y of `compare`; empty where not needed.

    Args:
        grad: to its (K, N, P), or with `mean` the same for all blocks, (K, N, 1).
        lin, x, y, norms, mean: as there.
        needed: of lin, x and y.
    """
    n, channels, positions = x.shape
    size = _size(x)
    blocks = triton.cdiv(positions, size["BP"])
    lin_needed, x_needed, y_needed = needed
    to_lin = lin.new_empty((n, blocks, channels) if lin_needed else 0)
    to_x = torch.empty_like(x) if x_needed else x.new_empty(0, 0, 0)
    to_y = torch.empty_like(y) if y_needed else y.new_empty(0, 0, 0, 0)
    strides = grad.stride()[:2] + ((0,) if mean else grad.stride()[2:])
    _backward[(blocks, n)](
        grad, lin, x, y, norms, to_x, to_y, to_lin, channels, positions, blocks, *strides, *x.stride(),
        *y.stride(), *to_x.stride(), *to_y.stride(), 1 / max(positions, 1) if mean else 1.0,
        K=len(y), X=x_needed, Y=y_needed, LIN=lin_needed, EPS=EPS, **size, **EXACT,
    )  # fmt: skip
    return to_lin, to_x, to_y


@torch.library.custom_op("perceptual::mean_squares", mutates_args=())
def mean_squares(maps: Tensor, first: Tensor, second: Tensor) -> Tensor:
    """Mean squared differences (n, C) per channel of pairs of maps.

    Args:
        maps: (M, C, P) float32.
        first, second: (n,) int64, the pairs.
    """
    _, channels, positions = maps.shape
    size = _size(maps)
    out = maps.new_empty(len(first), channels)
    _squares[(triton.cdiv(channels, size["BC"]), len(first))](
        maps, first.contiguous(), second.contiguous(), out, channels, positions, *maps.stride(),
        1 / max(positions, 1), **size,
    )  # fmt: skip
    return out


@mean_squares.register_fake
def _(maps: Tensor, first: Tensor, second: Tensor) -> Tensor:
    return maps.new_empty(len(first), maps.shape[1])


@compare.register_fake
def _(lin: Tensor, x: Tensor, y: Tensor, mean: bool) -> tuple[Tensor, Tensor]:
    n, _, positions = x.shape
    blocks = triton.cdiv(positions, _size(x)["BP"])
    out = lin.new_empty(len(y), n, blocks if mean else positions)
    return out, lin.new_empty(len(y) + 1, n, positions)


@gradients.register_fake
def _(
    grad: Tensor, lin: Tensor, x: Tensor, y: Tensor, norms: Tensor, mean: bool, needed: Sequence[bool]
) -> tuple[Tensor, Tensor, Tensor]:
    blocks = triton.cdiv(x.shape[2], _size(x)["BP"])
    shape = (len(x), blocks, x.shape[1])
    return (
        lin.new_empty(shape if needed[0] else 0),
        torch.empty_like(x) if needed[1] else x.new_empty(0, 0, 0),
        torch.empty_like(y) if needed[2] else y.new_empty(0, 0, 0, 0),
    )


def _size(x: Tensor) -> dict[str, int]:
    """Channels and positions of a tile: long in the direction that lies together in memory."""
    if x.stride(2) == 1:
        return {"BC": min(triton.next_power_of_2(x.shape[1]), 32), "BP": 64}
    return {"BC": min(triton.next_power_of_2(x.shape[1]), 128), "BP": 16}


def stacked(maps: Sequence[Tensor]) -> Tensor:
    """K maps (N, C, P) as one (K, N, C, P): a view where they lie at equal steps in one memory."""
    first, steps = maps[0], {b.storage_offset() - a.storage_offset() for a, b in pairwise(maps)}
    alike = {(m.untyped_storage().data_ptr(), m.dtype, m.stride()) for m in maps}
    if len(alike) > 1 or len(steps) > 1 or min(steps, default=0) < 0:
        return torch.stack(list(maps))
    return first.as_strided((len(maps), *first.shape), (*(steps or {0}), *first.stride()))
