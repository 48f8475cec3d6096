"""Blur: Gaussian, and bilateral, which keeps the edges."""

import math
from functools import lru_cache
from itertools import product

import numpy as np
import torch
from torch import Generator, Tensor
from torch.nn import functional as F

_REACH = 3  # pixels of the bilateral filter on each side of the middle, and deviation of its weights in space


def gaussian_blur(images: Tensor, severity: Tensor, generator: Generator) -> Tensor:
    """Gaussian blur, standard deviation up to 1/20 of the side (3.2 pixels of 64)."""
    height, width = images.shape[-2:]
    sigma = (severity * height / 20).clamp_min(1e-3)  # 1e-3 leaves only the middle of the kernel
    radius = math.ceil(3 * height / 20)
    kernel = torch.exp(-(torch.arange(-radius, radius + 1) ** 2) / (2 * sigma[:, None] ** 2))
    kernel = kernel / kernel.sum(1, keepdim=True)
    # as matrices: each image has another kernel, and patches are small
    rows = _blurring(kernel, height)[:, None]
    columns = rows if width == height else _blurring(kernel, width)[:, None]
    return rows @ images @ columns.mT


def _blurring(kernel: Tensor, extent: int) -> Tensor:
    """Matrices (N, S, S) that convolve S values with kernels (N, K), mirrored at the ends."""
    count, width = kernel.shape
    matrix = kernel.new_zeros(count, extent * extent)
    matrix.index_add_(1, _places(extent, width), kernel.repeat(1, extent))
    return matrix.view(count, extent, extent)


@lru_cache(8)
def _places(extent: int, width: int) -> Tensor:
    """Where the values of a kernel of some width belong in the flattened matrix, for each of its rows."""
    source = F.pad(torch.arange(extent)[None, None].float(), [width // 2] * 2, mode="reflect")[0, 0].long()
    return (torch.arange(extent)[:, None] * extent + source.unfold(0, width, 1)).flatten()


def bilateral_blur(images: Tensor, severity: Tensor, generator: Generator) -> Tensor:
    """Bilateral filter of 7×7 pixels: neighbours of unlike colour count less, by a Gaussian of up to .6."""
    pixels = images.numpy()
    height, width = pixels.shape[-2:]
    deviation = 0.6 * severity.numpy() ** 1.5  # with a linear course, the second half would look alike
    falloff = -0.5 / np.maximum(deviation, 1e-3)[:, None, None] ** 2  # 1e-3 leaves only the middle
    padded = np.pad(pixels, ((0, 0), (0, 0), (_REACH, _REACH), (_REACH, _REACH)), mode="reflect")
    total, weights = np.zeros_like(pixels), np.zeros_like(pixels[:, 0])
    change = np.empty_like(pixels)
    for top, left in product(range(2 * _REACH + 1), repeat=2):
        neighbour = padded[:, :, top : top + height, left : left + width]
        np.subtract(neighbour, pixels, out=change)
        np.square(change, out=change)
        weight = change[:, 0] + change[:, 1]
        weight += change[:, 2]
        weight *= falloff
        weight -= np.float32(((top - _REACH) ** 2 + (left - _REACH) ** 2) / (2 * _REACH**2))
        np.exp(weight, out=weight)
        weights += weight
        total += np.multiply(neighbour, weight[:, None], out=change)
    return torch.from_numpy(total / weights[:, None])
