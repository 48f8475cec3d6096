"""Images for batches: checked before training, then held in memory where they fit, else read when asked for.

`Images` are one uint8 tensor (M, 3, S, S) or the files themselves; `read_batch` makes batches of either.
"""

import os
import sys
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import torch
from PIL import Image
from rich.progress import track
from torch import Tensor

MEMORY_BUDGET = 2**30  # bytes of decoded uint8 pixels; about 87,000 images of 64×64
_CHUNK = 64  # images a task of the thread pool: enough to hide its overhead, few enough for a lively bar
_QUIET_BELOW = 2000  # images; fewer are checked in a second or two, a progress bar would only flicker


class ImageFiles:
    """Images on disk, decoded and resized whenever they are asked for.

    Args:
        paths: image files, M of them.
        size: side S of the square they are resized to (PIL bilinear, antialiased).
    """

    def __init__(self, paths: Sequence[str], size: int) -> None:
        self.paths = paths
        self.shape = (len(paths), 3, size, size)

    def __getitem__(self, index: Tensor) -> Tensor:
        """(N,) int64 → (N, 3, S, S) uint8, RGB."""
        size = self.shape[-1]
        pixels = np.empty((len(index), size, size, 3), np.uint8)
        for row, i in enumerate(index.tolist()):
            pixels[row] = np.asarray(resized(read_rgb(self.paths[i]), size))
        return torch.from_numpy(pixels).permute(0, 3, 1, 2).contiguous()


Images = Tensor | ImageFiles


def read_batch(images: Images, index: Tensor) -> Tensor:
    """The images that an int64 tensor (N,) chooses, (N, 3, S, S) float32, RGB in [0, 1]."""
    # index_select copies whole images, ten times faster than indexing
    pixels = images.index_select(0, index) if isinstance(images, Tensor) else images[index]
    return pixels.to(torch.float32).div_(255)


def read_rgb(path: str) -> Image.Image:
    """Decode a file to an RGB image; raises OSError where it is missing, truncated or no image."""
    with Image.open(path) as image:
        return image.convert("RGB")


def resized(image: Image.Image, size: int) -> Image.Image:
    """Resize to size × size as the paper does: PIL bilinear, antialiased when it shrinks."""
    return image.resize((size, size), Image.Resampling.BILINEAR)


def open_images(paths: Sequence[str], size: int) -> Images:
    """Decode every file once, before anything is trained on it.

    Where all of them fit `MEMORY_BUDGET` as uint8 they are kept, in one tensor; otherwise they are read again
    when asked for.

    Args:
        paths: distinct image files, M of them.
        size: side S of the square they are resized to.

    Raises:
        ValueError: if files are missing, unreadable or truncated, or their smaller side is below size / 4
            (enlarged more than four times an image shows nothing); names the first and says how many.
    """
    fits = len(paths) * 3 * size**2 <= MEMORY_BUDGET
    kept = np.empty((len(paths), size, size, 3), np.uint8) if fits else None

    def check(rows: range) -> list[str]:
        return [problem for row in rows if (problem := _problem(paths[row], size, kept, row))]

    chunks = [range(start, min(start + _CHUNK, len(paths))) for start in range(0, len(paths), _CHUNK)]
    quiet = len(paths) < _QUIET_BELOW or not sys.stderr.isatty()
    with ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as pool:  # Pillow decodes without holding the GIL
        found = track(pool.map(check, chunks), "Checking images", len(chunks), transient=True, disable=quiet)
        problems = [problem for chunk in found for problem in chunk]
    if problems:
        raise ValueError(f"{len(problems):,} of {len(paths):,} images cannot be used: {first_few(problems)}")
    if kept is None:
        return ImageFiles(paths, size)
    return torch.from_numpy(kept).permute(0, 3, 1, 2).contiguous()


def first_few(offenders: Iterable[str], count: int = 5) -> str:
    """Join the first few offenders of an error message and count the others."""
    listed = list(offenders)
    more = f" and {len(listed) - count:,} more" if len(listed) > count else ""
    return ", ".join(listed[:count]) + more


def _problem(path: str, size: int, kept: np.ndarray | None, row: int) -> str | None:
    try:
        image = read_rgb(path)
    except FileNotFoundError:
        return f"{path} (missing)"
    except Exception as error:  # decoders raise whatever they stumble over
        return f"{path} ({'not an image' if isinstance(error, Image.UnidentifiedImageError) else error})"
    if min(image.size) * 4 < size:
        width, height = image.size
        return f"{path} ({width}×{height}, below a quarter of size={size})"
    if kept is not None:
        kept[row] = np.asarray(resized(image, size))
    return None
