"""Attacks: images near given ones at which an objective, such as a distance, is as large as can be found.

`ascend` is projected gradient ascent (PGD; Madry et al. 2018, https://arxiv.org/abs/1706.06083), as Ghildyal
and Liu 2023 (https://arxiv.org/abs/2307.05437) and Kettunen et al. 2019 (https://arxiv.org/abs/1906.03973)
use it on perceptual distances. `auto_ascend` is APGD (Croce and Hein 2020,
https://arxiv.org/abs/2003.01690), which finds its own steps.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, NamedTuple, get_args

import torch
from torch import Generator, Tensor

Norm = Literal["max", "l2"]
NORMS: tuple[Norm, ...] = get_args(Norm)
Objective = Callable[[Tensor], Tensor]
"""Images (N, …) → (N,), or a scalar for `ascend`, differentiable: what an attack raises."""

REACH = 2.5  # all steps of PGD together, in radii: from anywhere in the ball to any side of it
MOMENTUM = 0.75  # of APGD: the part of a new direction
RISING = 0.75  # of its steps between two checks, of which fewer mean that steps are too long
FIRST_CHECK, SOONER, SHORTEST = 0.22, 0.03, 0.06  # of all steps: when APGD checks, and how that shrinks


class Strength(NamedTuple):
    """Attacks by APGD after PGD."""

    starts: int
    steps: int


STRENGTHS = {"fast": Strength(0, 0), "standard": Strength(1, 50), "strong": Strength(5, 100)}


@dataclass(frozen=True)
class Ball:
    """Images within a radius of x, and in [0, 1].

    Args:
        x: images (N, C, H, W) in [0, 1].
        radius: the largest change of a value (`max`), or of an image's Euclidean norm (`l2`).
        norm: which of them.
    """

    x: Tensor
    radius: float
    norm: Norm = "max"

    def project(self, y: Tensor) -> Tensor:
        """Return images near y that are in the ball; y itself, if it is."""
        if self.norm == "max":
            low, high = (self.x - self.radius).clamp(min=0), (self.x + self.radius).clamp(max=1)
            return torch.minimum(torch.maximum(y, low), high)
        change = y - self.x
        factor = (self.radius / _length(change).clamp(min=1e-12)).clamp(max=1)
        # both sets are convex and x is in them: values cut to [0, 1] come nearer to it
        return (self.x + factor * change).clamp(0, 1)

    def uphill(self, slope: Tensor) -> Tensor:
        """Return the change of norm 1 that raises most what has this slope."""
        return slope.sign() if self.norm == "max" else slope / _length(slope).clamp(min=1e-30)

    def draw(self, generator: Generator) -> Tensor:
        """Draw images in the ball, by a generator on the CPU."""
        change = 2 * torch.rand(self.x.shape, generator=generator) - 1
        if self.norm == "l2":
            change = change / _length(change) * torch.rand(len(change), 1, 1, 1, generator=generator)
        return self.project(self.x + (change * self.radius).to(self.x))


def ascend(objective: Objective, ball: Ball, generator: Generator, steps: int) -> Tensor:
    """Take steps of one length from a random start, and return where they end.

    Raises:
        TypeError: the objective has no gradient.
    """
    y = ball.draw(generator)
    for _ in range(steps):
        y = ball.project(y + REACH * ball.radius / steps * ball.uphill(_slope(objective, y)[1]))
    return y.detach()


def auto_ascend(objective: Objective, ball: Ball, generator: Generator, steps: int) -> Tensor:
    """Take steps with momentum from a random start, shorter where they stop helping; return the best images.

    Raises:
        TypeError: the objective has no gradient.
    """
    y = before = best = ball.draw(generator)
    value, slope = _slope(objective, y)
    highest, best_slope = value, slope
    length = torch.full_like(value, 2 * ball.radius)
    rises, since = torch.zeros_like(value), 0
    halved, highest_then = torch.zeros_like(value, dtype=torch.bool), highest
    check, period = round(FIRST_CHECK * steps), FIRST_CHECK
    for step in range(steps):
        ahead = ball.project(y + _wide(length) * ball.uphill(slope))
        part = MOMENTUM if step else 1.0
        y, before = ball.project(y + part * (ahead - y) + (1 - part) * (y - before)), y
        former, (value, slope) = value, _slope(objective, y)
        rises, since = rises + (value > former), since + 1
        better = value > highest
        highest = torch.where(better, value, highest)
        best, best_slope = (
            torch.where(_wide(better), new, old) for new, old in ((y, best), (slope, best_slope))
        )
        if step + 1 == check:
            too_long = (rises < RISING * since) | (~halved & (highest == highest_then))
            length = torch.where(too_long, length / 2, length)
            y, slope = (
                torch.where(_wide(too_long), new, old) for new, old in ((best, y), (best_slope, slope))
            )
            value = torch.where(too_long, highest, value)
            halved, highest_then = too_long, highest
            rises, since = torch.zeros_like(rises), 0
            period = max(period - SOONER, SHORTEST)
            check += max(round(period * steps), 1)
    return best


def _slope(objective: Objective, y: Tensor) -> tuple[Tensor, Tensor]:
    """Values (N,) of images, and their gradients; where one is not finite, 0."""
    with torch.enable_grad():
        y = y.detach().requires_grad_()
        values = objective(y)
        if not values.requires_grad:
            raise TypeError("it has no gradient")
        (slope,) = torch.autograd.grad(values.sum(), y, allow_unused=True)
    if slope is None:
        raise TypeError("it has no gradient")
    return values.detach(), slope.nan_to_num(0)


def _length(images: Tensor) -> Tensor:
    """Euclidean norm of each image, (N, 1, 1, 1)."""
    return _wide(images.flatten(1).norm(dim=1))


def _wide(values: Tensor) -> Tensor:
    return values.view(-1, 1, 1, 1)
