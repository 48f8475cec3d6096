"""An exponential moving average of the weights: it is validated, saved and kept in their place."""

from collections.abc import Callable
from typing import Any

import pytorch_lightning as pl
import torch
from torch import Tensor

try:
    from pytorch_lightning.callbacks import WeightAveraging
except ImportError as error:
    raise ValueError("averaging=ema needs pytorch-lightning 2.6 or newer") from error

Update = Callable[[list[Tensor], list[Tensor], Any], None]


class EMA(WeightAveraging):
    """Lightning's weight averaging with a decay that warms up, and without the cost of frozen weights.

    After n steps the average moves by 1 − min(decay, (1 + n) / (10 + n)) of its distance from the weights, as
    TensorFlow's does, so that a short run forgets where it began. Checkpoints hold the average as the model,
    and beside it what training needs to go on.

    Args:
        decay: share of the average that stays after each step, in [0, 1).
    """

    def __init__(self, decay: float = 0.999) -> None:
        if not 0 <= decay < 1:
            raise ValueError(f"decay must be at least 0 and less than 1, got {decay}")
        super().__init__(multi_avg_fn=moving_average(decay))

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Let the average have the frozen weights of the model, not a copy of them."""
        assert self._average_model is not None
        self._average_model.to(pl_module.device)
        averages = self._average_model.module.parameters()
        for average, weight in zip(averages, pl_module.parameters(), strict=True):
            if not weight.requires_grad:
                average.data = weight.data


def moving_average(decay: float) -> Update:
    """The update of `torch.optim.swa_utils.AveragedModel`: changes the averages in place."""

    @torch.no_grad()
    def update(averages: list[Tensor], weights: list[Tensor], count: Any) -> None:
        steps = int(count)
        share = 1 - min(decay, (1 + steps) / (10 + steps))
        for average, weight in zip(averages, weights, strict=True):
            if average.data_ptr() == weight.data_ptr():
                continue  # frozen
            if average.is_floating_point():
                average.lerp_(weight.to(average.dtype), share)
            else:
                average.copy_(weight)

    return update
