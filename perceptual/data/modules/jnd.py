"""DataModule of JND pairs: BAPPS folders, a manifest, or a store packed from either."""

from collections.abc import Sequence

import pytorch_lightning as pl

from perceptual.data.items.pairs import PairBatch, PairDataset, PairTable
from perceptual.data.loading import Batches, at_least, check_resolution, loader
from perceptual.data.places import place
from perceptual.data.readers.csv_files import read_pair_manifest
from perceptual.data.readers.folders import find_subsets, read_pair_folder, subset_names
from perceptual.data.readers.stores import is_store, read_store


class JNDDataModule(pl.LightningDataModule):
    """Pairs that people called the same or not, to score distances by; nothing is trained on them.

    After `setup`, `subsets` names the subsets that `PairBatch.subset` counts.

    Args:
        root: folder that holds `jnd/` with `<subset>/{p0,p1,same}`, or that folder itself; a CSV, see
            `read_pair_manifest`; or a store packed from one of them.
        subsets: paths of those to score, such as "val/cnn", each separately, named by the last part of its
            path; None: all.
        size: side S of the square patches; None: images keep their sizes.
        batch_size: pairs per batch.
        num_workers: processes that read images; None: 0 where the images are in memory or in a store, else up
            to 4.
        shorter_side: without `size`, pixels to resize the shorter side of each image to, keeping its shape.

    Raises:
        ValueError: an argument is out of range. `setup` raises FileNotFoundError or ValueError for folders
            and files that are missing, incomplete or cannot be used.
    """

    subsets: list[str]

    def __init__(
        self,
        root: str,
        subsets: Sequence[str] | None = None,
        size: int | None = 64,
        batch_size: int = 50,
        num_workers: int | None = None,
        shorter_side: int | None = None,
    ) -> None:
        super().__init__()
        check_resolution(size, shorter_side)
        at_least("batch_size", batch_size, 1)
        at_least("num_workers", 0 if num_workers is None else num_workers, 0)
        if subsets is not None:
            subset_names(subsets)
        self.root = place(root)
        self.chosen = None if subsets is None else list(subsets)
        self.size = size
        self.shorter_side = shorter_side
        self.batch_size = batch_size
        self.num_workers = num_workers
        self.val_set: PairDataset | None = None

    def setup(self, stage: str | None = None) -> None:
        """Read and check the pairs."""
        if self.val_set is None:
            table = self._read()
            self.subsets = table.subsets
            self.val_set = PairDataset(table, self.size, self.shorter_side)

    def val_dataloader(self) -> Batches[PairBatch]:
        """Batches of all subsets, in a fixed order."""
        return loader(self._pairs("val_dataloader"), self.batch_size, self.num_workers, seed=0)

    def describe(self) -> str:
        """The number of pairs and their subsets, in one line; call `setup` first."""
        pairs = self._pairs("describe")
        return f"{self.root}: {len(pairs):,} pairs ({', '.join(self.subsets)})"

    def fingerprint(self) -> str:
        """SHA-256, in hex, of the pairs, see `Table.fingerprint`; call `setup` first."""
        return self._pairs("fingerprint").table.fingerprint()

    def _pairs(self, caller: str) -> PairDataset:
        if self.val_set is None:
            raise RuntimeError(f"call setup() before {caller}()")
        return self.val_set

    def _read(self) -> PairTable:
        folder = self.root / "jnd" if (self.root / "jnd").is_dir() else self.root
        if folder.is_dir() and not is_store(folder):
            return read_pair_folder(folder, self.chosen or find_subsets(PairTable, folder))
        table = read_store(PairTable, folder) if is_store(folder) else read_pair_manifest(folder)
        chosen = self.chosen or table.subsets
        return table.only(chosen, subset_names(chosen))
