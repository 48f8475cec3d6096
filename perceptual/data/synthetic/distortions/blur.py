"""Blur: Gaussian, and bilateral, which keeps the edges."""

import math

import numpy as np
import torch
from skimage.restoration import denoise_bilateral
from torch import Generator, Tensor
from torch.nn import functional as F

from perceptual.data.synthetic.distortions.shared import kept


def gaussian_blur(images: Tensor, severity: Tensor, generator: Generator) -> Tensor:
    """Gaussian blur, standard deviation up to 1/20 of the side (3.2 pixels of 64)."""
    height, width = images.shape[-2:]
    sigma = (severity * height / 20).clamp_min(1e-3)  # 1e-3 leaves only the middle of the kernel
    radius = math.ceil(3 * height / 20)
    kernel = torch.exp(-(torch.arange(-radius, radius + 1) ** 2) / (2 * sigma[:, None] ** 2))
    kernel = kernel / kernel.sum(1, keepdim=True)
    # as matrices: each image has another kernel, and patches are small
    rows, columns = (_blurring(kernel, extent)[:, None] for extent in (height, width))
    return rows @ images @ columns.mT


def _blurring(kernel: Tensor, extent: int) -> Tensor:
    """Matrices (N, S, S) that convolve S values with kernels (N, K), mirrored at the ends."""
    count, width = kernel.shape
    matrix = kernel.new_zeros(count, extent * extent)
    matrix.index_add_(1, _places(extent, width), kernel.repeat(1, extent))
    return matrix.view(count, extent, extent)


@kept
def _places(extent: int, width: int) -> Tensor:
    """Where in such a matrix, flattened, each value of a kernel belongs, (S · K)."""
    source = F.pad(torch.arange(extent)[None, None].float(), [width // 2] * 2, mode="reflect")[0, 0].long()
    return (torch.arange(extent)[:, None] * extent + source.unfold(0, width, 1)).flatten()


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
