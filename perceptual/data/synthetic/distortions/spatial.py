"""Spatial distortions: each samples the images at moved coordinates, reflected at the borders.

Coordinates are `torch.nn.functional.grid_sample`'s: (x, y), from -1 to 1 over the image.
"""

import torch
from torch import Generator, Tensor
from torch.nn import functional as F

from perceptual.data.synthetic.distortions.shared import directions, kept, per_image, signs, uniform


def shift(images: Tensor, severity: Tensor, generator: Generator) -> Tensor:
    """Moved in a random direction by up to 1/8 of the side."""
    move = 0.25 * severity[:, None] * directions(len(images), generator)
    return _sample(images, _coordinates(images) + move[:, None, None])


def affine(images: Tensor, severity: Tensor, generator: Generator) -> Tensor:
    """Turned, scaled and sheared: a random 2×2 matrix, each entry up to .35 from the identity."""
    matrix = torch.eye(2) + 0.35 * severity[:, None, None] * uniform((len(images), 2, 2), generator)
    return _sample(images, _coordinates(images) @ matrix[:, None])


def homography(images: Tensor, severity: Tensor, generator: Generator) -> Tensor:
    """Seen at an angle: a random plane tilt of up to .4, with an affine part of up to .15."""
    count = len(images)
    matrix = torch.eye(2) + 0.15 * severity[:, None, None] * uniform((count, 2, 2), generator)
    tilt = 0.4 * severity[:, None] * directions(count, generator)
    grid = _coordinates(images)
    depth = 1 + grid @ tilt[:, None, :, None]
    return _sample(images, (grid @ matrix[:, None]) / depth)


def linear_warp(images: Tensor, severity: Tensor, generator: Generator) -> Tensor:
    """A 5×5 grid of random displacements, each up to 1/10 of the side, bilinear between them."""
    return _warp(images, severity, generator, "bilinear")


def cubic_warp(images: Tensor, severity: Tensor, generator: Generator) -> Tensor:
    """The same, bicubic between the points of the grid: smooth."""
    return _warp(images, severity, generator, "bicubic")


def ghosting(images: Tensor, severity: Tensor, generator: Generator) -> Tensor:
    """A second image over the first, moved by 1/16 to 1/8 of the side, with up to half of the weight."""
    length = 0.1875 + 0.0625 * uniform((len(images), 1), generator)
    move = length * directions(len(images), generator)
    ghost = _sample(images, _coordinates(images) + move[:, None, None])
    return torch.lerp(images, ghost, per_image(0.5 * severity))


def chromatic_aberration(images: Tensor, severity: Tensor, generator: Generator) -> Tensor:
    """Red and blue out of register with green: one enlarged, the other shrunk, by up to 12 %."""
    scale = per_image(0.12 * severity * signs(len(images), generator))
    red, green, blue = images.split(1, dim=1)
    grid = _coordinates(images)
    return torch.cat([_sample(red, grid * (1 + scale)), green, _sample(blue, grid * (1 - scale))], dim=1)


def _coordinates(images: Tensor) -> Tensor:
    """Coordinates of the pixels, (1, H, W, 2)."""
    return _grid(*images.shape[-2:])


@kept
def _grid(height: int, width: int) -> Tensor:
    x, y = ((2 * torch.arange(extent) + 1) / extent - 1 for extent in (width, height))
    return torch.stack(torch.meshgrid(x, y, indexing="xy"), dim=-1)[None]


def _sample(images: Tensor, grid: Tensor) -> Tensor:
    sampled = F.grid_sample(images, grid, mode="bicubic", padding_mode="reflection", align_corners=False)
    return sampled.clamp(0, 1)


def _warp(images: Tensor, severity: Tensor, generator: Generator, mode: str) -> Tensor:
    knots = per_image(0.2 * severity) * uniform((len(images), 2, 5, 5), generator)
    height, width = images.shape[-2:]
    moves = F.interpolate(knots, (height, width), mode=mode, align_corners=True)
    return _sample(images, _coordinates(images) + moves.permute(0, 2, 3, 1))
