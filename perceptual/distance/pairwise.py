"""All pairs: squared Euclidean distances between many long vectors, in blocks that fit a budget of memory.

‖a‖² + ‖b‖² − 2ab is a matrix product, as fast as arithmetic gets, but it loses the digits of vectors that
are close: an error of about 1e-6 (‖a‖² + ‖b‖²) is nothing to far ones and everything to duplicates. The
rule: what comes out below `CLOSE` of ‖a‖² + ‖b‖² is computed again as Σ(a − b)², which is never negative,
and exactly 0 for equal vectors.
"""

import math
import tempfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager

import numpy as np
import torch
from torch import Tensor

from perceptual.distance.level import reduced, unit_normalize

CLOSE = 0.02
BATCH = 64  # images embedded at once, at most


def distances(embed: Callable[[Tensor], Tensor], images: Tensor, other: Tensor | None, memory: int) -> Tensor:
    """Compute all distances of images from `other`, or among themselves, as `LPIPS.pairwise`.

    Args:
        embed: images (n, …) → vectors (n, D).
        images, other: (N, C, H, W) and (M, C, H, W).
        memory: bytes for vectors, half of it, and for work, the other half.
    """
    if memory < 1:
        raise ValueError(f"memory must be a positive number of bytes, got {memory}")
    if other is None:
        vectors = _embed_all(embed, images, memory // 2)
        return squared_distances(vectors, vectors, memory // 2, images.device)
    if images.shape[2:] != other.shape[2:]:
        (h0, w0), (h1, w1) = images.shape[2:], other.shape[2:]
        raise ValueError(f"images and other must have one size, got {h0}×{w0} and {h1}×{w1}")
    a, b = (_embed_all(embed, batch, memory // 4) for batch in (images, other))
    return squared_distances(a, b, memory // 2, images.device)


def squared_distances(a: Tensor, b: Tensor, memory: int, device: torch.device) -> Tensor:
    """‖a_i − b_j‖² of vectors (N, D) and (M, D), as (N, M) on `device`.

    Where `b` is `a` itself, the result is symmetric to the last bit with 0 on the diagonal, for half the
    work. Beyond the vectors and the result, it takes `memory` bytes, or what one pair of vectors needs.
    """
    norms_a, norms_b = (torch.linalg.vector_norm(v, dim=1).square().to(device) for v in (a, b))
    size = _block_rows(a.shape[1], a.element_size(), memory)
    result = torch.empty(len(a), len(b), dtype=a.dtype, device=device)
    for rows in _slices(len(a), size):
        block_a = a[rows].to(device)
        for columns in _slices(len(b), size):
            if b is a and columns.start < rows.start:
                result[rows, columns] = result[columns, rows].T
            else:
                sums = norms_a[rows, None] + norms_b[columns]
                same = b is a and columns == rows
                result[rows, columns] = _block(block_a, b[columns].to(device), sums, same)
    return result


def vectors(maps: Sequence[Tensor], lin: Iterable[Tensor], mask: Tensor | None = None) -> Tensor:
    """Compute vectors (N, D) whose squared distance is LPIPS: √(lin_c / HW) · x̂ of all levels.

    Args:
        maps: for each level (N, C, h, w).
        lin: for each level (C,), none of them negative.
        mask: (N, 1, H, W) or (1, 1, H, W), weights of the positions in place of 1/HW each.

    Raises:
        ValueError: lin has negative weights, so that no such vectors exist.
    """
    parts = []
    with torch.autocast(maps[0].device.type, enabled=False):
        for f, weights in zip(maps, lin, strict=True):
            if (weights < 0).any():
                raise ValueError(
                    "lin has negative weights: no vectors have such distances; project() makes them 0"
                )
            scale = (weights.detach() / math.prod(f.shape[2:])).sqrt()
            vector = unit_normalize(f.to(weights.dtype)) * scale.view(-1, 1, 1)
            parts.append((vector if mask is None else vector * _relative(mask, f).sqrt()).flatten(1))
    return torch.cat(parts, dim=1)


def _relative(mask: Tensor, maps: Tensor) -> Tensor:
    """Weights (N, 1, h, w) of the positions of maps, 1 on average."""
    weight = reduced(mask, maps)
    return weight / weight.mean((2, 3), keepdim=True)


def products(lin: Tensor, f: Tensor) -> Tensor:
    """Compute distances (M, M) at one level of all pairs of maps f (M, C, H, W), by one product.

    For training on images that recur: |a − b|² = |a|² + |b|² − 2ab loses digits where a is near b, and fewer
    when both are taken from the mean of all; about 1e-6 is lost. lin (C,) may be negative, as it is before
    the first step of training.
    """
    with torch.autocast(f.device.type, enabled=False):
        u = unit_normalize(f.to(lin.dtype))
        u = u - u.mean(0)
        v = (u * lin.view(-1, 1, 1)).flatten(1)
        ab = v @ u.flatten(1).T / math.prod(f.shape[2:])
        squares = ab.diagonal()
        return squares.unsqueeze(1) + squares - ab - ab.T


def _embed_all(embed: Callable[[Tensor], Tensor], images: Tensor, memory: int) -> Tensor:
    """Compute vectors (N, D) by batches, each of which needs about eight times their memory."""
    like = embed(images[:0])
    vectors = _rows(len(images), like, memory)
    size = min(max(memory // (8 * like.shape[1] * like.element_size()), 1), BATCH)
    for rows in _slices(len(images), size):
        vectors[rows] = embed(images[rows])
    return vectors


def _rows(count: int, like: Tensor, memory: int) -> Tensor:
    """Room for `count` rows like those of (…, D): in memory up to `memory` bytes, else in a temporary file.

    The file, in the folder of temporary files, has no name any more and goes with the tensor.
    """
    size = count * like.shape[1] * like.element_size()
    if size <= memory:
        return like.new_empty(count, like.shape[1])
    with tempfile.TemporaryFile() as file:
        held = np.memmap(file, np.uint8, "w+", shape=size)
    return torch.from_numpy(held).view(like.dtype).view(count, -1)


def _block(a: Tensor, b: Tensor, sums: Tensor, same: bool) -> Tensor:
    """Compute distances of two blocks of vectors, or of half of them if the blocks are the `same`."""
    with _full_precision(a.device):
        block = torch.addmm(sums, a, b.T, alpha=-2)
    close = block <= CLOSE * sums
    if same:
        close = close.triu(1)
    for row in close.any(1).nonzero().flatten().tolist():
        columns = close[row].nonzero().flatten()
        block[row, columns] = b[columns].sub_(a[row]).square_().sum(1)
    if same:
        block = block.triu(1)
        block = block + block.T
    return block


@contextmanager
def _full_precision(device: torch.device) -> Iterator[None]:
    """Multiply in full: TF32 and bfloat16 would lose more digits than the rule above makes good."""
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("highest")
    try:
        with torch.autocast(device.type, enabled=False):
            yield
    finally:
        torch.set_float32_matmul_precision(before)


def _block_rows(dimensions: int, size: int, memory: int) -> int:
    """Fit vectors into a block, which takes 4 · rows · (dimensions + rows) numbers of `size` bytes."""
    numbers = memory // (8 * size)
    return max(1, numbers // max(dimensions, math.isqrt(numbers)))


def _slices(count: int, rows: int) -> list[slice]:
    return [slice(start, min(start + rows, count)) for start in range(0, count, rows)]
