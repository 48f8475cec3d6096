"""Photographs to make patches of: those in scikit-image's wheel, or those of a folder."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import skimage
import torch
from PIL import Image
from torch import Tensor

from perceptual.data.decode import image_files, read_rgb, resized

# Every photograph is on one side only, and the two views of the stereo pair are on the same
TRAIN_PHOTOS = (
    *("astronaut.png", "brick.png", "camera.png", "coffee.png", "gravel.png", "hubble_deep_field.jpg"),
    *("ihc.png", "moon.png", "page.png", "rocket.jpg"),
)
VAL_PHOTOS = (
    *("chelsea.png", "coins.png", "grass.png", "motorcycle_left.png", "motorcycle_right.png", "retina.jpg"),
    *("text.png",),
)


def packaged(names: Sequence[str] = (*TRAIN_PHOTOS, *VAL_PHOTOS)) -> list[str]:
    """Files of photographs in scikit-image's wheel."""
    folder = Path(skimage.__file__).parent / "data"
    return [str(folder / name) for name in names]


def find_photos(folder: str | Path) -> list[str]:
    """Files below a folder with a suffix that Pillow reads, see `decode.image_files`.

    Raises:
        FileNotFoundError: there is no such folder, or no such file in it.
    """
    if not Path(folder).is_dir():
        raise FileNotFoundError(f"no folder {folder}")
    photos = [*image_files(folder).values()]
    if not photos:
        raise FileNotFoundError(f"no photographs in {folder}")
    return photos


FLAT = 12  # standard deviation of the pixels of a nearly uniform square
SMALLEST_PATCH, LARGEST_PATCH = 64, 256  # sides, in pixels of the photograph


def chance(seed: int, row: int, use: int) -> np.random.Generator:
    """Draws of an item that depend on neither the number of items nor the order they are made in."""
    return np.random.default_rng([seed, row, use])


def patches(photos: Sequence[str], count: int, seed: int, size: int = 64) -> Tensor:
    """Random squares of photographs, (count, 3, size, size) float in [0, 1], as triplets are made of.

    Args:
        photos: image files, from which the squares are taken in turn.
        count, seed: how many, and which.
        size: side in pixels.

    Raises:
        ValueError: a photograph is too small.
        OSError: one cannot be read.
    """
    made = torch.empty(count, 3, size, size)
    for first, path in enumerate(photos[:count]):
        photo = read_photo(path, size)
        for row in range(first, count, len(photos)):
            made[row] = crop(photo, size, chance(seed, row, 0))
    return made


def read_photo(path: str, size: int) -> Image.Image:
    """A photograph to take patches of `size` from; raises as `patches`."""
    try:
        photo = read_rgb(path)
    except Exception as error:  # decoders raise all kinds of errors
        raise OSError(f"cannot read the photograph {path}: {error}") from None
    _refuse_small(path, photo.size, size)
    return photo


def check_sizes(photos: Sequence[str], size: int) -> None:
    """Refuse photographs that are too small by what their files say, before the others are read.

    Raises:
        ValueError: one is too small for patches of `size`.
    """
    for path in photos:
        try:
            with Image.open(path) as photo:
                width_height = photo.size
        except (OSError, SyntaxError, ValueError):  # reading it says what is wrong
            continue
        _refuse_small(path, width_height, size)


def _refuse_small(path: str, width_height: tuple[int, int], size: int) -> None:
    if min(width_height) < max(size, SMALLEST_PATCH):
        width, height = width_height
        raise ValueError(
            f"{path} is {width}×{height}, patches need {max(size, SMALLEST_PATCH)} on the smaller side"
        )


def crop(photo: Image.Image, size: int, rng: np.random.Generator) -> Tensor:
    """A random square of 64 to 256 pixels, resized to (3, S, S) in [0, 1]; redrawn if nearly uniform."""
    for _ in range(20):
        largest = min(LARGEST_PATCH, *photo.size)
        side = int(np.exp(rng.uniform(np.log(SMALLEST_PATCH), np.log(largest))))
        left, top = (int(rng.integers(extent - side + 1)) for extent in photo.size)
        pixels = np.array(resized(photo.crop((left, top, left + side, top + side)), size))
        values = pixels.ravel().astype(np.int64)  # sums are exact, and a third of the time of np.std
        if np.dot(values, values) / values.size - (values.sum() / values.size) ** 2 > FLAT**2:
            break
    return torch.from_numpy(pixels).permute(2, 0, 1).float() / 255


def quantised(patch: Tensor) -> Tensor:
    """Pixels as uint8."""
    # NumPy does on small arrays in half the time what torch does
    return torch.from_numpy((np.clip(patch.numpy(), 0, 1) * np.float32(255)).round().astype(np.uint8))
