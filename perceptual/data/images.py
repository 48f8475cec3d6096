"""Images for batches: checked before training, then kept in memory if they fit, else read per batch.

`Images` are a uint8 tensor (M, 3, S, S), files, the mapped array of a packed store, or images in their own
sizes (`perceptual.data.native`); `read_batch` makes the same batches of all of them.
"""

import os
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from copy import copy
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from perceptual.data.decode import first_few, pixel_digest, read_pixels, read_unchanged, size_of
from perceptual.data.native import NativeFiles, NativeImages
from perceptual.data.progress import track
from perceptual.data.ranged import RangedImages
from perceptual.data.workers import each_done

MEMORY_BUDGET = 2**30  # bytes of decoded uint8 pixels; about 87,000 images of 64×64
_CHUNK = 64  # images per task of the thread pool: enough to hide its overhead, few enough for a smooth bar
_CHECKED = 2048  # images of a store that are checked at a time, for which it is mapped anew
_WORTH_PROCESSES = 2**33  # bytes of a store: less is checked before other processes have started
_QUIET_BELOW = (
    2000  # images; fewer are checked in a second or two, in which a progress bar would only flicker
)


class ImageFiles:
    """Images on disk, decoded and resized at each access; one that has changed is a ValueError.

    Args:
        paths: image files, M of them.
        size: side S of the square they are resized to (PIL bilinear, antialiased).
        digests: (M, 32) uint8, SHA-256 of each image's pixels.
    """

    def __init__(self, paths: Sequence[str], size: int, digests: np.ndarray) -> None:
        self.paths = paths
        self.shape = (len(paths), 3, size, size)
        self.digests = digests

    def __getitem__(self, index: Tensor) -> Tensor:
        """(N,) int64 → (N, 3, S, S) uint8, RGB."""
        pixels = np.empty((len(index), *self.shape[1:]), np.uint8)
        for row, i in enumerate(index.tolist()):
            pixels[row] = read_unchanged(self.paths[i], self.digests[i], self.shape[-1])
        return torch.from_numpy(pixels)


