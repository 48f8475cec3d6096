"""Images of judged items: decoded pixels in memory or in a store, or files that are decoded at each access.

All of them are `Images`: they know sizes and the SHA-256 of pixels, and give one image or a batch.
"""

import os
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from copy import copy
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

import fsspec
import numpy as np
import torch
from torch import Tensor

from perceptual.data.decode import pixel_digest, read_pixels, size_of
from perceptual.data.settings import Resize
from perceptual.data.workers import all_done
from perceptual.files.messages import first_few
from perceptual.files.progress import track

MEMORY_BUDGET = 2**30  # bytes of decoded uint8 pixels; about 87,000 images of 64×64
NO_SIDE = 64  # side of the images in a batch of none
_CHUNK = 64  # images per task of the thread pool: enough to hide its overhead, few enough for a smooth bar
_CHECKED = 2048  # images of a store that are checked at a time, for which it is mapped anew
_WORTH_PROCESSES = 2**33  # bytes of a store: less is checked before other processes have started
_QUIET_BELOW = 2000  # images that are checked in a second or two, in which a progress bar would only flicker


class Images(ABC):
    """M images, RGB.

    Attributes:
        sizes: (M, 2) int64, height and width of each.
        digests: (M, 32) uint8, SHA-256 of each image's pixels.
        resolution: side of squares that all are; else how images that differ are called, "native" or
            "shorter side 384".
        decodes: whether an access decodes a file.
        folder: of the store that they are mapped from, if they are.
    """

    sizes: np.ndarray
    resolution: int | str
    digests: np.ndarray
    decodes = False
    resize: Resize = "bilinear"  # by which they came to this resolution
    folder: Path | None = None

    def __len__(self) -> int:
        return len(self.sizes)

    @abstractmethod
    def one(self, index: int) -> Tensor:
        """(3, H, W) uint8; raises ValueError where it is checked and not what was read or packed."""

    def batch(self, index: Tensor) -> Tensor:
        """(N,) int64 → (N, 3, H, W) uint8, of images of one size."""
        images = [self.one(i) for i in index.tolist()]
        side = self.resolution if isinstance(self.resolution, int) else NO_SIDE
        return torch.stack(images) if images else torch.empty(0, 3, side, side, dtype=torch.uint8)

    def checked(self, index: Tensor) -> Tensor:
        """As `batch`; raises ValueError naming images that are not what their digests say."""
        return self.batch(index)

    @property
    def square(self) -> bool:
        """True if all images are squares of one size."""
        return isinstance(self.resolution, int)

    @property
    def read_ahead(self) -> bool:
        """True if threads should read batches: processes would each hold whole photographs, and pass them."""
        return self.decodes and not self.square

    @property
    def shape(self) -> list[int | None]:
        """3, then height and width where all images have the same; None where they keep theirs."""
        side = self.resolution if isinstance(self.resolution, int) else None
        return [3, side, side]

    def digests_of(self, which: np.ndarray) -> np.ndarray:
        """SHA-256 of the pixels of the images that an int64 array (N,) chooses, (N, 32) uint8."""
        chosen: np.ndarray = self.digests[which]
        return chosen

    def check(self, workers: int = 1) -> None:
        """Check the pixels of all images against their digests, with a progress bar.

        Args:
            workers: processes to do it in, where the images are those of a store on this disk.

        Raises:
            ValueError: naming the first that are not what was read or packed.
        """
        parts = [range(i, min(i + _CHUNK, len(self))) for i in range(0, len(self), _CHUNK)]
        all_done(
            lambda part: len(self.batch(torch.tensor(part))), [(p,) for p in parts], 1, "Checking images"
        )


