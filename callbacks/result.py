"""The run as a row of a leaderboard, with what every validation triplet scored."""

from callbacks.report import Report, Trained
from perceptual.evaluation import evaluate as evaluation
from perceptual.evaluation import runs


class Result(Report):
    """Writes `results/` in the run's folder; `perceptual leaderboard` compares runs by it."""

    def make(self, trained: Trained) -> None:
        """Keep the distances of all validation triplets, their score and where they came from."""
        distance, trainer = trained.module.distance, trained.trainer
        evaluation.keep(
            self.run_dir / runs.RESULTS,
            str(self.run_dir),
            distance,
            trained.data,
            trained.columns,
            family=distance.backbone.name,
            settings=runs.settings(self.run_dir),
            command=runs.command(self.run_dir),
            trained_on=trained.data.fingerprint("train"),
            epochs=trainer.current_epoch,
            steps=trainer.global_step,
        )
