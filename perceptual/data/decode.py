"""Decode image files to RGB pixels as a viewer shows them; by Pillow and NumPy, so workers start fast."""

import io
import os
import stat
import zlib
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np
from PIL import ExifTags, Image

from perceptual.data.profiles import to_srgb
from perceptual.data.settings import SMALLEST, Resize
from perceptual.files.places import walk

RESIZE = "PIL bilinear, antialiased"
TURNS = {  # by EXIF orientation
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
TURNED = (5, 6, 7, 8)  # orientations with height and width exchanged
PNG = b"\x89PNG\r\n\x1a\n"
TURNING = ("XML:com.adobe.xmp", "Raw profile type exif")  # texts of a PNG that may hold its orientation
LONGEST = 2**24  # bytes of a profile or a text; what is beyond is not looked at


def read_rgb(path: str) -> Image.Image:
    """Decode a file to an RGB image as a viewer shows it.

    The EXIF orientation is applied, colours of an embedded profile are converted to sRGB, transparent pixels
    are laid over white, 16-bit grey is scaled to 8 bits, and of several frames the first is taken. A profile
    that is broken is ignored, with a note on stderr.

    Raises:
        OSError: the file is missing, truncated or no image.
        ValueError: 32-bit grey, whose range is not known.
    """
    with _opened(path) as image:
        image.load()
        turn = TURNS.get(_orientation(image))
        if image.mode in ("I", "F"):
            raise ValueError(f"pixels of mode {image.mode}, 32 bits of unknown range")
        if image.mode.startswith("I;16"):
            # convert() would clip at 255
            eight = Image.fromarray(np.rint(np.asarray(image) / 257).astype(np.uint8))
            eight.info = {key: image.info[key] for key in image.info if key == "icc_profile"}
        else:
            eight = image
        shown = to_srgb(eight, path)
        if eight.has_transparency_data:
            shown.putalpha(eight.convert("RGBA").getchannel("A"))
            shown = Image.alpha_composite(Image.new("RGBA", shown.size, "white"), shown).convert("RGB")
        return shown if turn is None else shown.transpose(turn)


def _opened(path: str) -> Image.Image:
    """Open an image; one that Pillow refuses for its texts or profile is opened without them."""
    try:
        with ExitStack() as if_it_fails:
            image = if_it_fails.enter_context(Image.open(path))
            if image.format == "PNG":
                image.load()  # texts may follow the pixels
            if_it_fails.pop_all()
        return image
    except ValueError:
        data = Path(path).read_bytes()
        if not data.startswith(PNG):
            raise
        bare, info = _without_texts(data)
        image = Image.open(io.BytesIO(bare))
        image.info.update(info)
        return image


def _without_texts(data: bytes) -> tuple[bytes, dict[str | tuple[int, int], Any]]:
    """A PNG without its texts and profile; and of these what is looked at, as Pillow's `info` has it."""
    kept, info, start = [PNG], dict[str | tuple[int, int], Any](), len(PNG)
    while start < len(data):
        end = start + 12 + int.from_bytes(data[start : start + 4], "big")
        name, content = data[start + 4 : start + 8], data[start + 8 : end - 4]
        keyword, _, rest = content.partition(b"\0")
        if name == b"iCCP":
            info["icc_profile"] = _inflated(rest[1:])
        elif name not in (b"tEXt", b"zTXt", b"iTXt"):
            kept.append(data[start:end])
        elif (key := keyword.decode("latin-1")) in TURNING:
            packed = rest[:1] == b"\1" if name == b"iTXt" else name == b"zTXt"
            text = {b"tEXt": rest, b"zTXt": rest[1:], b"iTXt": rest[2:].split(b"\0", 2)[-1]}[name]
            info[key] = (_inflated(text) if packed else text[:LONGEST]).decode("latin-1")
        start = end
    return b"".join(kept), info


def _inflated(data: bytes) -> bytes:
    try:
        return zlib.decompressobj().decompress(data, LONGEST)
    except zlib.error:
        return b""


def _orientation(image: Image.Image) -> int:
    """Return the EXIF orientation; 1, not turned, where it is missing or cannot be read."""
    try:
        return int(image.getexif().get(ExifTags.Base.Orientation, 1))
    except Exception:  # cameras write anything; damaged pixels are found as they are read
        return 1


FILTERS: dict[Resize, Image.Resampling] = {
    "bilinear": Image.Resampling.BILINEAR,
    "bicubic": Image.Resampling.BICUBIC,
}


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


def image_files(folder: str | Path) -> dict[str, str]:
    """Files in a folder and below with a suffix that Pillow reads, by their paths inside it, sorted.

    Raises:
        ValueError, OSError: as `places.walk`.
    """
    suffixes = {suffix for suffix, kind in Image.registered_extensions().items() if kind in Image.OPEN}
    found = (path / name for path, _, names in walk(folder) for name in names)
    return {
        path.relative_to(folder).as_posix(): str(path)
        for path in sorted(found)
        # a link to nothing is listed, so that reading it says so
        if path.suffix.lower() in suffixes and (path.is_file() or not path.exists())
    }


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


def read_pixels(
    path: str, size: int | None, shorter_side: int | None = None, resize: Resize = "bilinear"
) -> np.ndarray:
    """Decode a file to (3, H, W) uint8, RGB.

    Args:
        path: the file.
        size: side of the square to resize to; None: keep the shape.
        shorter_side: without `size`, pixels to resize the shorter side to; None: keep the size, too.
        resize: `bilinear`, as in the paper, or `bicubic`; antialiased where they shrink.

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
        image = image.resize((size, size), FILTERS[resize])
    elif shorter_side is not None:
        image = image.resize(shrunk((width, height), shorter_side), FILTERS[resize])
    return np.ascontiguousarray(np.asarray(image).transpose(2, 0, 1))


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
    with _one_kind_of_error(path), _opened(path) as image:
        if image.format == "TIFF" and _orientation(image) in TURNED:
            image.load()  # turns it; what its size is before depends on the version of Pillow
        width, height = image.size
        if _orientation(image) in TURNED:
            width, height = height, width
    if shorter_side is not None:
        width, height = shrunk((width, height), shorter_side)
    return height, width


def write_images(
    array: str, starts: Sequence[int], paths: Sequence[str], size: int | None, shorter_side: int | None
) -> list[bytes | str]:
    """Decode files into a `.npy` of uint8, each at its start; the digest of each, or what is wrong."""
    flat = np.lib.format.open_memmap(array, mode="r+").reshape(-1)
    found: list[bytes | str] = []
    for start, path in zip(starts, paths, strict=True):
        try:
            pixels = read_pixels(path, size, shorter_side)
        except ValueError as error:
            found.append(str(error))
        else:
            flat[start : start + pixels.size] = pixels.ravel()
            found.append(pixel_digest(pixels))
    return found


def pixel_digest(pixels: np.ndarray) -> bytes:
    """SHA-256 of the pixels (3, S, S) uint8, 32 bytes."""
    return sha256(np.ascontiguousarray(pixels).data).digest()
