"""DataModule of opinions: images that people rated, to score distances by; nothing is trained on them."""

import sys
from pathlib import Path

import pytorch_lightning as pl

from perceptual.data.items.opinions import OpinionBatch, OpinionDataset
from perceptual.data.loading import Batches, at_least, loader
from perceptual.data.readers.csv_files import read_opinion_manifest


class OpinionDataModule(pl.LightningDataModule):
    """Images that people rated against a reference, listed in a CSV, see `read_opinion_manifest`.

    After `setup`, `subsets` names the subsets that `OpinionBatch.subset` counts.

    Args:
        path: the CSV, with columns `ref`, `dist`, `score`; larger scores are worse.
        size: side S of the squares that images are resized to.
        batch_size: rated images per batch.
        num_workers: processes that read images; None: 0 where the images are in memory, else up to 4.

    Raises:
        ValueError: an argument is out of range. `setup` raises FileNotFoundError or ValueError for a manifest
            with errors and for files that cannot be used.
    """

    subsets: list[str]

    def __init__(
        self, path: str, size: int = 256, batch_size: int = 20, num_workers: int | None = None
    ) -> None:
        super().__init__()
        at_least("size", size, 8)
        at_least("batch_size", batch_size, 1)
        at_least("num_workers", 0 if num_workers is None else num_workers, 0)
        self.path = Path(path)
        self.size = size
        self.batch_size = batch_size
        self.num_workers = num_workers
        self.val_set: OpinionDataset | None = None

    def setup(self, stage: str | None = None) -> None:
        """Read and check the images."""
        if self.val_set is None:
            table = read_opinion_manifest(self.path)
            self.subsets = table.subsets
            self.val_set = OpinionDataset(table, self.size)

    def val_dataloader(self) -> Batches[OpinionBatch]:
        """Batches of all subsets, in a fixed order."""
        return loader(self._rated("val_dataloader"), self.batch_size, self.num_workers, seed=0)

    def describe(self) -> str:
        """The number of rated images, in one line; call `setup` first."""
        return f"{self.path}: {len(self._rated('describe')):,} rated images"

    def fingerprint(self) -> str:
        """SHA-256, in hex, of the rated images, see `Table.fingerprint`; call `setup` first."""
        return self._rated("fingerprint").table.fingerprint()

    def _rated(self, caller: str) -> OpinionDataset:
        if self.val_set is None:
            raise RuntimeError(f"call setup() before {caller}()")
        return self.val_set


def dmos(
    path: str, size: int = 256, batch_size: int = 20, num_workers: int | None = None
) -> OpinionDataModule:
    """What `data=dmos` builds: `OpinionDataModule` under its former name, with a warning on stderr."""
    print("warning: data=dmos is now data=opinions; the old name goes in the next version", file=sys.stderr)
    return OpinionDataModule(path, size, batch_size, num_workers)
