"""A progress bar for each epoch, and a line after it: its score, and the time the run still needs.

Where no person watches, a line every half minute says where a long epoch is.
"""

import sys
import time
from contextlib import ExitStack
from datetime import timedelta
from typing import Any

import pytorch_lightning as pl
from pytorch_lightning.callbacks import TQDMProgressBar
from tqdm import tqdm

from perceptual.files.progress import lines, run_number
from perceptual.metrics import SCORES
from perceptual.training.module import mean_of, scored_kinds

INTERVAL = 0.2  # seconds between two pictures of the bar: drawing it takes longer than a step on cached means


class Progress(TQDMProgressBar):
    """Lightning's progress bar (only where a person watches), with a line after every epoch."""

    def __init__(self) -> None:
        super().__init__(refresh_rate=1 if sys.stderr.isatty() else 0)
        self.drawn = 0.0
        self.speaking = ExitStack()

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Start the clock."""
        super().on_train_start(trainer, pl_module)
        self.started, self.first_step = time.monotonic(), trainer.global_step
        if trainer.is_global_zero:
            self.speaking.enter_context(lines(lambda: _place(trainer)))

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Stop the lines."""
        super().on_train_end(trainer, pl_module)
        self.speaking.close()

    def on_exception(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, exception: BaseException
    ) -> None:
        """Stop the lines."""
        self.speaking.close()

    def on_train_batch_end(self, trainer: pl.Trainer, *args: Any) -> None:
        """Draw the bar if it is time to, and after the last batch."""
        if self.is_enabled and (self._is_time() or trainer.is_last_batch):
            super().on_train_batch_end(trainer, *args)

    def on_validation_batch_end(self, trainer: pl.Trainer, *args: Any) -> None:
        """Draw the bar of validation in the same way."""
        if self.is_enabled and self._is_time():
            super().on_validation_batch_end(trainer, *args)

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Print the epoch, its score and the time left."""
        super().on_train_epoch_end(trainer, pl_module)
        if not trainer.is_global_zero:
            return
        words = [f"epoch {trainer.current_epoch + 1}/{trainer.max_epochs}"]
        kind = next(iter(scored_kinds(trainer)))
        if (score := trainer.callback_metrics.get(mean_of(trainer))) is not None:
            words.append(f"val {SCORES[kind].heading.removesuffix(' in %')} {100 * score:.1f} %")
        if (attacked := trainer.callback_metrics.get("train/2afc_attacked")) is not None:
            clean = trainer.callback_metrics["train/2afc"]
            words.append(f"last batch 2AFC {100 * clean:.1f} %, attacked {100 * attacked:.1f} %")
        steps = trainer.global_step - self.first_step
        remaining = trainer.estimated_stepping_batches - trainer.global_step
        if steps and 0 < remaining < float("inf"):
            seconds = round((time.monotonic() - self.started) / steps * remaining)
            words.append(f"about {timedelta(seconds=seconds)} left")
        tqdm.write(run_number() + " · ".join(words))

    def _is_time(self) -> bool:
        now = time.monotonic()
        if now - self.drawn < INTERVAL:
            return False
        self.drawn = now
        return True


def _place(trainer: pl.Trainer) -> str:
    """Where training is, in words."""
    epoch = f"epoch {trainer.current_epoch + 1}/{trainer.max_epochs}"
    if trainer.validating:
        return f"{epoch} · validating"
    done = trainer.fit_loop.epoch_loop.batch_progress.current.completed
    return f"{epoch} · batch {done}/{trainer.num_training_batches}"
