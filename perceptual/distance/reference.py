"""Many images against one: the distance from a target whose features are held."""

from collections.abc import Sequence
from typing import Protocol

import torch
from torch import Tensor

from perceptual.distance.inputs import Metric, to_rgb


class Comparing(Metric, Protocol):
    """What of `LPIPS` a reference uses."""

    spatial: bool

    def maps(self, rgb: Tensor) -> list[Tensor]:
        """Feature maps that are compared."""
        ...

    def compare(self, levels: Sequence[Sequence[Tensor]], size: Sequence[int], spatial: bool) -> Tensor:
        """Distances of maps, level by level."""
        ...


class Reference:
    """Distance of images from one target whose features are held: what `LPIPS.reference` returns."""

    def __init__(self, lpips: Comparing, y: Tensor) -> None:
        # features made in inference mode could not take part in a gradient later
        with torch.inference_mode(False), torch.no_grad():
            (rgb,) = to_rgb(lpips, y=y.clone() if y.is_inference() else y)
            self._maps = lpips.maps(rgb)
        self._lpips = lpips
        self._shape = rgb.shape

    def __call__(self, x: Tensor) -> Tensor:
        """What `LPIPS(x, y)` gives, with a gradient to x only.

        Args:
            x: images (N, 3, H, W) of the size of y. y has N images too, or one, for all of x.

        Raises:
            ValueError: what `LPIPS.forward` raises.
        """
        lpips, count = self._lpips, len(self._maps[0])
        (rgb,) = to_rgb(lpips, x=x)
        if rgb.shape[1:] != self._shape[1:] or count not in (1, len(rgb)):
            raise ValueError(
                f"x must have the shape of the reference, {tuple(self._shape)}"
                f"{', with any number of images' if count == 1 else ''}, got {tuple(x.shape)}"
            )
        levels = [
            (f, held.expand(len(rgb), -1, -1, -1))
            for f, held in zip(lpips.maps(rgb), self._maps, strict=True)
        ]
        return lpips.compare(levels, rgb.shape[2:], lpips.spatial).sum(1, keepdim=lpips.spatial)
