"""Weights & Biases, where `logger=wandb` chose it; nothing here imports wandb before."""

from pathlib import Path
from typing import Any

import pytorch_lightning as pl
from pytorch_lightning.callbacks import ModelCheckpoint
from pytorch_lightning.loggers import CSVLogger, Logger, WandbLogger
from pytorch_lightning.utilities import rank_zero_only
from tqdm import tqdm

from callbacks.report import Report, Trained, wandb_runs
from perceptual.evaluation import provenance, runs
from perceptual.files.messages import first_line


def csv_and_wandb(
    run_dir: str, project: str, name: str | None = None, group: str | None = None, offline: bool = False
) -> list[Logger]:
    """Loggers to a file and to Weights & Biases; without a key or a network, W&B writes to the run's folder.

    Args:
        run_dir: folder of the run.
        project: at W&B.
        name: of the run there; chosen by W&B if not given.
        group: of the run there.
        offline: only write; `wandb sync` sends the run later.
    """
    loggers: list[Logger] = [CSVLogger(run_dir, name="logs", version="")]
    try:
        import wandb
    except ModuleNotFoundError:
        tqdm.write("W&B       is not installed (pip install wandb); this run logs to files only.")
        return loggers
    if rank_zero_only.rank:  # type: ignore[attr-defined]
        return loggers
    mode: Any = "offline" if offline else wandb.Settings().mode
    if mode in ("online", "shared") and (problem := _unreachable(wandb)):
        tqdm.write(
            f"W&B       {problem}. This run logs offline; later: wandb sync {run_dir}/wandb/offline-run-*"
        )
        mode = "offline"
    try:
        # begun here, where it can still be left out; Lightning would pass arguments that wandb warns of
        run = wandb.init(project=project, name=name, group=group, dir=run_dir, mode=mode)
        run.define_metric("trainer/global_step")
        run.define_metric("*", step_metric="trainer/global_step", step_sync=True)
    except Exception as error:  # wandb fails in many ways; none of them is worth the run
        tqdm.write(f"W&B       cannot log this run: {first_line(error).rstrip('.')}. It logs to files only.")
        return loggers
    return [*loggers, _Wandb(save_dir=run_dir, project=project, experiment=run)]


class _Wandb(WandbLogger):
    """Logs no arguments of objects: `WandbArtifact` logs the configuration, which the command line takes."""

    def log_hyperparams(self, params: Any) -> None:
        """Log nothing."""


class WandbArtifact(Report):
    """At W&B: the run's whole configuration, and its checkpoints as an artifact with where they came from."""

    def on_fit_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Log the configuration as words of the command line, with which W&B starts a preempted run again."""
        for run in wandb_runs(trainer) if trainer.is_global_zero else ():
            run.config.update(runs.choices(self.run_dir) | runs.settings(self.run_dir), allow_val_change=True)

    def make(self, trained: Trained) -> None:
        """Log the checkpoints."""
        for run in wandb_runs(trained.trainer):
            import wandb

            artifact = wandb.Artifact(f"perceptual-{run.id}", "model", metadata=self._provenance(trained))
            for path in _checkpoints(trained.trainer):
                artifact.add_file(str(path))
            run.log_artifact(artifact)

    def _provenance(self, trained: Trained) -> dict[str, Any]:
        data, trainer = trained.data, trained.trainer
        return {
            "command": runs.command(self.run_dir),
            "data": data.describe(),
            "data_sha256": {side: data.fingerprint(side) for side in ("train", "val")},
            **provenance.describe(trained.module.distance),
            **provenance.surroundings(trainer.strategy.root_device),
            "scores": {
                key: float(value) for key, value in trainer.callback_metrics.items() if key.startswith("val/")
            },
        }


def _unreachable(wandb: Any) -> str | None:
    """Why W&B cannot be used online, if so; never asks for a key."""
    try:
        if wandb.login(prompt=False, verify=True):
            return None
        return "has no key (`wandb login`, or WANDB_API_KEY)"
    except Exception as error:  # its own errors, and those of the network
        return f"cannot be reached ({first_line(error).rstrip('.')})"


def _checkpoints(trainer: pl.Trainer) -> list[Path]:
    found = [Path(c.best_model_path) for c in trainer.checkpoint_callbacks if isinstance(c, ModelCheckpoint)]
    return [path for path in dict.fromkeys(found) if path.is_file()]
