"""The order of the training items."""

from collections.abc import Sized

import numpy as np
import torch
from torch.utils.data import RandomSampler


class EpochShuffle(RandomSampler):
    """Random order that depends on the seed and the epoch only, so that a resumed run repeats it.

    Lightning calls `set_epoch`, and under DDP puts its own sampler in place of this one.
    """

    def __init__(self, dataset: Sized, seed: int) -> None:
        super().__init__(dataset, generator=torch.Generator())
        self.seed = seed
        self.set_epoch(0)

    def set_epoch(self, epoch: int) -> None:
        """Start the order of an epoch."""
        self.generator.manual_seed(int(np.random.SeedSequence([self.seed, epoch]).generate_state(1)[0]))
