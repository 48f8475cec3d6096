"""Colours of image files with an embedded profile, converted to sRGB by Pillow and LittleCMS."""

import io
import sys
from functools import lru_cache
from typing import Any

import numpy as np
from PIL import Image, ImageCms

MODES = {"RGB ": "RGB", "GRAY": "L", "CMYK": "CMYK"}  # by the colour space of a profile
GREY = ("1", "L", "LA")
_said: dict[str, object] = {}  # files whose profile was called broken: it is said once


def to_srgb(image: Image.Image, path: str) -> Image.Image:
    """Convert an image to sRGB, without its alpha and its `info`.

    Args:
        image: of 8 bits, with the profile of its file, if any, in `info["icc_profile"]`.
        path: the file, for the note on stderr that its profile is broken and ignored.
    """
    shown = image.convert("RGB")
    if "icc_profile" in image.info:
        try:
            shown = _convert(image, image.info["icc_profile"])
        except (ImageCms.PyCMSError, OSError, ValueError) as error:
            first = object()
            if _said.setdefault(path, first) is first:  # several threads may read one file
                print(f"note: {path}: its colour profile is ignored: {error}", file=sys.stderr)
    shown.info.clear()  # or saving it would embed a profile
    return shown


def _convert(image: Image.Image, profile: bytes | None) -> Image.Image:
    """Apply a profile; raises PyCMSError, OSError or ValueError for one that does not fit."""
    mode, transform = _transform(profile)
    if (mode == "CMYK") != (image.mode == "CMYK") or (mode == "L" and image.mode not in GREY):
        raise ValueError(f"of {mode} colours, in an image of {image.mode}")
    in_space = image.convert(mode)
    if transform is None:
        return in_space
    shown = ImageCms.applyTransform(in_space, transform)
    assert shown is not None
    return shown


@lru_cache(maxsize=8)
def _transform(profile: bytes | None) -> tuple[str, Any]:
    """Return the mode of images that a profile is for, and its transform to sRGB; None: it is sRGB."""
    try:
        source = ImageCms.ImageCmsProfile(io.BytesIO(profile or b""))
    except OSError:
        raise ValueError("not readable") from None
    space = source.profile.xcolor_space
    if space not in MODES:
        raise ValueError(f"for colours of {space.strip()}")
    transform = ImageCms.buildTransform(source, ImageCms.createProfile("sRGB"), MODES[space], "RGB")
    return MODES[space], None if MODES[space] == "RGB" and _is_identity(transform) else transform


def _is_identity(transform: Any) -> bool:
    """Return whether a transform of RGB changes no colour by more than rounding, as an sRGB profile does."""
    levels = np.arange(0, 256, 15, dtype=np.uint8)
    colours = np.stack(np.meshgrid(levels, levels, levels), axis=-1).reshape(1, -1, 3)
    after = np.asarray(ImageCms.applyTransform(Image.fromarray(colours), transform))
    return int(np.abs(after.astype(int) - colours).max()) <= 1
