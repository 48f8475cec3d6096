"""Image files of the commands: read, brought to one size, and listed."""

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from perceptual.cli.batches import Pair
from perceptual.cli.options import check_file, check_folder
from perceptual.data.decode import checked_rgb, image_files


def read_image(path: str) -> Image.Image:
    """Read a file as a viewer shows it, RGB; see `decode.read_rgb`.

    Raises:
        ValueError: a URL, a folder, no file, or no image; names it.
    """
    check_file(path, "image")
    return checked_rgb(path)


def fit(image: Image.Image, path: str, size: tuple[int, int], other: str, resize: bool) -> Image.Image:
    """Return an image at the (width, height) of another, resized if that is allowed.

    Raises:
        ValueError: the sizes differ and `resize` is False.
    """
    if image.size == size:
        return image
    if not resize:
        raise ValueError(
            f"{other} has {_size(size)} pixels, {path} {_size(image.size)}; "
            "--resize resizes the second to the first"
        )
    return image.resize(size, Image.Resampling.BILINEAR)


def read_pair(path0: str, path1: str, resize: bool, mask: str | None = None) -> Pair:
    """Two images of one size, with a mask; raises what `read_image` and `fit` do, and for a black mask."""
    first, second = read_image(path0), read_image(path1)
    pair = Pair(pixels(first), pixels(fit(second, path1, first.size, path0, resize)))
    return pair if mask is None else pair._replace(mask=read_mask(mask, first.size, path0, resize))


def read_mask(path: str, size: tuple[int, int], other: str, resize: bool) -> Tensor:
    """What counts of an image of that (width, height), (1, H, W) uint8; raises as `read_pair`."""
    weights = pixels(fit(read_image(path), path, size, other, resize)).amax(0, keepdim=True)
    if not weights.any():
        raise ValueError(f"the mask {path} is black: nothing of {other} would count")
    return weights


def pixels(image: Image.Image) -> Tensor:
    """(3, H, W) uint8, with the channels last in memory, as the file has them and convolutions like them."""
    return torch.from_numpy(np.array(image)).permute(2, 0, 1)


def list_images(folder: str) -> dict[str, str]:
    """Images in a folder and below, by their path inside it; see `decode.image_files`.

    Raises:
        ValueError: no such folder, none in it, or a link to a folder that it lies in.
    """
    check_folder(folder)
    images = image_files(folder)
    if not images:
        raise ValueError(f"{folder} holds no images")
    return images


def _size(size: tuple[int, int]) -> str:
    return f"{size[0]}×{size[1]}"
