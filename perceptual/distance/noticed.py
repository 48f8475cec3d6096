"""What a distance means: the share of people who notice a difference, as a function of the distance."""

import math
from dataclasses import dataclass
from typing import Annotated

import torch
from annotated_types import Ge, Gt, Le
from torch import Tensor

Share = Annotated[float, Ge(0), Le(1)]


@dataclass(frozen=True)
class Noticed:
    """A logistic in log d: floor + (ceiling − floor) / (1 + (threshold / d)^slope)."""

    threshold: Annotated[float, Gt(0)]
    """The distance midway between floor and ceiling."""
    slope: Annotated[float, Gt(0)]
    floor: Share
    """Share of people who notice where there is nothing."""
    ceiling: Share
    """Share of people who notice the largest differences."""
    low: Annotated[float, Ge(0)] | None
    """Lower end of the 95 % interval of the threshold; None where too few references are known."""
    high: Annotated[float, Ge(0)] | None
    pairs: Annotated[int, Ge(1)]
    """That it was fitted on."""
    data: str
    """What these are."""

    def share(self, distance: Tensor | float) -> Tensor:
        """Share of people, in [0, 1], who notice each distance (…)."""
        d = torch.as_tensor(distance)
        risen = (self.slope * (d.clamp(min=0).log() - math.log(self.threshold))).sigmoid()
        return self.floor + (self.ceiling - self.floor) * risen

    def distance(self, share: float) -> float:
        """Return the distance that this share of people notice.

        Raises:
            ValueError: a share that no distance has.
        """
        if not self.floor < share < self.ceiling:
            raise ValueError(
                f"the share of people must lie between {self.floor:.1%} and {self.ceiling:.1%}, "
                f"the floor and the ceiling of the fit, got {share:.1%}"
            )
        return self.threshold * ((share - self.floor) / (self.ceiling - share)) ** (1 / self.slope)

    def sentence(self, distance: float) -> str:
        """Say how many people notice a distance, and how that is known."""
        share = self.share(float(distance)).item()
        return f"about {100 * share:.0f} % of people notice (fitted on {self.pairs:,} pairs of {self.data})"
