"""Adversarial training: triplets whose images are moved, within a small ball, to where the loss is highest.

Ghildyal and Liu 2023, "R-LPIPS", https://arxiv.org/abs/2307.15157, for perceptual distances; one step from a
random start as Wong et al. 2020, https://arxiv.org/abs/2001.03994.
"""

from collections.abc import Callable
from dataclasses import dataclass
from fractions import Fraction
from typing import TYPE_CHECKING, Literal, get_args

import torch
from torch import Generator, Tensor

from perceptual.distance.attacks import NORMS, Ball, Norm, ascend

if TYPE_CHECKING:
    from perceptual.data.batch import Batch

Moved = Literal["nearer", "p0", "p1", "ref", "all"]
MOVED: tuple[Moved, ...] = get_args(Moved)


@dataclass(frozen=True)
class Robust:
    """Settings of adversarial training.

    A step costs as much as steps + 2 without it: an attack, and the loss of clean and of attacked triplets.

    Args:
        steps: of the attack; 0: none.
        radius: of the ball, a number or a fraction such as `4/255`.
        norm: `max`, the largest change of a value in [0, 1]; or `l2`, the Euclidean norm of an image's.
        images: which are moved: the one that more people prefer (`nearer`), one role, or `all`.
        weight: of the attacked loss, in (0, 1]; the clean loss has the rest.
        warmup: fraction of the run in which the radius grows from 0.

    Raises:
        ValueError: an unknown word, or a number out of range.
    """

    steps: int = 0
    radius: str | float = "4/255"
    norm: Norm = "max"
    images: Moved = "nearer"
    weight: float = 0.5
    warmup: float = 0.0

    def __post_init__(self) -> None:
        """Check the settings."""
        for key, word, words in (("norm", self.norm, NORMS), ("images", self.images, MOVED)):
            if word not in words:
                raise ValueError(f"robust.{key} must be one of {', '.join(words)}, got {word!r}")
        for key, fits, range_ in (
            ("steps", self.steps >= 0, "at least 0"),
            ("weight", 0 < self.weight <= 1, "more than 0 and at most 1"),
            ("warmup", 0 <= self.warmup < 1, "at least 0 and less than 1"),
            ("radius", self.reach > 0, "a positive number or fraction, such as 4/255"),
        ):
            if not fits:
                raise ValueError(f"robust.{key} must be {range_}, got {getattr(self, key)}")

    def __str__(self) -> str:
        """Say what is attacked, and that it takes images."""
        steps = "1 step" if self.steps == 1 else f"{self.steps} steps"
        return (
            f"{steps} within {self.radius} ({self.norm}) on {self.images} images: read anew, not from a cache"
        )

    @property
    def reach(self) -> float:
        """The radius as a number; 0 if it is none."""
        try:
            return float(Fraction(str(self.radius)))
        except (ValueError, ZeroDivisionError, OverflowError):
            return 0.0

    def attack(
        self, loss: Callable[["Batch"], Tensor], batch: "Batch", part: float, generator: Generator
    ) -> "Batch":
        """Return a batch with images where the loss is higher.

        Args:
            loss: of a batch of triplets, a scalar.
            batch: N triplets.
            part: of the radius, in [0, 1].
            generator: on the CPU; draws where the attack starts.
        """
        number = batch.kind.roles.index
        if self.images == "nearer":
            first, second = map(number, batch.kind.exchanged or ())
            which = torch.where(batch.answer > 0.5, second, first).unsqueeze(1)
        else:
            roles = batch.kind.roles if self.images == "all" else [self.images]
            chosen = torch.tensor([*map(number, roles)], device=batch.answer.device)
            which = chosen.repeat(len(batch.answer), 1)
        ball = Ball(batch.shown(which), self.reach * part, self.norm)
        moved = ascend(lambda images: loss(batch.showing(which, images)), ball, generator, self.steps)
        return batch.showing(which, moved)
