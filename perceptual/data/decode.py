"""Decode image files to RGB pixels as a viewer shows them; by Pillow and NumPy, so workers start fast."""

from collections.abc import Iterable, Sequence
from hashlib import sha256

import numpy as np
from PIL import Image, ImageOps

RESIZE = "PIL bilinear, antialiased"


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
    try:
        return read_rgb(path)
    except FileNotFoundError:
        raise ValueError(f"{path} (missing)") from None
    except Image.UnidentifiedImageError:
        raise ValueError(f"{path} (not an image)") from None
    except Exception as error:  # decoders raise all kinds of errors
        raise ValueError(f"{path} ({error})") from None


def read_pixels(path: str, size: int) -> np.ndarray:
    """Decode and resize a file to (3, S, S) uint8, RGB.

    Raises:
        ValueError: as `checked_rgb`, or the smaller side is below size / 4 (enlarged more than four times,
            an image shows nothing); names the file.
    """
    image = checked_rgb(path)
    width, height = image.size
    if min(width, height) * 4 < size:
        raise ValueError(f"{path} ({width}×{height}, below a quarter of size={size})")
    return np.ascontiguousarray(np.asarray(resized(image, size)).transpose(2, 0, 1))


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


def pixel_digest(pixels: np.ndarray) -> bytes:
    """SHA-256 of the pixels (3, S, S) uint8, 32 bytes."""
    return sha256(np.ascontiguousarray(pixels).data).digest()


def first_few(offenders: Iterable[str], count: int = 5) -> str:
    """The first few offenders for an error message, joined, and the number of the others."""
    listed = list(offenders)
    more = f" and {len(listed) - count:,} more" if len(listed) > count else ""
    return ", ".join(listed[:count]) + more
