"""The run as a row of a leaderboard, with what every validation triplet scored."""

import pytorch_lightning as pl

from callbacks.report import Report, judge, source
from perceptual.evaluation import evaluate as evaluation
from perceptual.evaluation import runs
from perceptual.training.module import PerceptualRanker


class Result(Report):
    """Writes `results/` in the run's folder; `perceptual leaderboard` compares runs by it."""

    def make(self, trainer: pl.Trainer, module: PerceptualRanker) -> None:
        """Keep the distances of all validation triplets, their score and where they came from."""
        judged, data = judge(trainer, module), source(trainer)
        known = {
            "family": module.distance.backbone.name,
            "settings": runs.settings(self.run_dir),
            "command": runs.command(self.run_dir),
            "trained_on": data.fingerprint("train"),
            "epochs": trainer.current_epoch,
            "steps": trainer.global_step,
        }
        results = self.run_dir / runs.RESULTS
        columns = (judged.d0, judged.d1)
        evaluation.keep(results, str(self.run_dir), module.distance, data, columns, known)
