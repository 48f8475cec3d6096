"""What the reports share: made after training, on the first process, from the pass that gives the score."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytorch_lightning as pl
import torch
from tqdm import tqdm

from perceptual.data import JudgedDataModule
from perceptual.evaluation.scoring import Columns, device_of
from perceptual.files.messages import first_line
from perceptual.files.progress import run_number
from perceptual.training.module import PerceptualRanker

FOLDER = "reports"  # in the run's folder


class Judged(NamedTuple):
    """The N validation triplets, in their order, as people and the trained metric see them."""

    d0: np.ndarray
    """(N,) float32, distance of ref and p0."""
    d1: np.ndarray
    """(N,) float32, distance of ref and p1."""
    predicted: np.ndarray | None
    """(N,) float32, predicted fraction of people who prefer p1; None: no ranking network was trained."""
    judgment: np.ndarray
    """(N,) float32, the fraction that did."""
    votes: np.ndarray
    """(N,) how many people were asked; 1 where the data do not say."""

    @property
    def preference(self) -> np.ndarray:
        """What was predicted; raises ValueError if nothing was."""
        if self.predicted is None:
            raise ValueError("model.loss=hinge trains no ranking network, so it predicts no preference")
        return self.predicted


class Trained(NamedTuple):
    """A run whose training has ended."""

    trainer: pl.Trainer
    module: PerceptualRanker
    data: JudgedDataModule
    """The data module that has the images, behind cached differences too."""
    columns: Columns
    """Distances of every validation item, (N,) each."""

    @property
    def judged(self) -> Judged:
        """What the trained metric says of validation triplets; raises ValueError for other items."""
        return judge(self.module, self.columns, self.data)


class Report(pl.Callback):
    """Makes something when training has ended; what goes wrong there is one line, and the run goes on.

    Args:
        run_dir: folder of the run.
    """

    def __init__(self, run_dir: str) -> None:
        self.run_dir = Path(run_dir)

    def make(self, trained: Trained) -> None:
        """Make the report."""
        raise NotImplementedError

    def show(self, name: str, trainer: pl.Trainer) -> None:
        """Log the picture `<name>.png` of the reports."""
        path, step = self.path(f"{name}.png"), trainer.global_step
        on_boards(trainer, lambda board: board.picture(name, path, step))

    def path(self, name: str) -> Path:
        """Where a file of the reports goes."""
        folder = self.run_dir / FOLDER
        folder.mkdir(parents=True, exist_ok=True)
        return folder / name


def make_reports(callbacks: Sequence[pl.Callback], trained: Trained) -> None:
    """Make the reports among the callbacks, or say in one line why one cannot be made."""
    for callback in callbacks:
        if isinstance(callback, Report):
            try:
                callback.make(trained)
            except Exception as error:  # no picture is worth the scores of a run
                tqdm.write(
                    f"{run_number()}Report {type(callback).__name__} was not made: {first_line(error)}"
                )


@torch.no_grad()
def judge(module: PerceptualRanker, columns: Columns, data: JudgedDataModule) -> Judged:
    """What the trained metric says of every validation triplet, from its distances d0 and d1.

    Raises:
        ValueError: they are no triplets.
    """
    table = data.val_set.table
    if len(columns) != 2:
        raise ValueError(f"it is for triplets, and these are {table.kind.plural}")
    distances = (torch.from_numpy(column).to(device_of(module)) for column in columns)
    preference = None
    if module.ranking is not None:
        preference = module.ranking(*distances).sigmoid().float().cpu().numpy()
    votes = np.ones(len(table)) if table.votes is None else table.votes
    d0, d1 = columns
    return Judged(d0, d1, preference, table.answer, votes)


class Board:
    """What a logger of Lightning's does besides numbers; by default nothing."""

    def log_hyperparams(self, *_: Any, **__: Any) -> None:
        """Log no arguments of objects: `begin` gets the configuration, which the command line takes."""

    def begin(self, module: pl.LightningModule, settings: dict[str, Any]) -> None:
        """Log the configuration as training starts, words of the command line by their keys."""

    def picture(self, name: str, path: Path, step: int) -> None:
        """Log a picture."""

    def table(self, name: str, columns: Sequence[str], rows: Sequence[Sequence[Any]]) -> None:
        """Log a table."""

    def number(self, name: str, value: float, step: int) -> None:
        """Log a number of the whole run."""
        self.log_metrics({name: value}, step)  # type: ignore[attr-defined]

    def keep(self, checkpoints: Sequence[Path], about: dict[str, Any]) -> None:
        """Log the checkpoints of the run, the best first, with where they came from."""


def on_boards(trainer: pl.Trainer, act: Callable[[Board], None]) -> None:
    """Do something at each logger that has more than numbers; what fails at one is a line."""
    for logger in trainer.loggers:
        if isinstance(logger, Board):
            try:
                act(logger)
            except Exception as error:  # no logger is worth the run
                tqdm.write(f"{run_number()}{type(logger).__name__}: {first_line(error)}")
