"""Large images in a budget of memory: feature maps in tiles, exactly those of the whole.

A tile begins at a multiple of the network's total stride and leaves the same remainder of it as the whole, so
that strides, paddings and odd sizes act in it as they do there; it sees the receptive field of what is kept
of it, and a border only where the image has one. What reaches how far is found by trying: pixels that are not
numbers make all that depends on them not a number. For a gradient each tile is computed once more.
"""

import math
import os
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Literal, NamedTuple

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from perceptual.features.backbone import PATCH, Backbone, is_transformed

Memory = float | Literal["auto"] | None
SMALL = 8192  # bytes per pixel, more than most networks take: where that fits, nothing is tried
WORK = 3  # of the largest map within a network, at once
STEP = 192  # pixels by which a network is tried, a multiple of the strides that there are
ONLY = "so it cannot be cut: only convolutional networks can"
REACH = 16 * STEP  # the longest receptive field
DIGITS = {torch.float32: 1e-4, torch.float64: 1e-8}  # of the largest feature; 0.05 in half precision


class Part(NamedTuple):
    """Part of an axis of images: what the network sees, and what is kept of the maps of each level."""

    seen: slice
    kept: list[slice]
    """Within the maps of what is seen."""
    whole: list[slice]
    """The same within the maps of the whole."""


class Tile(NamedTuple):
    """A part of some items of a batch."""

    items: slice
    rows: Part
    columns: Part

    def item(self, batch: Tensor) -> Tensor:
        """Cut its items out of a batch (N, …), or one for all (1, …)."""
        return batch[self.items] if batch.shape[0] > 1 else batch

    def kept(self, level: int, maps: Tensor) -> Tensor:
        """Cut out of maps (…, h, w) of the tile what is kept of them."""
        return maps[..., self.rows.kept[level], self.columns.kept[level]]

    def of(self, level: int, maps: Tensor) -> Tensor:
        """Cut the same out of maps (…, h, w) of the whole."""
        return maps[..., self.rows.whole[level], self.columns.whole[level]]


class Cut(NamedTuple):
    """Where images are cut."""

    items: int
    """That go together."""
    rows: list[Part]
    columns: list[Part]
    sizes: list[tuple[int, int]] | None
    """Of the maps of the whole; None if they are not cut."""

    def join(self, compute: Callable[..., list[Tensor]], images: Sequence[Tensor]) -> list[Tensor]:
        """Compute something of each tile, and put it side by side.

        Args:
            compute: (tile, *its images) → for each level (K, n, …, h, w).
            images: batches (N, 3, H, W), some of them perhaps of one image for all.

        Returns:
            for each level (K, N, …, h, w).
        """
        count, found = max(image.shape[0] for image in images), []
        for first in range(0, count, self.items):
            items, bands = slice(first, first + self.items), []
            some = [image.expand(count, -1, -1, -1)[items] for image in images]
            for rows in self.rows:
                band, row = [image[:, :, rows.seen] for image in some], []
                for columns in self.columns:
                    arguments = Tile(items, rows, columns), *(image[..., columns.seen] for image in band)
                    if torch.is_grad_enabled():
                        row.append(checkpoint(compute, *arguments, use_reentrant=False))
                    else:
                        row.append(compute(*arguments))
                bands.append(_joined(row, -1))
            found.append(_joined(bands, -2))
        return _joined(found, 1)


