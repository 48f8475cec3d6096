"""Augmentation of the images of a batch, by random numbers in [0, 1)."""

import torch
import torch.nn.functional as F
from torch import Tensor

SMALLEST_CROP = 0.7  # of the side
GAIN, GAMMA = 0.25, 0.35  # largest logarithms, of either sign


def replace_half(a: Tensor, b: Tensor, draws: Tensor) -> Tensor:
    """Rows of b where draws, (N, …) or (1, …) for all rows, begin with less than ½; rows of a elsewhere."""
    row = (draws.flatten(1)[:, 0] < 0.5).view(-1, *[1] * (a.ndim - 1))
    return torch.where(row, b, a)


def mirror(images: Tensor, draws: Tensor) -> Tensor:
    """Images (N, 3, S, S) mirrored, left to right, in half of the rows, see `replace_half`."""
    return replace_half(images, images.flip(3), draws)


def crop(images: Tensor, draws: Tensor) -> Tensor:
    """Squares of images (N, 3, S, S), resized to S: 70 to 100 % of the side, placed at random.

    Args:
        images: to crop.
        draws: (N, 3 or more), or one row for all images: side, place from the left and from the top.
    """
    side = SMALLEST_CROP + (1 - SMALLEST_CROP) * draws[:, 0]
    place = (1 - side).unsqueeze(1) * (2 * draws[:, 1:3] - 1)
    box = torch.cat([torch.diag_embed(side.unsqueeze(1).expand(-1, 2)), place.unsqueeze(2)], dim=2)
    grid = F.affine_grid(box, [len(box), *images.shape[1:]], align_corners=False)
    grid = grid.expand(len(images), -1, -1, -1)
    return F.grid_sample(images, grid, padding_mode="border", align_corners=False)


def light(images: Tensor, draws: Tensor) -> Tensor:
    """Images (N, 3, S, S) in [0, 1] with other contrast, brightness and colour, as under another light.

    gain · image^γ, clipped to 1, with gain = exp(±0.25) for each channel and γ = exp(±0.35).

    Args:
        images: to relight.
        draws: (N, 4), or one row for all images: gains of red, green and blue, and γ.
    """
    gain, gamma = (GAIN * (2 * draws[:, :3] - 1)).exp(), (GAMMA * (2 * draws[:, 3] - 1)).exp()
    return (images ** gamma.view(-1, 1, 1, 1) * gain[..., None, None]).clamp(max=1)


def view(images: Tensor, number: int) -> Tensor:
    """View `number` of images (N, 3, S, S): mirrored or not, cropped, relit, all alike; 0: as they are.

    What a view is depends on its number alone, so that all runs share the features of it.
    """
    if not number:
        return images
    draws = torch.rand(3, 1, 4, generator=torch.Generator().manual_seed(number))
    return light(crop(mirror(images, draws[0]), draws[1]), draws[2])