class Pixels(Images):
    """Decoded images one after another, in memory or mapped from a store: processes share one copy of those.

    Args:
        flat: (B,) uint8: of each image (3, H, W).
        sizes: (M, 2) int64, height and width of each.
        resolution: see `Images`.
        digests: (M, 32) uint8; None: computed when they are needed.
    """

    def __init__(
        self, flat: Tensor, sizes: np.ndarray, resolution: int | str, digests: np.ndarray | None = None
    ) -> None:
        self.sizes, self.resolution = sizes, resolution
        self._given = flat
        if digests is not None:
            self.digests = digests

    @classmethod
    def squares(cls, pixels: Tensor) -> "Pixels":
        """Images in memory, (M, 3, S, S) uint8."""
        return cls(pixels.reshape(-1), _same_size(len(pixels), pixels.shape[-1]), pixels.shape[-1])

    @classmethod
    def mapped(cls, folder: Path, resolution: int | str | None = None) -> "Pixels":
        """Those of a store, mapped into memory.

        Args:
            folder: holds `digests.npy`, and `images.npy` (M, 3, S, S) or `sizes.npy` and `pixels.npy` (B,).
            resolution: see `Images`; None: the side of squares.

        Raises:
            ValueError: an array is not of this type or shape.
        """
        native = (folder / "sizes.npy").exists()
        flat = np.load(folder / ("pixels.npy" if native else "images.npy"), mmap_mode="r")
        if flat.dtype != np.uint8:
            raise ValueError(f"{'pixels' if native else 'images'} is of type {flat.dtype}")
        if native:
            sizes = np.load(folder / "sizes.npy")
            if sizes.dtype != np.int64 or sizes.ndim != 2 or sizes.shape[1] != 2 or (sizes < 1).any():
                raise ValueError("sizes does not hold heights and widths")
            if flat.shape != (total := int(3 * sizes.prod(1).sum()),):
                raise ValueError(f"pixels is {flat.shape}, not the {total:,} bytes of {len(sizes):,} sizes")
        else:
            if flat.ndim != 4 or flat.shape[1:] != (3, flat.shape[-1], flat.shape[-1]):
                raise ValueError(f"images is {flat.shape}, not (images, 3, side, side)")
            sizes = _same_size(len(flat), flat.shape[-1])
            resolution = flat.shape[-1]
        images = cls(
            torch.empty(0), sizes, resolution or "native", np.load(folder / "digests.npy", mmap_mode="r")
        )
        images.folder = folder
        return images

    def __reduce__(self) -> Any:
        # a spawned worker maps the file itself instead of receiving it
        if self.folder is not None:
            return Pixels.mapped, (self.folder, self.resolution)
        return Pixels, (self._given, self.sizes, self.resolution, self.__dict__.get("digests"))

    @cached_property
    def _flat(self) -> Tensor:
        if self.folder is None:
            return self._given
        name = "pixels.npy" if (self.folder / "sizes.npy").exists() else "images.npy"
        # copy-on-write: nothing writes to it, but torch warns about read-only arrays
        return torch.from_numpy(np.load(self.folder / name, mmap_mode="c").reshape(-1))

    @cached_property
    def _ends(self) -> np.ndarray:
        return np.cumsum(3 * self.sizes.prod(1))

    @cached_property
    def digests(self) -> np.ndarray:  # type: ignore[override]
        """SHA-256 of each image's pixels, (M, 32) uint8."""
        return self._computed(range(len(self)))

    def digests_of(self, which: np.ndarray) -> np.ndarray:
        """Those of the images that an int64 array (N,) chooses, (N, 32) uint8; no others are computed."""
        if "digests" in self.__dict__:
            return super().digests_of(which)
        distinct, number = np.unique(which, return_inverse=True)
        return self._computed(distinct.tolist())[number.reshape(-1)]

    def _computed(self, rows: Sequence[int]) -> np.ndarray:
        found = b"".join(pixel_digest(self.one(row).numpy()) for row in rows)
        return np.frombuffer(found, np.uint8).reshape(-1, 32)

    def one(self, index: int) -> Tensor:
        """(3, H, W) uint8, a view."""
        height, width = self.sizes[index].tolist()
        end = int(self._ends[index])
        return self._flat[end - 3 * height * width : end].view(3, height, width)

    def batch(self, index: Tensor) -> Tensor:
        """(N,) int64 → (N, 3, H, W) uint8, of images of one size."""
        if not isinstance(self.resolution, int):
            return super().batch(index)
        # copies whole images, ten times faster than indexing
        return self._flat.view(-1, 3, self.resolution, self.resolution).index_select(0, index)

    def checked(self, index: Tensor) -> Tensor:
        """As `batch`, of images that are what was packed; those in memory were read by this process."""
        if self.folder is not None:
            self._refuse(self.damaged(index.tolist()))
        return self.batch(index)

    def check(self, workers: int = 1) -> None:
        """Check the pixels of a store, by several processes where there are many; see `Images.check`."""
        if self.folder is None:
            return
        tasks = [(self, range(i, min(i + _CHECKED, len(self)))) for i in range(0, len(self), _CHECKED)]
        processes = workers if 3 * self.sizes.prod(1).sum() >= _WORTH_PROCESSES else 1
        found = all_done(_damaged_part, tasks, processes, "Checking images")
        self._refuse([row for rows in found for row in rows])

    def damaged(self, rows: Iterable[int]) -> list[int]:
        """Return the rows of images that are not what was packed."""
        return [row for row in rows if pixel_digest(self.one(row).numpy()) != self.digests[row].tobytes()]

    def _refuse(self, damaged: list[int]) -> None:
        if damaged:
            raise ValueError(
                f"{len(damaged):,} of {len(self):,} images in {self.folder} are not what was packed: "
                f"{first_few(map(str, damaged))}"
            )


