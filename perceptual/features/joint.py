"""Several feature networks as one: the levels of each, one after the other."""

from collections.abc import Iterable

from torch import Tensor, nn


class Joint(nn.ModuleList):
    """Networks that see the same images, each resized and normalised as it needs."""

    def __init__(self, members: Iterable[nn.Module]) -> None:
        super().__init__(members)

    def forward(self, images: Tensor) -> list[Tensor]:
        """The maps of the first network, shallow to deep, then those of the second, ….

        Args:
            images: (N, 3, H, W) in [0, 1].
        """
        return [m for member in self for m in member(images)]
