"""DataModule of triplets listed in one file: a CSV, a store packed from one, or NIGHTS."""

from functools import cached_property
from typing import Any, Literal, get_args

import numpy as np

from perceptual.data.items.splits import SPLIT_BY, SplitBy
from perceptual.data.items.triplets import TripletTable
from perceptual.data.loading import at_least
from perceptual.data.modules.two_afc import TwoAFCDataModule
from perceptual.data.places import place
from perceptual.data.readers.answers import ANSWERS
from perceptual.data.readers.csv_files import read_manifest
from perceptual.data.readers.nights import MIN_VOTES, read_nights
from perceptual.data.readers.stores import is_store, read_store

CSV = "csv"
ValSplit = Literal["val", "test"]
VAL_SPLITS: tuple[ValSplit, ...] = get_args(ValSplit)


class ManifestDataModule(TwoAFCDataModule):
    """Triplets listed in a CSV, see `read_manifest`, a store packed from one, or the folder of NIGHTS.

    A `split` column is followed where there is one; otherwise part of the triplets is held out for
    validation.

    Args:
        path: the CSV, the store, or the folder with NIGHTS's `data.csv`.
        split_by: "image": no image is on both sides, and triplets with images of both are left out;
            "triplet": triplets at random.
        val_fraction: share of the images, or of the triplets, to hold out, in (0, 1]; 1 leaves nothing to
            train on, for scoring all of it.
        split_seed: chooses them; separate from `seed`, so that runs with different seeds are scored on the
            same triplets.
        min_votes: triplets of fewer votes are left out; None: none but those of NIGHTS, whose authors use
            triplets of at least 6.
        val_split: rows of the `split` column to validate on, "val" or "test"; those of the other are left
            out, so that what was chosen on one can be scored on the other.
        layout: "csv", which stands for all of these, or the name of a published set, see
            `perceptual.data.readers.answers`.

    The other arguments are those of `TwoAFCDataModule`. `setup` raises FileNotFoundError or ValueError for a
    manifest with errors and for files that cannot be used.
    """

    def __init__(
        self,
        path: str,
        split_by: SplitBy = "image",
        val_fraction: float = 0.3,
        split_seed: int = 0,
        size: int | None = 64,
        batch_size: int = 50,
        num_workers: int | None = None,
        weight_by_votes: bool = False,
        seed: int = 0,
        jnd: str | None = None,
        shorter_side: int | None = None,
        crop: int | None = None,
        layout: str = CSV,
        val_split: ValSplit = "val",
        min_votes: int | None = None,
    ) -> None:
        super().__init__(size, batch_size, num_workers, weight_by_votes, seed, jnd, shorter_side, crop)
        if split_by not in SPLIT_BY:
            raise ValueError(f"split_by must be one of {', '.join(SPLIT_BY)}, got {split_by!r}")
        if not 0 < val_fraction <= 1:
            raise ValueError(f"val_fraction must be in (0, 1], got {val_fraction}")
        at_least("split_seed", split_seed, 0)
        if layout not in (CSV, *ANSWERS):
            raise ValueError(f"layout must be one of {', '.join((CSV, *ANSWERS))}, got {layout!r}")
        if val_split not in VAL_SPLITS:
            raise ValueError(f"val_split must be one of {', '.join(VAL_SPLITS)}, got {val_split!r}")
        if min_votes is not None:
            at_least("min_votes", min_votes, 1)
        self.layout = layout
        self.val_split = val_split
        self.path = place(path)
        self.min_votes = min_votes
        self.split_by = split_by
        self.val_fraction = val_fraction
        self.split_seed = split_seed

    @cached_property
    def _read(self) -> tuple[TripletTable, TripletTable, str]:
        """Training rows, validation rows, how they were split; opened together, as they may share images."""
        table = self._table().open(self.size, self.shorter_side)
        if table.split is not None:
            train, val = table.split == "train", table.split == self.val_split
            if not (train.any() and val.any()):
                raise ValueError(f"{self.path}: the split column needs rows of train and of {self.val_split}")
        elif self.val_split != "val":
            raise ValueError(f"{self.path} has no split column, so there are no rows of {self.val_split}")
        elif self.val_fraction == 1:
            train, val = np.zeros(len(table), bool), np.ones(len(table), bool)
        else:
            distinct = table.same_content()  # the same pixels may have several names
            train, val = SPLIT_BY[self.split_by](distinct, self.val_fraction, self.split_seed)
        how = self._say(table, len(table) - train.sum() - val.sum())
        return table.take(train), table.take(val), how

    def _table(self) -> TripletTable:
        if self._is_nights:
            return read_nights(self.path, self._least)
        if self.layout != CSV:
            table = ANSWERS[self.layout](self.path)
        elif is_store(self.path):
            table = read_store(TripletTable, self.path)
        else:
            table = read_manifest(self.path)
        return table if self._least == 1 else table.of_votes(self._least)

    @cached_property
    def _is_nights(self) -> bool:
        return self.layout == CSV and not is_store(self.path) and self.path.is_dir()

    @property
    def _least(self) -> int:
        """Votes of a triplet that is used."""
        return self.min_votes or (MIN_VOTES if self._is_nights else 1)

    def _say(self, table: TripletTable, left_out: int) -> str:
        if table.split is not None:
            tested = self.val_split == "test"
            notes = ["test rows judge"] if tested else []
            if left_out:
                notes.append(f"{left_out:,} {'val' if tested else 'test'} rows left out")
            return "split by the manifest's own column" + (f" ({', '.join(notes)})" if notes else "")
        if self.val_fraction == 1:
            return "which is all of it"
        if self.split_by == "image":
            return f"split by image (no image on both sides; {left_out:,} straddling rows left out)"
        return "split by triplet (images are on both sides)"

    def read_train(self) -> TripletTable:
        """Training rows."""
        if not len(self._read[0]):
            raise ValueError("val_fraction=1 leaves nothing to train on")
        return self._read[0]

    def read_val(self) -> TripletTable:
        """Validation rows."""
        return self._read[1]

    def source(self) -> str:
        """The path, and the votes that a triplet needs."""
        return str(self.path) + (f", triplets of at least {self._least} votes" if self._least > 1 else "")

    def how_split(self) -> str:
        """By image, by triplet or by its own column, and how many rows were left out."""
        return self._read[2]


def published(root: str, name: str, **others: Any) -> ManifestDataModule:
    """A published set of choices, such as `data=mucped23 data.root=…`; see `ManifestDataModule`."""
    return ManifestDataModule(root, layout=name, **others)