def _damaged_part(images: Pixels, rows: range) -> list[int]:
    # mapped anew for each part: pages that stay mapped count as memory of this process
    return copy(images).damaged(rows)


class Stretch(NamedTuple):
    """A file of images of one shape, at equal distances."""

    path: str  # or URL
    images: int
    start: int  # byte of the first image
    stride: int  # bytes from one image to the next


class Ranges(Images):
    """Squares read by byte ranges of files: of a store on object storage, or of its shards.

    Args:
        parts: the files, one after the other.
        size: side S of the images.
        digests: (M, 32) uint8, SHA-256 of each image's pixels.
    """

    def __init__(self, parts: list[Stretch], size: int, digests: np.ndarray) -> None:
        self.parts, self.resolution, self.digests = parts, size, digests
        self.ends = np.cumsum([part.images for part in parts])
        self.sizes = _same_size(int(self.ends[-1]) if parts else 0, size)
        self._files: tuple[int, Any] = (-1, None)

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_files": (-1, None)}  # connections are of one process

    def one(self, index: int) -> Tensor:
        """(3, S, S) uint8; raises as `batch`."""
        return self.batch(torch.tensor([index]))[0]

    def batch(self, index: Tensor) -> Tensor:
        """(N,) int64 → (N, 3, S, S) uint8.

        Raises:
            ValueError: a file is missing, cut short or damaged, or cannot be reached; names it.
        """
        rows, place = np.unique(index.numpy(), return_inverse=True)
        side = self.sizes[0, 0] if len(self) else NO_SIDE
        length = int(3 * side**2)
        which = np.searchsorted(self.ends, rows, side="right")
        paths, starts = [], []
        for row, number in zip(rows.tolist(), which.tolist(), strict=True):
            part = self.parts[number]
            paths.append(part.path)
            starts.append(part.start + (row - int(self.ends[number]) + part.images) * part.stride)
        # all at once: latency, not the number of bytes, is what a request costs
        ends = [start + length for start in starts]
        found = self._open().cat_ranges(paths, starts, ends, on_error="return") if paths else []
        pixels = np.empty((len(rows), length), np.uint8)
        for row, content in enumerate(found):
            if not isinstance(content, bytes) or len(content) != length:
                said = "is missing" if isinstance(content, FileNotFoundError) else "cannot be read"
                raise ValueError(
                    f"{paths[row]} {said}: {content if len(str(content)) < 200 else 'cut short'}"
                )
            pixels[row] = np.frombuffer(content, np.uint8)
            if pixel_digest(pixels[row]) != self.digests[rows[row]].tobytes():
                raise ValueError(f"image {rows[row]:,}, in {paths[row]}, is not what was packed")
        return torch.from_numpy(pixels.reshape(-1, 3, side, side)[place])

    def _open(self) -> Any:
        if self._files[0] != os.getpid():  # a forked worker needs connections of its own
            self._files = (os.getpid(), fsspec.core.url_to_fs(self.parts[0].path)[0])
        return self._files[1]


class Files(Images):
    """Images on disk, decoded and resized at each access; one that has changed is a ValueError.

    Args:
        paths: image files, M of them.
        sizes: (M, 2) int64, height and width of each.
        resolution: see `Images`.
        digests: (M, 32) uint8, SHA-256 of each image's pixels.
        shorter_side, resize: see `read_pixels`.
    """

    decodes = True

    def __init__(
        self,
        paths: Sequence[str],
        sizes: np.ndarray,
        resolution: int | str,
        digests: np.ndarray,
        shorter_side: int | None = None,
        resize: Resize = "bilinear",
    ) -> None:
        self.paths, self.sizes, self.resolution = paths, sizes, resolution
        self.digests, self.shorter_side, self.resize = digests, shorter_side, resize

    def one(self, index: int) -> Tensor:
        """(3, H, W) uint8, decoded."""
        pixels = read_pixels(self.paths[index], self.shape[-1], self.shorter_side, self.resize)
        if pixel_digest(pixels) != self.digests[index].tobytes():
            raise ValueError(f"{self.paths[index]} (changed since it was read first)")
        return torch.from_numpy(pixels)


def _same_size(count: int, side: int) -> np.ndarray:
    return np.full((count, 2), side, np.int64)


