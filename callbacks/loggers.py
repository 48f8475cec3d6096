"""Where a run is logged: to files always, and to what `logger=` names beside them, one or several."""

import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytorch_lightning as pl
from PIL import Image
from pytorch_lightning.callbacks import ModelCheckpoint
from pytorch_lightning.loggers import CSVLogger, Logger, MLFlowLogger, TensorBoardLogger
from pytorch_lightning.utilities import rank_zero_only
from tqdm import tqdm

from callbacks.report import Board, Report, Trained, on_boards
from callbacks.weights_and_biases import WATCHED, Wandb
from perceptual.evaluation import provenance, runs
from perceptual.files.messages import first_line
from perceptual.files.records import to_json


def make(
    run_dir: str,
    tensorboard: bool = False,
    mlflow: bool = False,
    wandb: bool = False,
    project: str = "perceptual",
    name: str | None = None,
    group: str | None = None,
    offline: bool = False,
    uri: str | None = None,
    watch: str | None = None,
    registry: str | None = None,
) -> list[Logger]:
    """Loggers of a run; one that is not installed or cannot be reached is left out, in one line.

    Args:
        run_dir: folder of the run.
        tensorboard: log to `tensorboard/` in it.
        mlflow: log to MLflow.
        wandb: log to Weights & Biases; without a key or a network, to the run's folder.
        project: at Weights & Biases; MLflow's experiment.
        name: of the run at both; chosen by them if not given.
        group: of the run.
        offline: let Weights & Biases only write; `wandb sync` sends the run later.
        uri: of MLflow's server or database; `$MLFLOW_TRACKING_URI`, or `mlflow.db` here, if not given.
        watch: what Weights & Biases shows of the weights: `gradients`, `parameters` or `all`.
        registry: the model that the best checkpoint becomes a version of, in the registry of MLflow or of
            Weights & Biases.

    Raises:
        ValueError: a word or a combination that is not known.
    """
    if watch not in (None, *WATCHED):
        raise ValueError(f"logger.watch must be {', '.join(WATCHED)} or null, got {watch!r}")
    if watch and not wandb:
        raise ValueError("logger.watch needs logger=wandb")
    if registry and not (wandb or mlflow):
        raise ValueError("logger.registry needs logger=wandb or logger=mlflow")
    loggers: list[Logger] = [CSVLogger(run_dir, name="logs", version="")]
    if rank_zero_only.rank:  # type: ignore[attr-defined]
        return loggers
    wanted: dict[str, tuple[bool, Callable[[], Logger]]] = {
        "tensorboard": (tensorboard, lambda: TensorBoard(run_dir)),
        "mlflow": (mlflow, lambda: MLflow(project, name, group, uri, registry)),
        "wandb": (wandb, lambda: Wandb(run_dir, project, name, group, offline, watch, registry)),
    }
    for package, (asked, begin) in wanted.items():
        try:
            loggers += [begin()] if asked else []
        except ModuleNotFoundError as error:
            say(package, f"needs {error.name} (pip install {package}); the run goes on without it")
        except Exception as error:  # they fail in many ways; none of them is worth the run
            say(package, f"cannot log this run: {first_line(error).rstrip('.')}. The run goes on without it")
    return loggers


def say(package: str, what: str) -> None:
    """Print a line about a logger."""
    tqdm.write(f"{package:9} {what}.")


class TensorBoard(Board, TensorBoardLogger):
    """TensorBoard: `tensorboard --logdir runs` shows all runs."""

    def __init__(self, run_dir: str) -> None:
        import tensorboard  # noqa: F401  # or Lightning reports that it is missing in many lines

        super().__init__(run_dir, name="tensorboard", version="", default_hp_metric=False)
        self.experiment.flush()  # a folder that cannot be written to is found now

    def begin(self, module: pl.LightningModule, settings: dict[str, Any]) -> None:
        """Show the configuration as text."""
        self._settings = settings
        self.experiment.add_text("configuration", _indented(to_json(settings)))

    def picture(self, name: str, path: Path, step: int) -> None:
        """Show a picture."""
        pixels = np.asarray(Image.open(path).convert("RGB"))
        self.experiment.add_image(name, pixels, step, dataformats="HWC")
        self.experiment.flush()

    def keep(self, checkpoints: Sequence[Path], about: dict[str, Any]) -> None:
        """Show where the checkpoints came from, and the scores beside the settings."""
        self.experiment.add_text("provenance", _indented(to_json(about)))
        TensorBoardLogger.log_hyperparams(self, self._settings, about["scores"])
        self.experiment.flush()


class MLflow(Board, MLFlowLogger):
    """MLflow: a server, or a database beside `mlruns/`, which `mlflow ui` shows."""

    def __init__(
        self, project: str, name: str | None, group: str | None, uri: str | None, registry: str | None
    ) -> None:
        import mlflow  # noqa: F401  # likewise

        os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "1")  # or minutes pass without a server
        where = uri or os.environ.get("MLFLOW_TRACKING_URI") or "sqlite:///mlflow.db"
        super().__init__(project, name, where, {"group": group} if group else None)
        self.registry = registry
        assert self.run_id  # begins the run: here it can still be left out

    def begin(self, module: pl.LightningModule, settings: dict[str, Any]) -> None:
        """Log the configuration."""
        MLFlowLogger.log_hyperparams(self, settings)

    def picture(self, name: str, path: Path, step: int) -> None:
        """Keep a picture."""
        self.experiment.log_artifact(self.run_id, str(path), "reports")

    def keep(self, checkpoints: Sequence[Path], about: dict[str, Any]) -> None:
        """Keep the checkpoints, the best of them as a version of the registered model."""
        for path in checkpoints:
            self.experiment.log_artifact(self.run_id, str(path), "checkpoints")
        self.experiment.log_text(self.run_id, to_json(about), "checkpoints/provenance.json")
        if self.registry:
            if not self.experiment.search_registered_models(f"name = '{self.registry}'"):
                self.experiment.create_registered_model(self.registry)
            source = (
                f"{self.experiment.get_run(self.run_id).info.artifact_uri}/checkpoints/{checkpoints[0].name}"
            )
            self.experiment.create_model_version(self.registry, source, self.run_id)


class RunRecord(Report):
    """At every logger: the run's whole configuration, and its checkpoints with where they came from."""

    def on_fit_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Log the configuration as words of the command line."""
        settings = runs.choices(self.run_dir) | runs.settings(self.run_dir)
        on_boards(trainer, lambda board: board.begin(pl_module, settings))

    def make(self, trained: Trained) -> None:
        """Log the checkpoints, the best first."""
        checkpoints, about = _checkpoints(trained.trainer), self._provenance(trained)
        on_boards(trained.trainer, lambda board: board.keep(checkpoints, about))

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


def _checkpoints(trainer: pl.Trainer) -> list[Path]:
    found = [Path(c.best_model_path) for c in trainer.checkpoint_callbacks if isinstance(c, ModelCheckpoint)]
    return [path for path in dict.fromkeys(found) if path.is_file()]


def _indented(text: str) -> str:
    """Text as Markdown shows it unchanged."""
    return "".join(f"    {line}\n" for line in text.splitlines())
