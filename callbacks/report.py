"""What the reports share: made once, after training, on the first process, from one look at the data."""

from pathlib import Path
from typing import Any, NamedTuple
from weakref import WeakKeyDictionary

import numpy as np
import pytorch_lightning as pl
import torch
from pytorch_lightning.loggers import WandbLogger
from tqdm import tqdm

from perceptual.data import JudgedDataModule
from perceptual.data.loading import Batches
from perceptual.files.messages import first_line
from perceptual.files.progress import run_number
from perceptual.training.module import PerceptualRanker

FOLDER = "reports"  # in the run's folder


class Report(pl.Callback):
    """Makes something when training has ended; what goes wrong there is one line, and the run goes on.

    Args:
        run_dir: folder of the run.
    """

    def __init__(self, run_dir: str) -> None:
        self.run_dir = Path(run_dir)

    def make(self, trainer: pl.Trainer, module: PerceptualRanker) -> None:
        """Make the report; on the first process only."""
        raise NotImplementedError

    def on_fit_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Make the report, or say in one line why it cannot be made."""
        if trainer.is_global_zero:
            try:
                self.make(trainer, pl_module)  # type: ignore[arg-type]
            except Exception as error:  # no picture is worth the scores of a run
                reason = first_line(error)
                tqdm.write(f"{run_number()}Report {type(self).__name__} was not made: {reason}")

    def path(self, name: str) -> Path:
        """Where a file of the reports goes."""
        folder = self.run_dir / FOLDER
        folder.mkdir(parents=True, exist_ok=True)
        return folder / name


class Judged(NamedTuple):
    """The N validation triplets, in their order, as people and the trained metric see them."""

    d0: np.ndarray
    """(N,) float32, distance of ref and p0."""
    d1: np.ndarray
    """(N,) float32, distance of ref and p1."""
    preference: np.ndarray
    """(N,) float32, predicted fraction of people who prefer p1."""
    judgment: np.ndarray
    """(N,) float32, the fraction that did."""
    votes: np.ndarray
    """(N,) how many people were asked; 1 where the data do not say."""


_judged: "WeakKeyDictionary[pl.Trainer, Judged]" = WeakKeyDictionary()


def judge(trainer: pl.Trainer, module: PerceptualRanker) -> Judged:
    """What the trained metric says of every validation triplet; computed once per run, for all reports."""
    if trainer not in _judged:
        table = source(trainer).val_set.table
        votes = np.ones(len(table)) if table.votes is None else table.votes
        d0, d1, preference = _predict(trainer, module)
        _judged[trainer] = Judged(d0, d1, preference, table.answer, votes)
    return _judged[trainer]


def source(trainer: pl.Trainer) -> JudgedDataModule:
    """The data module that has the images, behind cached differences too."""
    data: Any = trainer.datamodule  # type: ignore[attr-defined]
    return getattr(data, "data", data)


def wandb_runs(trainer: pl.Trainer) -> list[Any]:
    """The runs at Weights & Biases that the trainer logs to, none or one."""
    return [logger.experiment for logger in trainer.loggers if isinstance(logger, WandbLogger)]


@torch.no_grad()
def _predict(trainer: pl.Trainer, module: PerceptualRanker) -> list[np.ndarray]:
    """d0, d1 and preference, where training computed."""
    home, device = module.device, trainer.strategy.root_device
    training = module.training
    module.to(device).eval()
    # a loader of its own: in a run of several processes, those of the data module give each its share
    data: Any = trainer.datamodule  # type: ignore[attr-defined]
    workers = source(trainer).num_workers or 0
    size = source(trainer).batch_size
    loaders = data.val_dataloader()
    triplets = (loaders[0] if isinstance(loaders, list) else loaders).dataset
    batches: Batches[Any] = Batches(triplets, size, workers, shared=False)
    parts = []
    for batch in batches:
        d0, d1 = module.transfer_batch_to_device(batch, device, 0).distances(module.distance)
        parts.append(torch.stack([d0, d1, module.ranking(d0, d1).sigmoid()]).float().cpu())
    module.to(home).train(training)
    columns = torch.cat(parts, dim=1).numpy()
    in_order = np.empty_like(columns)
    in_order[:, batches.sampler.order()] = columns  # images in their own sizes come by size
    return list(in_order)
