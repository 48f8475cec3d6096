"""Images in their own sizes: files, or all pixels one after another in memory or in a packed store."""

from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from perceptual.data.decode import first_few, read_unchanged

NO_SIDE = 64  # side of the images in a batch of none


class NativeImages:
    """Images in their own sizes, all pixels one after another.

    Args:
        pixels: (B,) uint8: of each image (3, H, W), RGB.
        sizes: (M, 2) int64, height and width of each.
        digests: (M, 32) uint8, SHA-256 of each image's pixels.
        shorter_side: pixels that the shorter side of each was resized to; None: as they are.
    """

    folder: Path | None = None

    def __init__(
        self, pixels: Tensor, sizes: np.ndarray, digests: np.ndarray, shorter_side: int | None = None
    ) -> None:
        self.sizes, self.digests, self.shorter_side = sizes, digests, shorter_side
        self._ends = np.cumsum(3 * sizes.prod(1))
        self.shape = (len(sizes), 3, None, None)
        self.resolution = resolution(shorter_side)
        self._given: Tensor | None = pixels

    @classmethod
    def mapped(cls, folder: Path, shorter_side: int | None) -> "NativeImages":
        """Those of a store, mapped into memory: `pixels.npy`, `sizes.npy` and `digests.npy` in `folder`."""
        sizes, digests = np.load(folder / "sizes.npy"), np.load(folder / "digests.npy", mmap_mode="r")
        if sizes.dtype != np.int64 or sizes.ndim != 2 or sizes.shape[1] != 2 or (sizes < 1).any():
            raise ValueError("sizes does not hold heights and widths")
        images = cls(torch.empty(0, dtype=torch.uint8), sizes, digests, shorter_side)
        images.folder, images._given = folder, None
        if images.pixels.dtype != torch.uint8 or images.pixels.ndim != 1:
            raise ValueError(f"pixels is of type {images.pixels.dtype}, {images.pixels.ndim} axes")
        if len(images.pixels) != (images._ends[-1] if len(sizes) else 0):
            raise ValueError(f"pixels has {len(images.pixels):,} bytes, not those of {len(sizes):,} sizes")
        return images

    @cached_property
    def pixels(self) -> Tensor:
        """(B,) uint8."""
        if self._given is not None:
            return self._given
        assert self.folder is not None
        # copy-on-write: nothing writes to it, but torch warns about read-only arrays
        return torch.from_numpy(np.load(self.folder / "pixels.npy", mmap_mode="c"))

    def __reduce__(self) -> Any:
        # a spawned worker maps the file itself instead of receiving it
        if self.folder is not None:
            return NativeImages.mapped, (self.folder, self.shorter_side)
        return NativeImages, (self.pixels, self.sizes, self.digests, self.shorter_side)

    def one(self, index: int) -> Tensor:
        """(3, H, W) uint8, a view."""
        height, width = self.sizes[index].tolist()
        end = int(self._ends[index])
        return self.pixels[end - 3 * height * width : end].view(3, height, width)

    def __getitem__(self, index: Tensor) -> Tensor:
        """(N,) int64 → (N, 3, H, W) uint8, RGB, of images of one size."""
        return _stacked([self.one(i) for i in index.tolist()])


class NativeFiles:
    """Images on disk in their own sizes, decoded at each access; one that has changed is a ValueError.

    Args:
        paths: image files, M of them.
        sizes: (M, 2) int64, height and width of each.
        digests: (M, 32) uint8, SHA-256 of each image's pixels.
        shorter_side: pixels to resize the shorter side to; None: as they are.
    """

    def __init__(
        self,
        paths: Sequence[str],
        sizes: np.ndarray,
        digests: np.ndarray,
        shorter_side: int | None = None,
    ) -> None:
        self.paths, self.sizes, self.digests, self.shorter_side = paths, sizes, digests, shorter_side
        self.shape = (len(paths), 3, None, None)
        self.resolution = resolution(shorter_side)

    def one(self, index: int) -> Tensor:
        """(3, H, W) uint8."""
        path, digest = self.paths[index], self.digests[index]
        return torch.from_numpy(read_unchanged(path, digest, None, self.shorter_side))

    def __getitem__(self, index: Tensor) -> Tensor:
        """(N,) int64 → (N, 3, H, W) uint8, RGB, of images of one size."""
        return _stacked([self.one(i) for i in index.tolist()])


def resolution(shorter_side: int | None) -> str:
    """How the sizes of images that differ are called."""
    return "native" if shorter_side is None else f"shorter side {shorter_side}"


def check_alike(roles: Sequence[str], items: np.ndarray, sizes: np.ndarray, paths: Sequence[str]) -> None:
    """Refuse items whose images differ in size.

    Args:
        roles: what the rows of `items` are called.
        items: (roles, N) int64, indices of images.
        sizes: (M, 2), height and width of each image.
        paths: files of the images; empty: not known.

    Raises:
        ValueError: naming the first few items.
    """
    of_items = sizes[items]
    wrong = np.flatnonzero((of_items != of_items[:1]).any(axis=(0, 2)))
    if len(wrong):
        offenders = (
            f"item {row + 1} ("
            + ", ".join(
                f"{paths[image] if len(paths) else role} {sizes[image][1]}×{sizes[image][0]}"
                for role, image in zip(roles, items[:, row], strict=True)
            )
            + ")"
            for row in wrong
        )
        raise ValueError(
            f"{len(wrong):,} of {items.shape[1]:,} items have images that differ in size: "
            f"{first_few(offenders, 3)}; data.shorter_side=… resizes without changing the shape, data.size=… "
            "to squares"
        )


def _stacked(images: list[Tensor]) -> Tensor:
    return torch.stack(images) if images else torch.empty(0, 3, NO_SIDE, NO_SIDE, dtype=torch.uint8)
