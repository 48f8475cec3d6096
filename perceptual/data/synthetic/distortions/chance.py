"""Random draws that the families share, one per image."""

import math

import torch
from torch import Generator, Tensor


def uniform(shape: tuple[int, ...], generator: Generator) -> Tensor:
    """Uniform in [-1, 1)."""
    return 2 * torch.rand(shape, generator=generator) - 1


def signs(count: int, generator: Generator) -> Tensor:
    """-1 or 1, (N,)."""
    return uniform((count,), generator).sign()


def directions(count: int, generator: Generator) -> Tensor:
    """Unit vectors in the plane, (N, 2)."""
    angle = math.pi * uniform((count,), generator)
    return torch.stack([angle.cos(), angle.sin()], dim=1)


def per_image(values: Tensor) -> Tensor:
    """(N,) → (N, 1, 1, 1)."""
    return values[:, None, None, None]
