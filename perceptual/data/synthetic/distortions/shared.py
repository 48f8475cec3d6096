"""What the families share: random draws, one per image, and tensors that depend on the size only."""

import math
from collections.abc import Callable
from functools import cache, wraps

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


def kept(make: Callable[[int, int], Tensor]) -> Callable[[int, int], Tensor]:
    """Make a tensor of two numbers once, as patches of one size come by the thousand."""

    @cache
    @wraps(make)
    def made(first: int, second: int) -> Tensor:
        with torch.inference_mode(False):  # so that it may take part in training, too
            return make(first, second)

    return made
