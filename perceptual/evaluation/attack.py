"""Adversarial perturbations of a distance by projected gradient ascent (PGD), white box.

Madry et al. 2018, https://arxiv.org/abs/1706.06083, as Ghildyal and Liu 2023 (https://arxiv.org/abs/2307.05437)
and Kettunen et al. 2019 (https://arxiv.org/abs/1906.03973) use it on perceptual distances.
"""

from collections.abc import Callable

import torch
from torch import Generator, Tensor

Distance = Callable[[Tensor, Tensor], Tensor]

STEPS = 20
REACH = 2.5  # all steps together, in radii: from anywhere in the ball to any side of it


def farthest(
    distance: Distance, ref: Tensor, x: Tensor, radius: float, generator: Generator, steps: int = STEPS
) -> Tensor:
    """Images within ±radius of x (and in [0, 1]) that a distance puts as far from ref as it can find.

    Args:
        distance: differentiable (x, y) → (N,).
        ref, x: images (N, 3, H, W) in [0, 1].
        radius: largest change of a value.
        generator: on the CPU; draws where each image starts in the ball.
        steps: of gradient ascent, by the sign of the gradient.

    Raises:
        TypeError: the distance has no gradient.
    """
    low, high = (x - radius).clamp(min=0), (x + radius).clamp(max=1)
    start = (2 * torch.rand(x.shape, generator=generator) - 1) * radius
    y = torch.minimum(torch.maximum(x + start.to(x), low), high)
    for _ in range(steps):
        y = torch.minimum(
            torch.maximum(y + REACH * radius / steps * _slope(distance, ref, y).sign(), low), high
        )
    return y


def _slope(distance: Distance, ref: Tensor, y: Tensor) -> Tensor:
    with torch.enable_grad():
        y = y.detach().requires_grad_()
        value = distance(ref, y).sum()
        if not value.requires_grad:
            raise TypeError("it has no gradient")
        (slope,) = torch.autograd.grad(value, y, allow_unused=True)
    if slope is None:
        raise TypeError("it has no gradient")
    return slope.nan_to_num(0)
