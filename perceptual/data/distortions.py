"""Families of image distortion, each with a continuous severity.

A family is a function `(patch, severity, generator) -> distorted`: patch (3, H, W) float32 RGB in [0, 1],
severity in [0, 1] where 0 changes nothing and 1 is plainly visible, generator the source of its chance (which
noise, which direction); the distorted patch has the same shape and range. The same generator state gives the
same result.
"""

import io
import math
from collections.abc import Callable

import numpy as np
import torch
from PIL import Image
from torch import Generator, Tensor
from torch.nn import functional as F
from torchvision.transforms.v2 import functional as transforms

Distortion = Callable[[Tensor, float, Generator], Tensor]

# Two directions in RGB that leave Rec. 601 luma (.299, .587, .114) as it is: Cr and Cb of YCbCr
_CHROMA = torch.tensor([[1.402, -0.714, 0.0], [0.0, -0.344, 1.772]])


def noise(patch: Tensor, severity: float, generator: Generator) -> Tensor:
    """Gaussian white noise, standard deviation up to .2."""
    return (patch + 0.2 * severity * torch.randn(patch.shape, generator=generator)).clamp(0, 1)


def blur(patch: Tensor, severity: float, generator: Generator) -> Tensor:
    """Gaussian blur, standard deviation up to 1/20 of the side (3.2 pixels of 64)."""
    sigma = severity * patch.shape[-1] / 20
    if sigma == 0:
        return patch
    return transforms.gaussian_blur(patch, kernel_size=2 * math.ceil(3 * sigma) + 1, sigma=sigma)


def compression(patch: Tensor, severity: float, generator: Generator) -> Tensor:
    """JPEG, quality from 90 down to 5; severity 0 is not compressed at all."""
    if severity == 0:
        return patch
    pixels = patch.mul(255).round().byte().permute(1, 2, 0).numpy()
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "JPEG", quality=round(90 * (5 / 90) ** severity))
    return torch.from_numpy(np.array(Image.open(file))).permute(2, 0, 1).float().div(255)


def contrast(patch: Tensor, severity: float, generator: Generator) -> Tensor:
    """Contrast about the mean luma, gained or lost by a factor of up to 3."""
    sign = 1 if torch.rand((), generator=generator) < 0.5 else -1
    return transforms.adjust_contrast(patch, 3 ** (sign * severity))


def color(patch: Tensor, severity: float, generator: Generator) -> Tensor:
    """Shift of all colours in a random direction, luma kept, by up to .25 in YCbCr."""
    angle = 2 * math.pi * torch.rand((), generator=generator)
    shift = 0.25 * severity * (angle.cos() * _CHROMA[0] + angle.sin() * _CHROMA[1])
    return (patch + shift[:, None, None]).clamp(0, 1)


def warp(patch: Tensor, severity: float, generator: Generator) -> Tensor:
    """Smooth random warp: a 5×5 grid of displacements, each up to 1/10 of the side, bicubic between them."""
    if severity == 0:
        return patch
    height, width = patch.shape[-2:]
    coarse = 0.2 * severity * (2 * torch.rand(1, 2, 5, 5, generator=generator) - 1)  # the side is 2 long
    displacement = F.interpolate(coarse, (height, width), mode="bicubic", align_corners=True)
    identity = F.affine_grid(torch.eye(2, 3)[None], [1, 3, height, width], align_corners=False)
    grid = identity + displacement.permute(0, 2, 3, 1)
    return F.grid_sample(patch[None], grid, padding_mode="reflection", align_corners=False)[0].clamp(0, 1)


FAMILIES: dict[str, Distortion] = {
    "noise": noise,
    "blur": blur,
    "compression": compression,
    "contrast": contrast,
    "color": color,
    "warp": warp,
}
