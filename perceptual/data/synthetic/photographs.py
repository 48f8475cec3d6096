"""Photographs to make patches of: those in scikit-image's wheel, or those of a folder."""

from collections.abc import Sequence
from pathlib import Path

import skimage

from perceptual.data.decode import image_files

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