class MappedImages:
    """Images of a packed store, mapped into memory: processes share one copy, in the page cache.

    Args:
        folder: holds `images.npy`, (M, 3, S, S) uint8, and `digests.npy`, (M, 32) uint8.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.shape = tuple(self._pixels.shape)
        if self._pixels.dtype != torch.uint8:
            raise ValueError(f"images is of type {self._pixels.dtype}")
        self.digests: np.ndarray = np.load(folder / "digests.npy", mmap_mode="r")

    @cached_property
    def _pixels(self) -> Tensor:
        # copy-on-write: nothing writes to it, but torch warns about read-only arrays
        return torch.from_numpy(np.load(self.folder / "images.npy", mmap_mode="c"))

    def __getstate__(self) -> dict[str, Any]:
        return {"folder": self.folder}  # a spawned worker maps the file itself instead of receiving it

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__init__(state["folder"])  # type: ignore[misc]

    def __getitem__(self, index: Tensor) -> Tensor:
        """(N,) int64 → (N, 3, S, S) uint8, RGB."""
        return self._pixels.index_select(0, index)

    def one(self, index: int) -> Tensor:
        """(3, S, S) uint8, a view."""
        return self._pixels[index]


Images = Tensor | ImageFiles | MappedImages | RangedImages | NativeImages | NativeFiles
ON_DISK = (ImageFiles, NativeFiles)  # decoded at each access


def read_batch(images: Images, index: Tensor) -> Tensor:
    """The images that an int64 tensor (N,) chooses, (N, 3, H, W) float32, RGB in [0, 1]; all of one size."""
    # index_select copies whole images, ten times faster than indexing
    pixels = images.index_select(0, index) if isinstance(images, Tensor) else images[index]
    return as_floats(pixels)


def read_checked(images: Images, index: Tensor) -> Tensor:
    """As `read_batch`, of images that are what their digests say; raises as `check_images`."""
    if isinstance(images, (MappedImages, NativeImages)):
        _refuse(images, _damaged(images, index.tolist()))
    return read_batch(images, index)  # files are checked as they are read


def check_images(images: Images, workers: int = 1) -> None:
    """Check the pixels of all images against their digests, with a progress bar.

    Args:
        images: any; those in memory as one tensor have no digests.
        workers: processes to do it in, where the images are those of a store on this disk.

    Raises:
        ValueError: naming the first that are not what was read or packed.
    """
    if isinstance(images, Tensor):
        return
    if not isinstance(images, (MappedImages, NativeImages)):
        parts = [range(i, min(i + _CHUNK, images.shape[0])) for i in range(0, images.shape[0], _CHUNK)]
        for _ in each_done(
            lambda part: images[torch.tensor(part)], [(p,) for p in parts], 1, "Checking images"
        ):
            pass
        return
    count = images.shape[0]
    tasks = [(images, range(i, min(i + _CHECKED, count))) for i in range(0, count, _CHECKED)]
    processes = workers if 3 * sizes_of(images).prod(1).sum() >= _WORTH_PROCESSES else 1
    found = each_done(_damaged_part, tasks, processes, "Checking images")
    _refuse(images, sorted(row for _, rows in found for row in rows))


def _damaged_part(images: MappedImages | NativeImages, rows: range) -> list[int]:
    # mapped anew for each part: pages that stay mapped count as memory of this process
    return _damaged(copy(images), rows)


def _damaged(images: MappedImages | NativeImages, rows: Iterable[int]) -> list[int]:
    return [row for row in rows if pixel_digest(images.one(row).numpy()) != images.digests[row].tobytes()]


def _refuse(images: MappedImages | NativeImages, damaged: list[int]) -> None:
    if damaged:
        of = f" in {images.folder}" if images.folder else ""
        raise ValueError(
            f"{len(damaged):,} of {images.shape[0]:,} images{of} are not what was packed: "
            f"{first_few(map(str, damaged))}"
        )


def read_crops(images: Images, index: Tensor, place: Tensor, side: int) -> Tensor:
    """Squares of the images that an int64 tensor (N,) chooses, (N, 3, side, side) float32, RGB in [0, 1].

    Args:
        images: of any sizes that are large enough.
        index: (N,).
        place: (N, 2) int64 of at least 0, random: which rows and columns.
        side: of the squares.
    """
    crops = torch.empty(len(index), 3, side, side, dtype=torch.uint8)
    for row, (i, (y, x)) in enumerate(zip(index.tolist(), place.tolist(), strict=True)):
        pixels = read_one(images, i)
        top, left = y % (pixels.shape[1] - side + 1), x % (pixels.shape[2] - side + 1)
        crops[row] = pixels[:, top : top + side, left : left + side]
    return as_floats(crops)


def read_one(images: Images, index: int) -> Tensor:
    """One image, (3, H, W) uint8."""
    if isinstance(images, (NativeImages, NativeFiles)):
        return images.one(index)
    pixels: Tensor = images[index] if isinstance(images, Tensor) else images[torch.tensor([index])][0]
    return pixels


def sizes_of(images: Images) -> np.ndarray:
    """Height and width of each image, (M, 2) int64."""
    if isinstance(images, (NativeImages, NativeFiles)):
        return images.sizes
    return np.tile(np.array(images.shape[-2:], np.int64), (images.shape[0], 1))


def as_floats(pixels: Tensor) -> Tensor:
    """uint8 as float32 in [0, 1]."""
    # NumPy converts and divides in one pass, on large pages: half the time of torch's two passes
    return torch.from_numpy(np.divide(pixels.numpy(), np.float32(255), dtype=np.float32))


def image_digests(images: Images, which: np.ndarray) -> np.ndarray:
    """SHA-256 of the pixels of the images that an int64 array (N,) chooses, (N, 32) uint8."""
    if not isinstance(images, Tensor):
        return images.digests[which]
    distinct, number = np.unique(which, return_inverse=True)
    pixels = images.numpy()
    digests = b"".join(pixel_digest(pixels[i]) for i in distinct)
    return np.frombuffer(digests, np.uint8).reshape(-1, 32)[number]


def open_images(paths: Sequence[str], size: int | None, shorter_side: int | None = None) -> Images:
    """Decode every file once, before anything is trained on it.

    If all of them fit `MEMORY_BUDGET` as uint8 they are kept in one tensor; otherwise they are read again at
    each access.

    Args:
        paths: distinct image files, M of them.
        size: side S of the square they are resized to; None: they keep their sizes.
        shorter_side: see `read_pixels`.

    Raises:
        ValueError: files cannot be used, see `read_pixels`; names the first and counts all.
    """
    digests = np.empty((len(paths), 32), np.uint8)
    if size is not None:
        fits = len(paths) * 3 * size**2 <= MEMORY_BUDGET
        kept = np.empty((len(paths), 3, size, size), np.uint8) if fits else None

        def keep(row: int) -> None:
            pixels = read_pixels(paths[row], size)
            if kept is None:
                digests[row] = np.frombuffer(pixel_digest(pixels), np.uint8)
            else:
                kept[row] = pixels

        _check_each(paths, keep)
        return ImageFiles(paths, size, digests) if kept is None else torch.from_numpy(kept)
    sizes = np.zeros((len(paths), 2), np.int64)

    def measure(row: int) -> None:
        sizes[row] = size_of(paths[row], shorter_side)

    _check_each(paths, measure)
    ends = np.cumsum(3 * sizes.prod(1))
    flat = np.empty(ends[-1], np.uint8) if len(ends) and ends[-1] <= MEMORY_BUDGET else None

    def read(row: int) -> None:
        pixels = read_pixels(paths[row], None, shorter_side)
        digests[row] = np.frombuffer(pixel_digest(pixels), np.uint8)
        if flat is not None:
            flat[ends[row] - pixels.size : ends[row]] = pixels.ravel()

    _check_each(paths, read)
    if flat is None:
        return NativeFiles(paths, sizes, digests, shorter_side)
    return NativeImages(torch.from_numpy(flat), sizes, digests, shorter_side)


def _check_each(paths: Sequence[str], work: Callable[[int], None]) -> None:
    """Do the work for every row of `paths`, by several threads, and raise what is wrong with which files."""

    def check(rows: range) -> list[str]:
        return [problem for row in rows if (problem := _problem(work, row))]

    chunks = [range(start, min(start + _CHUNK, len(paths))) for start in range(0, len(paths), _CHUNK)]
    with ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as pool:  # Pillow decodes without holding the GIL
        checked = pool.map(check, chunks)
        found = checked if len(paths) < _QUIET_BELOW else track(checked, "Checking images", len(chunks))
        problems = [problem for chunk in found for problem in chunk]
    if problems:
        raise ValueError(f"{len(problems):,} of {len(paths):,} images cannot be used: {first_few(problems)}")


def _problem(work: Callable[[int], None], row: int) -> str | None:
    try:
        work(row)
    except ValueError as error:
        return str(error)
    return None
