"""The checkpoints of a run: the one to go on from, exactly, and the best so far."""

import os
import shutil
import signal
import threading
import time
from pathlib import Path
from types import FrameType
from typing import Any

import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import ModelCheckpoint
from pytorch_lightning.utilities import rank_zero_only
from tqdm import tqdm

from perceptual.training.checkpoints import read_checkpoint
from perceptual.training.module import PerceptualRanker, mean_of

# SLURM sends one of the last two before it takes the machine away, where Lightning handles it
SIGNALS = ("SIGINT", "SIGTERM", "SIGUSR1", "SIGUSR2")


class LastCheckpoint(ModelCheckpoint):
    """`last.ckpt`: after every epoch, within one as often as is asked, and when the run is told to stop.

    It is only made between optimiser steps, of a run that is well: going on from it gives the weights of a
    run that was never stopped. Ctrl-C, SIGTERM and SLURM's signal wait for the end of the step, or of
    validation, in all processes; a second one does not wait. An error leaves the checkpoint that was there.

    Args:
        dirpath: folder of the checkpoint.
        minutes: time after which an epoch is interrupted to save; None: no time is too long.
        steps: optimiser steps after which it is; None: any number.
        adapters_only: leave a frozen network out of all checkpoints of the run, even where its name does not
            give its weights again; they record its name and its weights' SHA-256, and another is refused.

    Raises:
        ValueError: minutes or steps not positive.
    """

    def __init__(
        self,
        dirpath: str,
        minutes: float | None = 5,
        steps: int | None = None,
        adapters_only: bool = False,
    ) -> None:
        for argument, value in (("minutes", minutes), ("steps", steps)):
            if value is not None and not value > 0:
                raise ValueError(f"callbacks.last.{argument} must be positive or null, got {value}")
        super().__init__(dirpath, filename="last", enable_version_counter=False)
        self.minutes, self.steps, self.adapters_only = minutes, steps, adapters_only
        self._told: int = 0
        self._handlers: dict[int, Any] = {}

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Start the clock, and take signals."""
        super().on_train_start(trainer, pl_module)
        if self.adapters_only and isinstance(pl_module, PerceptualRanker):
            pl_module.adapters_only = True
        self._saved_at = time.monotonic()
        if threading.current_thread() is threading.main_thread():
            for number in (getattr(signal, name) for name in SIGNALS if hasattr(signal, name)):
                if callable(handler := signal.getsignal(number)):
                    self._handlers[number] = handler
                    signal.signal(number, self._wait)

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Save if it is time; do what a signal asked for."""
        within_step = (batch_idx + 1) % trainer.accumulate_grad_batches
        # after the last batch comes validation, and then the checkpoint of the epoch
        if within_step or trainer.fit_loop.epoch_loop.batch_progress.is_last_batch:
            return
        due, told = self._agree(trainer, self._due(trainer), self._told)
        if due or told:
            self._save_topk_checkpoint(trainer, self._monitor_candidates(trainer))
            self._saved_at = time.monotonic()
        self._obey(trainer, told)

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Save; do what a signal asked for."""
        super().on_train_epoch_end(trainer, pl_module)
        self._saved_at = time.monotonic()
        self._obey(trainer, self._agree(trainer, False, self._told)[1])

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Leave signals to those who had them."""
        super().on_train_end(trainer, pl_module)
        self._release()

    def on_exception(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, exception: BaseException
    ) -> None:
        """Save nothing: the run may be ill, or in the middle of a step."""
        self._release()

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take over nothing: a resumed run has a file of its own."""

    def _due(self, trainer: pl.Trainer) -> bool:
        late = self.minutes is not None and time.monotonic() - self._saved_at >= 60 * self.minutes
        # a run that ends within an epoch is to go on within it, if it is asked for more steps
        ends = trainer.global_step == trainer.max_steps
        return late or ends or (self.steps is not None and trainer.global_step % self.steps == 0)

    def _agree(self, trainer: pl.Trainer, due: bool, told: int) -> tuple[bool, int]:
        """What any process wants, in all of them: they save together."""
        if trainer.world_size == 1:
            return due, told
        wanted = torch.tensor([int(due), told], device=trainer.strategy.root_device)
        due, told = trainer.strategy.reduce(wanted, reduce_op="max").tolist()
        return bool(due), told

    def _wait(self, number: int, frame: FrameType | None) -> None:
        if self._told:
            self._release()
            raise KeyboardInterrupt
        self._told = number
        if number == signal.SIGINT and rank_zero_only.rank == 0:  # type: ignore[attr-defined]
            # print() may be what was interrupted
            os.write(2, b"\nStopping after this step or validation; Ctrl-C again stops at once.\n")

    def _obey(self, trainer: pl.Trainer, told: int) -> None:
        if not told:  # a signal that has come since stays noted
            return
        self._told = 0
        if told in (signal.SIGINT, signal.SIGTERM):
            raise SystemExit(128 + told)  # as shells have it
        if trainer.is_global_zero:
            tqdm.write(f"{signal.Signals(told).name}: saved, and asking SLURM to start the job again")
        self._handlers[told](told, None)  # Lightning's: it saves for SLURM, and has the job requeued

    def _release(self) -> None:
        for number, handler in self._handlers.items():
            signal.signal(number, handler)
        self._handlers = {}


class BestCheckpoint(ModelCheckpoint):
    """`best.ckpt`: the highest validation score of the run, also of what was trained before it was resumed.

    A resumed run has a folder of its own: the best checkpoint so far is copied there. In the configuration it
    stands before the last checkpoint, which is to hold what is the best now.

    Args:
        dirpath: folder of the checkpoint.
        monitor: the logged score; None: the mean of what is trained on, such as `val/2afc/mean`.
    """

    def __init__(self, dirpath: str, monitor: str | None = None) -> None:
        self._given = monitor
        monitor = monitor or "val/2afc/mean"
        super().__init__(dirpath, filename="best", monitor=monitor, mode="max", enable_version_counter=False)

    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        """Find the score of what is trained on."""
        self.monitor = self._given or mean_of(trainer)
        super().setup(trainer, pl_module, stage)

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Save if the epoch was validated, which one that `max_steps` ended is not."""
        if self.monitor in trainer.callback_metrics and trainer.is_last_batch:
            super().on_train_epoch_end(trainer, pl_module)

    def on_load_checkpoint(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        """Note where the checkpoint lies that the run goes on from."""
        self._beside = Path(str(trainer.ckpt_path)).parent

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take over the score and the file: of all paths, only that of `best.ckpt` beside the checkpoint.

        SLURM's checkpoints lie one folder higher, in the run that goes on.

        Raises:
            ValueError: that file is not a checkpoint of training.
        """
        if not state_dict["best_model_path"] or state_dict["best_model_score"] is None:
            return
        mine = Path(str(self.dirpath), "best.ckpt")
        best = next((path for path in (self._beside / mine.name, mine) if path.is_file()), None)
        if best is None:
            return
        read_checkpoint(best)
        if mine.absolute() != best.absolute():
            mine.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(best, mine)
        self.best_model_path = self.kth_best_model_path = str(mine)
        self.best_model_score = self.kth_value = state_dict["best_model_score"]
        self.best_k_models = {str(mine): state_dict["best_model_score"]}
