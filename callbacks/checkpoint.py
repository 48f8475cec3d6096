"""The checkpoint to go on from."""

import pytorch_lightning as pl
from pytorch_lightning.callbacks import ModelCheckpoint

from perceptual.module import Diverged


class LastCheckpoint(ModelCheckpoint):
    """Lightning's `ModelCheckpoint`, which also saves on Ctrl-C, but nothing of a run that went wrong."""

    def on_exception(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, exception: BaseException
    ) -> None:
        """Save what training can go on from; a run that diverged leaves the checkpoint it had."""
        if not isinstance(exception, Diverged):
            super().on_exception(trainer, pl_module, exception)