def cut(backbone: Backbone, images: Sequence[Tensor], memory: float | Literal["auto"]) -> Cut | None:
    """Find tiles of which a budget holds the features.

    Args:
        backbone: the network.
        images: batches (N, 3, H, W) that are compared, some of them perhaps of one image for all.
        memory: bytes for features; or `auto`, a quarter of what is free.

    Returns:
        None where images are taken whole: they fit, the network resizes them, a transform of functions is at
        work, or with `auto` the network cannot be cut.

    Raises:
        ValueError: the network cannot be cut, or one tile takes more than the budget.
    """
    if backbone.input_size or is_transformed() or torch.compiler.is_compiling():
        return None
    budget = _free(images[0].device) / 4 if memory == "auto" else memory
    (height, width), count = images[0].shape[2:], max(image.shape[0] for image in images)
    if SMALL * height * width * len(images) * count <= budget:
        return None
    size = _bytes(backbone, images)
    pixels = int(budget / size)
    if (items := pixels // (height * width)) >= count:
        return None
    if items:
        whole = Part(slice(None), *2 * [[slice(None)] * len(backbone.channels)])
        return Cut(items, [whole], [whole], None)
    try:
        down, along = (_axis(backbone, *of) for of in ((height, 2), (width, 3)))
        if (least := down.least * along.least) > pixels:
            raise _CannotCutError(
                f"{backbone.name} needs tiles of {down.least}×{along.least} pixels, "
                f"which take {least * size:.3g} bytes"
            )
    except _CannotCutError as error:
        if memory == "auto":
            return None
        raise ValueError(
            f"images of {height}×{width} pixels do not fit memory={memory:.3g}, and {error}"
        ) from error
    tall = max(min(height, math.isqrt(pixels)), down.least)
    wide = max(pixels // tall, along.least)
    sizes = list(zip(down.sizes, along.sizes, strict=True))
    return Cut(1, down.parts(pixels // wide), along.parts(wide), sizes)


def check(memory: Memory) -> None:
    """Refuse a budget that is none.

    Raises:
        ValueError: it is not positive.
    """
    if memory not in (None, "auto") and not (isinstance(memory, float | int) and memory > 0):
        raise ValueError(f"memory must be a positive number of bytes, 'auto' or None, got {memory!r}")


class _CannotCutError(Exception):
    """Says why."""


class _Axis(NamedTuple):
    """What the levels of a network see along one axis of images."""

    name: str
    size: int
    sizes: list[int]
    """Of the maps."""
    strides: list[int]
    before: int
    """Pixels that any level sees in front of that of its position."""
    after: int

    @property
    def total(self) -> int:
        return math.lcm(*self.strides)

    @property
    def least(self) -> int:
        """Pixels of the smallest part."""
        return min(self.size, _up(self.before, self.total) + self.after + 1 + 2 * self.total)

    def parts(self, most: int) -> list[Part]:
        """Cut it so that no more than `most` pixels are seen at once."""
        if self.size <= most:
            return [Part(slice(None), *2 * [[slice(0, size) for size in self.sizes]])]
        total, rest = self.total, self.size % self.total
        before = _up(self.before, total)
        step = (most - before - self.after - 1) // total * total - total
        step = _up(math.ceil(self.size / math.ceil(self.size / step)), total)
        parts = []
        for first in range(0, self.size, step):
            last, start = first + step, max(first - before, 0)
            stop = min(start + _up(last + self.after + 1 - start - rest, total) + rest, self.size)
            kept, whole = [], []
            for size, stride in zip(self.sizes, self.strides, strict=True):
                end = size if last >= self.size else min(last // stride, size)
                begin = min(first // stride, end)
                whole.append(slice(begin, end))
                kept.append(slice(begin - start // stride, end - start // stride))
            parts.append(Part(slice(start, stop), kept, whole))
        return parts


def _axis(backbone: Backbone, size: int, dim: int) -> _Axis:
    """Try how far the levels see along an axis, and that this is the same everywhere.

    Raises:
        _CannotCutError: they see all of it, or not the same everywhere.
    """
    name = backbone.name

    @torch.inference_mode(False)
    @torch.no_grad()
    def maps(image: Tensor) -> list[Tensor]:
        return [m.transpose(2, dim) for m in backbone(image.transpose(2, dim))]

    def blank(length: int) -> Tensor:
        return backbone.mean.new_zeros(1, 3, length, PATCH)

    short, long = ([m.shape[2] for m in maps(blank(length))] for length in (STEP, 2 * STEP))
    steps = [more - few for few, more in zip(short, long, strict=True)]
    for level, step in zip(backbone.out_indices, steps, strict=True):
        if step <= 0 or STEP % step:
            raise _CannotCutError(f"the level {level} of {name} has no map that grows with images, {ONLY}")
    strides = [STEP // step for step in steps]
    total, length = math.lcm(*strides), 2 * STEP
    while True:
        image = blank(length + size % total)
        if image.shape[2] >= size:  # it is seen whole
            return _Axis(name, size, [m.shape[2] for m in maps(blank(size))], strides, size, size)
        image[:, :, (middle := length // 2)] = torch.nan
        found = maps(image)
        reached = [m.isnan().any(3).any(1)[0].nonzero().flatten().tolist() for m in found]
        inside = [
            bool(rows) and rows[0] > 0 and rows[-1] < m.shape[2] - 1
            for rows, m in zip(reached, found, strict=True)
        ]
        if all(inside):
            break
        if (length := 2 * length) > REACH:
            level = backbone.out_indices[inside.index(False)]
            raise _CannotCutError(f"the level {level} of {name} sees more than {REACH // 2} pixels, {ONLY}")
    ends = list(zip(strides, reached, strict=True))
    before = max(0, *(stride * (rows[-1] + 1) - middle - 1 for stride, rows in ends))
    after = max(0, *(middle - stride * (rows[0] - 1) - 1 for stride, rows in ends))
    sizes = [
        len(m[0, 0]) + (size - image.shape[2]) // stride for m, stride in zip(found, strides, strict=True)
    ]
    axis = _Axis(name, size, sizes, strides, before, after)
    _check(axis, maps, backbone.mean)
    return axis


def _check(axis: _Axis, maps: Callable[[Tensor], list[Tensor]], like: Tensor) -> None:
    """Compare maps of noise in tiles with those of the whole: a network may know positions, or hide NaN.

    Raises:
        _CannotCutError: they differ.
    """
    total = axis.total
    length = _up(axis.before + axis.after, total) + 6 * total + axis.size % total
    sizes = [
        size - (axis.size - length) // stride for size, stride in zip(axis.sizes, axis.strides, strict=True)
    ]
    noise = torch.rand(1, 3, length, PATCH, generator=torch.Generator().manual_seed(0)).to(like)
    whole = maps(noise)
    for part in axis._replace(size=length, sizes=sizes).parts(length - 1):
        for level, (found, expected) in enumerate(zip(maps(noise[:, :, part.seen]), whole, strict=True)):
            difference = found[:, :, part.kept[level]] - expected[:, :, part.whole[level]]
            limit = DIGITS.get(found.dtype, 0.05) * expected.abs().max()
            if difference.numel() and difference.abs().max() > limit:
                raise _CannotCutError(f"{axis.name} depends on where in an image it looks, {ONLY}")


def _bytes(backbone: Backbone, images: Sequence[Tensor]) -> float:
    """Bytes per pixel that features of images take, with what a gradient needs of those that have one."""
    kept: dict[int, int] = {}

    def note(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.inference_mode(False), torch.enable_grad():
        image = torch.zeros_like(backbone.mean).expand(1, 3, PATCH, PATCH).requires_grad_()
        with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
            found = backbone(image)
    maps = sum(m.untyped_storage().nbytes() for m in found)
    for m in found:
        note(m)
    for weight in (*backbone.parameters(), *backbone.buffers()):
        kept.pop(weight.untyped_storage().data_ptr(), None)
    moving = [image.requires_grad or not backbone.frozen for image in images if torch.is_grad_enabled()]
    size = len(images) * maps + sum(moving) * sum(kept.values()) + WORK * max(kept.values())
    return size / PATCH**2


def _free(device: torch.device) -> float:
    """Bytes that are free."""
    if device.type == "cuda":
        held = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
        return torch.cuda.mem_get_info(device)[0] + held
    with suppress(OSError, StopIteration):  # Linux
        lines = Path("/proc/meminfo").read_text(encoding="utf-8").splitlines()
        return 1024 * int(next(line for line in lines if line.startswith("MemAvailable")).split()[1])
    return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") / 2


def _up(number: int, step: int) -> int:
    """Round up to a multiple."""
    return -(-number // step) * step


def _joined(parts: Sequence[Sequence[Tensor]], axis: int) -> list[Tensor]:
    return [torch.cat(level, axis) for level in zip(*parts, strict=True)]
