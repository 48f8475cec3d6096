"""How fast training goes."""

import time
from typing import Any

import pytorch_lightning as pl
import torch


class Throughput(pl.Callback):
    """Logs `train/triplets_per_second` of each epoch, over all processes, without the time of validation.

    Reads a clock twice an epoch; nothing happens in a step.
    """

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Start the clock: an epoch that is resumed in its middle does not start."""
        self.on_train_epoch_start(trainer, pl_module)

    def on_train_epoch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Start the clock."""
        self._validating = 0.0
        self._first_batch = _batches_done(trainer)
        self._start = _now()

    def on_validation_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Note when validation begins."""
        self._validation_start = _now()

    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Leave validation out."""
        self._validating = getattr(self, "_validating", 0.0) + _now() - self._validation_start

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Log the speed of the epoch."""
        seconds = _now() - self._start - self._validating
        loader: Any = trainer.train_dataloader
        batches = _batches_done(trainer) - self._first_batch
        # batches are those of all processes; the last of an epoch may be smaller
        items = min(batches * loader.batch_size, len(loader.dataset))
        pl_module.log("train/triplets_per_second", items / seconds, rank_zero_only=True)


def _batches_done(trainer: pl.Trainer) -> int:
    return trainer.fit_loop.epoch_loop.batch_progress.total.completed


def _now() -> float:
    if torch.cuda.is_available() and torch.cuda.is_initialized():
        torch.cuda.synchronize()
    return time.perf_counter()
