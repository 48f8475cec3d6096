"""Stop a run whose metric has learned the inverse of what people see."""

from typing import Any

import pytorch_lightning as pl
import torch

from perceptual.data import TWO_AFC
from perceptual.training.module import Diverged

SCORE = "val/2afc/mean"


class InverseGuard(pl.Callback):
    """Ends training after a validation that scores clearly worse than tossing a coin.

    The paper's ranking network may learn that the patch at the larger distance is preferred. Nothing brings
    such a metric back, so the run ends and the checkpoints from before it stay as they are.

    Args:
        floor: lowest 2AFC score in [0, 1] that is let pass. Of few triplets, less is let pass: what a coin
            would score once in fifty times.

    Raises:
        Diverged: in validation, the score is below the floor.
    """

    def __init__(self, floor: float = 0.45) -> None:
        if not 0 <= floor <= 0.5:
            raise ValueError(f"floor must lie in [0, 0.5], got {floor}")
        self.floor = floor
        self.items = 0

    def on_validation_epoch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Start to count."""
        self.items = 0

    def on_validation_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, *rest: Any
    ) -> None:
        """Count the triplets."""
        self.items += len(batch.answer) if batch.kind == TWO_AFC else 0

    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Judge the epoch."""
        score = trainer.callback_metrics.get(SCORE)
        if trainer.state.fn != "fit" or trainer.sanity_checking or score is None:
            return
        counted = torch.tensor(float(self.items), device=pl_module.device)
        items = trainer.strategy.reduce(counted, reduce_op="sum").item()
        if self.is_inverse(score.item(), items):
            raise Diverged(
                f"the metric has learned the inverse: val 2AFC is {100 * score:.1f} % after epoch "
                f"{trainer.current_epoch + 1}, below {100 * self.floor:g} %; ranking=antisymmetric cannot be "
                "inverted, and another seed may not be"
            )

    def is_inverse(self, score: float, items: float) -> bool:
        """Whether a score is below the floor, and by chance it would be on few occasions only."""
        # two standard errors of a coin tossed for each triplet
        return score < min(self.floor, 0.5 - 1 / max(items, 1) ** 0.5)
