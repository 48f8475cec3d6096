"""Weights & Biases, where `logger=wandb` chose it; nothing here imports wandb before."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
from pytorch_lightning.loggers import WandbLogger
from tqdm import tqdm

from callbacks.report import Board
from perceptual.files.messages import first_line

WATCHED = ("gradients", "parameters", "all")


class Wandb(Board, WandbLogger):
    """Weights & Biases; without a key or a network, it writes to the run's folder.

    Args:
        run_dir: folder of the run.
        project, name, group, offline, watch, registry: as in `callbacks.loggers.make`.
    """

    def __init__(
        self,
        run_dir: str,
        project: str,
        name: str | None,
        group: str | None,
        offline: bool,
        watch: str | None,
        registry: str | None,
    ) -> None:
        import wandb

        mode: Any = "offline" if offline else wandb.Settings().mode
        if mode in ("online", "shared") and (problem := _unreachable(wandb)):
            tqdm.write(
                f"W&B       {problem}. This run logs offline; later: wandb sync {run_dir}/wandb/offline-run-*"
            )
            mode = "offline"
        # begun here, where it can still be left out; Lightning would pass arguments that wandb warns of
        run = wandb.init(project=project, name=name, group=group, dir=run_dir, mode=mode)
        run.define_metric("trainer/global_step")
        run.define_metric("*", step_metric="trainer/global_step", step_sync=True)
        super().__init__(save_dir=run_dir, project=project, experiment=run)
        self.watched, self.registry = watch, registry

    def begin(self, module: pl.LightningModule, settings: dict[str, Any]) -> None:
        """Log the configuration, with which W&B starts a preempted run again, and watch the weights."""
        self.experiment.config.update(settings, allow_val_change=True)
        if self.watched:
            every = module.trainer.log_every_n_steps  # type: ignore[attr-defined]
            self.watch(module, log=self.watched, log_freq=every, log_graph=False)

    def picture(self, name: str, path: Path, step: int) -> None:
        """Show a picture."""
        import wandb

        self.experiment.log({name: wandb.Image(str(path))})

    def table(self, name: str, columns: Sequence[str], rows: Sequence[Sequence[Any]]) -> None:
        """Show a table; cells may be images of Pillow."""
        import wandb
        from PIL.Image import Image

        cells = [[wandb.Image(cell) if isinstance(cell, Image) else cell for cell in row] for row in rows]
        self.experiment.log({name: wandb.Table([*columns], cells)})

    def keep(self, checkpoints: Sequence[Path], about: dict[str, Any]) -> None:
        """Log the checkpoints as an artifact, and link the best one to the registry."""
        import wandb

        run = self.experiment
        artifact = wandb.Artifact(f"perceptual-{run.id}", "model", metadata=about)
        for path in checkpoints:
            artifact.add_file(str(path))
        run.log_artifact(artifact)
        if self.registry and run.offline:
            raise ValueError(f"offline, no checkpoint is linked to logger.registry={self.registry}")
        if self.registry:
            best = wandb.Artifact(f"perceptual-{run.id}-best", "model", metadata=about)
            best.add_file(str(checkpoints[0]))
            run.link_artifact(run.log_artifact(best), f"wandb-registry-model/{self.registry}")


def _unreachable(wandb: Any) -> str | None:
    """Why W&B cannot be used online, if so; never asks for a key."""
    try:
        if wandb.login(prompt=False, verify=True):
            return None
        return "has no key (`wandb login`, or WANDB_API_KEY)"
    except Exception as error:  # its own errors, and those of the network
        return f"cannot be reached ({first_line(error).rstrip('.')})"
