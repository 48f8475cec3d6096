"""Decode image files to RGB pixels as a viewer shows them; by Pillow and NumPy, so workers start fast."""

import os
import stat
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from hashlib import sha256

import numpy as np
from PIL import ExifTags, Image, ImageOps

RESIZE = "PIL bilinear, antialiased"
SMALLEST = 8  # pixels of a side
ORIENTATION = ExifTags.Base.Orientation
TURNED = (5, 6, 7, 8)  # orientations with height and width exchanged


def read_rgb(path: str) -> Image.Image:
    """Decode a file to an RGB image as a viewer shows it.

    The EXIF orientation is applied, transparent pixels are laid over white, 16-bit grey is scaled to 8 bits,
    and of several frames the first is taken.

    Raises:
        OSError: the file is missing, truncated or no image.
        ValueError: 32-bit grey, whose range is not known.
    """
    with Image.open(path) as image:
        ImageOps.exif_transpose(image, in_place=True)
        if image.mode in ("I", "F"):
            raise ValueError(f"pixels of mode {image.mode}, 32 bits of unknown range")
        if image.mode.startswith("I;16"):
            grey = np.rint(np.asarray(image) / 257).astype(np.uint8)  # convert() would clip at 255
            return Image.fromarray(grey).convert("RGB")
        if image.has_transparency_data:
            rgba = image.convert("RGBA")
            white = Image.new("RGBA", rgba.size, "white")
            return Image.alpha_composite(white, rgba).convert("RGB")
        return image.convert("RGB")


def resized(image: Image.Image, size: int) -> Image.Image:
    """Resize to size × size as the paper does: PIL bilinear, antialiased when it shrinks."""
    return image.resize((size, size), Image.Resampling.BILINEAR)


def checked_rgb(path: str) -> Image.Image:
    """`read_rgb` with one kind of error.

    Raises:
        ValueError: the file is missing, unreadable, truncated or of unknown range; names it.
    """
    with _one_kind_of_error(path):
        if not stat.S_ISREG(os.stat(path).st_mode):  # opening a pipe would wait for ever
            raise ValueError("no regular file")
        return read_rgb(path)


@contextmanager
def _one_kind_of_error(path: str) -> Iterator[None]:
    try:
        yield
    except FileNotFoundError:
        raise ValueError(f"{path} (missing)") from None
    except Image.UnidentifiedImageError:
        raise ValueError(f"{path} (not an image)") from None
    except Exception as error:  # decoders raise all kinds of errors
        raise ValueError(f"{path} ({error})") from None


def read_pixels(path: str, size: int | None, shorter_side: int | None = None) -> np.ndarray:
    """Decode a file to (3, H, W) uint8, RGB.

    Args:
        path: the file.
        size: side of the square to resize to; None: keep the shape.
        shorter_side: without `size`, pixels to resize the shorter side to; None: keep the size, too.

    Raises:
        ValueError: as `checked_rgb`, or the smaller side is below a quarter of what it is resized to
            (enlarged more than four times, an image shows nothing) or below 8 pixels; names the file.
    """
    image = checked_rgb(path)
    width, height = image.size
    side, name = (size, "size") if size is not None else (shorter_side, "shorter_side")
    if side is not None and min(width, height) * 4 < side:
        raise ValueError(f"{path} ({width}×{height}, below a quarter of {name}={side})")
    if min(width, height) < SMALLEST and size is None:
        raise ValueError(f"{path} ({width}×{height}, a side below {SMALLEST} pixels)")
    if size is not None:
        image = resized(image, size)
    elif shorter_side is not None:
        image = image.resize(shrunk((width, height), shorter_side), Image.Resampling.BILINEAR)
    return np.ascontiguousarray(np.asarray(image).transpose(2, 0, 1))


def read_unchanged(
    path: str, digest: np.ndarray, size: int | None, shorter_side: int | None = None
) -> np.ndarray:
    """As `read_pixels`, of a file that was read before.

    Raises:
        ValueError: as `read_pixels`, or its pixels have not this SHA-256, (32,) uint8, any more.
    """
    pixels = read_pixels(path, size, shorter_side)
    if pixel_digest(pixels) != digest.tobytes():
        raise ValueError(f"{path} (changed since it was read first)")
    return pixels


def shrunk(size: tuple[int, int], shorter_side: int) -> tuple[int, int]:
    """Width and height with the shorter side of so many pixels, in the same proportion."""
    scale = shorter_side / min(size)
    width, height = (max(shorter_side, round(side * scale)) for side in size)
    return width, height


def size_of(path: str, shorter_side: int | None = None) -> tuple[int, int]:
    """Height and width of the image that `read_pixels` gives of a file, from its header.

    Raises:
        ValueError: as `checked_rgb`.
    """
    with _one_kind_of_error(path), Image.open(path) as image:
        width, height = image.size
        if image.getexif().get(ORIENTATION, 1) in TURNED:
            width, height = height, width
    if shorter_side is not None:
        width, height = shrunk((width, height), shorter_side)
    return height, width


def write_pixels(array: str, rows: range, paths: Sequence[str], size: int) -> list[bytes | str]:
    """Decode files into rows of a `.npy` (M, 3, S, S) uint8; returns the digest of each, or what is wrong."""
    images = np.lib.format.open_memmap(array, mode="r+")
    found: list[bytes | str] = []
    for row, path in zip(rows, paths, strict=True):
        try:
            images[row] = read_pixels(path, size)
        except ValueError as error:
            found.append(str(error))
        else:
            found.append(pixel_digest(images[row]))
    return found


def write_native(
    array: str, starts: Sequence[int], paths: Sequence[str], shorter_side: int | None
) -> list[bytes | str]:
    """Decode files into a flat `.npy` (B,) uint8, each at its start; returns as `write_pixels`."""
    flat = np.lib.format.open_memmap(array, mode="r+")
    found: list[bytes | str] = []
    for start, path in zip(starts, paths, strict=True):
        try:
            pixels = read_pixels(path, None, shorter_side)
        except ValueError as error:
            found.append(str(error))
        else:
            flat[start : start + pixels.size] = pixels.ravel()
            found.append(pixel_digest(pixels))
    return found


def pixel_digest(pixels: np.ndarray) -> bytes:
    """SHA-256 of the pixels (3, S, S) uint8, 32 bytes."""
    return sha256(np.ascontiguousarray(pixels).data).digest()


def first_few(offenders: Iterable[str], count: int = 5) -> str:
    """The first few offenders for an error message, joined, and the number of the others."""
    listed = list(offenders)
    more = f" and {len(listed) - count:,} more" if len(listed) > count else ""
    return ", ".join(listed[:count]) + more
