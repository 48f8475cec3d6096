"""Images read by byte ranges of files, which may lie on object storage: no copy of the set on this disk."""

import os
from typing import Any, NamedTuple

import fsspec
import numpy as np
import torch
from torch import Tensor

from perceptual.data.decode import pixel_digest


class Part(NamedTuple):
    """A file of images of one shape, at equal distances."""

    path: str  # or URL
    images: int
    start: int  # byte of the first image
    stride: int  # bytes from one image to the next


class RangedImages:
    """Images of a store elsewhere, or of its shards, in the order of the store.

    Args:
        parts: the files, one after the other.
        size: side S of the images.
        digests: (M, 32) uint8, SHA-256 of each image's pixels.
    """

    def __init__(self, parts: list[Part], size: int, digests: np.ndarray) -> None:
        self.parts, self.digests = parts, digests
        self.ends = np.cumsum([part.images for part in parts])
        self.shape = (int(self.ends[-1]) if len(parts) else 0, 3, size, size)
        self._files: tuple[int, Any] = (-1, None)

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_files": (-1, None)}  # connections are of one process

    def __getitem__(self, index: Tensor) -> Tensor:
        """(N,) int64 → (N, 3, S, S) uint8, RGB.

        Raises:
            ValueError: a file is missing, cut short or damaged, or cannot be reached; names it.
        """
        rows, place = np.unique(index.numpy(), return_inverse=True)
        length = 3 * self.shape[-1] ** 2
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
        return torch.from_numpy(pixels.reshape(-1, *self.shape[1:])[place])

    def _open(self) -> Any:
        if self._files[0] != os.getpid():  # a forked worker needs connections of its own
            self._files = (os.getpid(), fsspec.core.url_to_fs(self.parts[0].path)[0])
        return self._files[1]
