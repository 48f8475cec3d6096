"""Blur: Gaussian, and bilateral, which keeps the edges."""

import math

import numpy as np
import torch
from skimage.restoration import denoise_bilateral
from torch import Generator, Tensor
from torch.nn import functional as F


def gaussian_blur(images: Tensor, severity: Tensor, generator: Generator) -> Tensor:
    """Gaussian blur, standard deviation up to 1/20 of the side (3.2 pixels of 64)."""
    count, channels, height = images.shape[:3]
    sigma = (severity * height / 20).clamp_min(1e-3)  # 1e-3 leaves only the middle of the kernel
    radius = math.ceil(3 * height / 20)
    kernel = torch.exp(-(torch.arange(-radius, radius + 1) ** 2) / (2 * sigma[:, None] ** 2))
    kernel = (kernel / kernel.sum(1, keepdim=True)).repeat_interleave(channels, 0)[:, None]
    # one convolution with a group per channel and image, as each image has another kernel
    padded = F.pad(images, [radius] * 4, mode="reflect").flatten(0, 1)[None]
    rows = F.conv2d(padded, kernel[..., None], groups=count * channels)
    return F.conv2d(rows, kernel[..., None, :], groups=count * channels).view_as(images)


def bilateral_blur(images: Tensor, severity: Tensor, generator: Generator) -> Tensor:
    """Bilateral filter of 7×7 pixels, which averages neighbours that differ by up to .2 in colour."""
    blurred = [_bilateral(*item) for item in zip(images.numpy(), severity.tolist(), strict=True)]
    return torch.from_numpy(np.stack(blurred))


def _bilateral(image: np.ndarray, severity: float) -> np.ndarray:
    if severity == 0:
        return image
    pixels = denoise_bilateral(
        image.transpose(1, 2, 0),
        win_size=7,
        sigma_color=0.2 * severity**1.5,  # with a linear course, the second half would look alike
        sigma_spatial=3,
        mode="reflect",
        channel_axis=-1,
    )
    return np.ascontiguousarray(pixels.transpose(2, 0, 1), np.float32)
