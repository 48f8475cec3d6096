"""Small batches to train on, and runs of `PerceptualRanker` on them."""

import pytorch_lightning as pl
import torch
from judged import triplets
from torch.utils.data import DataLoader

from perceptual.training.module import PerceptualRanker

RANDOM = {"name": "test_resnet", "weights": None}


def make_batches(count=2, items=4, side=40, seed=0, subsets=1):
    generator = torch.Generator().manual_seed(seed)

    def batch(first):
        ref = torch.rand(items, 3, side, side, generator=generator)
        p0, p1 = ((ref + s * torch.randn(ref.shape, generator=generator)).clamp(0, 1) for s in (0.1, 0.3))
        judgment = torch.randint(6, (items,), generator=generator) / 5
        subset = (torch.arange(items) + first) % subsets
        return triplets(ref, p0, p1, judgment, torch.ones(items), subset)

    return [batch(first) for first in range(count)]


def loader(batches):
    return DataLoader(batches, batch_size=None)


class Data(pl.LightningDataModule):
    """The same batches to train on and to score, in named subsets."""

    def __init__(self, batches, subsets):
        super().__init__()
        self.batches, self.subsets = batches, subsets

    def train_dataloader(self):
        return loader(self.batches)

    def val_dataloader(self):
        return loader(self.batches)


def trainer(tmp_path, **arguments):
    quiet = {"logger": False, "enable_progress_bar": False, "enable_model_summary": False}
    callbacks = arguments.pop("callbacks", [])
    return pl.Trainer(
        accelerator="cpu",
        default_root_dir=tmp_path,
        enable_checkpointing=False,
        callbacks=callbacks,
        **{"max_epochs": 1, **quiet, **arguments},
    )


def fit(ranker, tmp_path, batches=None, **arguments):
    made = trainer(tmp_path, **arguments)
    made.fit(ranker, loader(make_batches() if batches is None else batches))
    return made


def snapshot(module):
    return {key: value.detach().clone() for key, value in module.state_dict().items()}


def distances(ranker):
    batch = make_batches(1, seed=9)[0]
    with torch.no_grad():
        return ranker(batch.role("ref"), batch.role("p0"))


def trained(tmp_path, *arguments, **keywords):
    ranker = PerceptualRanker(*arguments, **keywords)
    path = tmp_path / "model.ckpt"
    fit(ranker, tmp_path).save_checkpoint(path)
    return ranker.eval(), path