def resolution_of(size: int | None, shorter_side: int | None) -> int | str:
    """Return the `resolution` of images that are opened with these."""
    return size or ("native" if shorter_side is None else f"shorter side {shorter_side}")


def as_floats(pixels: Tensor) -> Tensor:
    """uint8 as float32 in [0, 1]."""
    # NumPy converts and divides in one pass, on large pages: half the time of torch's two passes
    return torch.from_numpy(np.divide(pixels.numpy(), np.float32(255), dtype=np.float32))


def crops(images: Images, index: Tensor, place: Tensor, side: int) -> Tensor:
    """Squares of the images that an int64 tensor (N,) chooses, (N, 3, side, side) float32, RGB in [0, 1].

    Args:
        images: of any sizes that are large enough.
        index: (N,).
        place: (N, 2) int64 of at least 0, random: which rows and columns.
        side: of the squares.
    """
    found = torch.empty(len(index), 3, side, side, dtype=torch.uint8)
    for row, (i, (y, x)) in enumerate(zip(index.tolist(), place.tolist(), strict=True)):
        pixels = images.one(i)
        top, left = y % (pixels.shape[1] - side + 1), x % (pixels.shape[2] - side + 1)
        found[row] = pixels[:, top : top + side, left : left + side]
    return as_floats(found)


def open_images(
    paths: Sequence[str], size: int | None, shorter_side: int | None = None, resize: Resize = "bilinear"
) -> Images:
    """Decode every file once, before anything is trained on it.

    If all of them fit `MEMORY_BUDGET` as uint8 they are kept in memory; otherwise they are read again at each
    access.

    Args:
        paths: distinct image files, M of them.
        size: side S of the square they are resized to; None: they keep their sizes.
        shorter_side, resize: see `read_pixels`.

    Raises:
        UnusableImages: files cannot be used, see `read_pixels`; names the first and counts all.
    """
    digests = np.empty((len(paths), 32), np.uint8)
    sizes, problems = sizes_of(paths, size, shorter_side)
    if problems:
        raise UnusableImages(problems, len(paths))
    ends = np.cumsum(3 * sizes.prod(1))
    total = int(ends[-1]) if len(ends) else 0
    flat = np.empty(total, np.uint8) if total <= MEMORY_BUDGET else None

    def read(row: int) -> None:
        pixels = read_pixels(paths[row], size, shorter_side, resize)
        # of squares in memory, only when they are needed
        if size is None or flat is None:
            digests[row] = np.frombuffer(pixel_digest(pixels), np.uint8)
        if flat is not None:
            flat[ends[row] - pixels.size : ends[row]] = pixels.ravel()

    if problems := _problems(paths, read):
        raise UnusableImages(problems, len(paths))
    resolution = resolution_of(size, shorter_side)
    if flat is None:
        return Files(paths, sizes, resolution, digests, shorter_side, resize)
    images = Pixels(torch.from_numpy(flat), sizes, resolution, digests if size is None else None)
    images.resize = resize
    return images


class UnusableImages(ValueError):
    """Images that cannot be used; `problems` names each of them with the reason."""

    def __init__(self, problems: dict[int, str], total: int) -> None:
        self.problems = list(problems.values())
        super().__init__(f"{len(problems):,} of {total:,} images cannot be used: {first_few(self.problems)}")


def sizes_of(
    paths: Sequence[str], size: int | None, shorter_side: int | None
) -> tuple[np.ndarray, dict[int, str]]:
    """Height and width of each image, (M, 2), as headers say, and what is wrong with which of them.

    Nothing is read where all become squares of one size.
    """
    sizes = _same_size(len(paths), size or 1)  # what cannot be measured takes next to no room

    def measure(row: int) -> None:
        sizes[row] = size_of(paths[row], shorter_side)

    return sizes, _problems(paths, measure) if size is None else {}


def _problems(paths: Sequence[str], work: Callable[[int], None]) -> dict[int, str]:
    """Do the work for every row of `paths`, by several threads; returns what is wrong with which."""

    def check(rows: range) -> dict[int, str]:
        found = {}
        for row in rows:
            try:
                work(row)
            except ValueError as error:
                found[row] = str(error)
        return found

    chunks = [range(start, min(start + _CHUNK, len(paths))) for start in range(0, len(paths), _CHUNK)]
    with ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as pool:  # Pillow decodes without holding the GIL
        checked = pool.map(check, chunks)
        shown = checked if len(paths) < _QUIET_BELOW else track(checked, "Checking images", len(chunks))
        return {row: problem for chunk in shown for row, problem in chunk.items()}
