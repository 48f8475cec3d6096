"""DataModule of opinions: images that people rated, to score distances by; nothing is trained on them."""

import sys
from pathlib import Path
from typing import Any

import pytorch_lightning as pl

from perceptual.data.items.opinions import LARGER_IS, Larger, OpinionBatch, OpinionDataset
from perceptual.data.loading import Batches, at_least, check_resolution, loader
from perceptual.data.readers.csv_files import read_opinion_manifest
from perceptual.data.readers.published import OPINIONS

CSV = "csv"


class OpinionDataModule(pl.LightningDataModule):
    """Images that people rated against a reference: a CSV, see `read_opinion_manifest`, or a published set.

    After `setup`, `subsets` names the subsets that `OpinionBatch.subset` counts.

    Args:
        path: the CSV, with columns `ref`, `dist` and one of `mos`, `dmos`, `score`; or the folder of the set.
        size: side S of the squares that images are resized to; None: they keep their sizes, as the field
            does it.
        batch_size: rated images per batch, at most.
        num_workers: processes that read images; None: 0 where the images are in memory, else up to 4.
        shorter_side: without `size`, pixels to resize the shorter side of each image to, keeping its shape.
        larger: whether larger scores are better or worse images, for a column `score`.
        layout: "csv", or the name of a published set, see `perceptual.data.readers.published`.

    Raises:
        ValueError: an argument is out of range. `setup` raises FileNotFoundError or ValueError for a manifest
            or a set with errors and for files that cannot be used.
    """

    subsets: list[str]

    def __init__(
        self,
        path: str,
        size: int | None = None,
        batch_size: int = 20,
        num_workers: int | None = None,
        shorter_side: int | None = None,
        larger: Larger | None = None,
        layout: str = CSV,
    ) -> None:
        super().__init__()
        check_resolution(size, shorter_side)
        at_least("batch_size", batch_size, 1)
        at_least("num_workers", 0 if num_workers is None else num_workers, 0)
        if larger is not None and larger not in LARGER_IS:
            raise ValueError(f"larger must be one of {', '.join(LARGER_IS)} or null, got {larger!r}")
        if layout not in (CSV, *OPINIONS):
            raise ValueError(f"layout must be one of {', '.join((CSV, *OPINIONS))}, got {layout!r}")
        self.path = Path(path).expanduser()
        self.size = size
        self.shorter_side = shorter_side
        self.batch_size = batch_size
        self.num_workers = num_workers
        self.larger = larger
        self.layout = layout
        self.val_set: OpinionDataset | None = None

    def setup(self, stage: str | None = None) -> None:
        """Read and check the images."""
        if self.val_set is None:
            if self.layout == CSV:
                table = read_opinion_manifest(self.path, self.larger)
            else:
                table = OPINIONS[self.layout](self.path)
            self.subsets = table.subsets
            self.val_set = OpinionDataset(table, self.size, self.shorter_side)

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


def dmos(path: str, size: int | None = 256, larger: Larger | None = None, **others: Any) -> OpinionDataModule:
    """What `data=dmos` builds: `OpinionDataModule` under its former name, with a warning on stderr."""
    print("warning: data=dmos is now data=opinions; the old name goes in the next version", file=sys.stderr)
    return OpinionDataModule(path, size, larger=larger or "worse", **others)


def published(root: str, name: str, **others: Any) -> OpinionDataModule:
    """A published set of opinions, such as `data=tid2013 data.root=…`; see `OpinionDataModule`."""
    return OpinionDataModule(root, layout=name, **others)
