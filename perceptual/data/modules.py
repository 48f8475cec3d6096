"""DataModules of judged items, one for each place that they come from."""

from dataclasses import replace
from functools import cached_property
from typing import Any, get_args

import numpy as np
import torch

from perceptual.data.images import Pixels
from perceptual.data.kinds import JND, ODD_ONE_OUT, OPINION, TWO_AFC
from perceptual.data.module import JudgedDataModule, Side
from perceptual.data.readers.folders import read_folder, read_judged, read_pairs, subset_names
from perceptual.data.readers.manifests import read_manifest, read_opinion_manifest
from perceptual.data.readers.parquet import HUB, is_parquet, read_parquet
from perceptual.data.readers.published import (
    MIN_VOTES,
    OPINIONS,
    THINGS,
    read_choices,
    read_nights,
    read_opinions,
    read_things,
    reader_of,
)
from perceptual.data.readers.stores import is_store, read_store
from perceptual.data.settings import (
    BAPPS,
    CSV,
    Larger,
    Manifest,
    Opinions,
    Pairs,
    Parquet,
    Photos,
    SplitBy,
    ValSplit,
    at_least,
    one_of,
)
from perceptual.data.splits import split
from perceptual.data.synthetic.designs import DESIGNS
from perceptual.data.synthetic.making import make_items
from perceptual.data.synthetic.photographs import TRAIN_PHOTOS, VAL_PHOTOS, packaged
from perceptual.data.table import Table
from perceptual.files.places import place


class BAPPSDataModule(BAPPS, JudgedDataModule):
    """Berkeley-Adobe Perceptual Patch Similarity data set, BAPPS (Zhang et al. 2018).

    Args:
        root: folder that holds `2afc/` with `<subset>/{ref,p0,p1,judge}`, that folder itself, or a store
            packed from it.
        train_subsets: trained on together.
        val_subsets: each is scored separately, named by the last part of its path.

    The other arguments are those of `JudgedDataModule`; by default, JND pairs in `<root>/jnd` are scored in
    validation. `setup` raises FileNotFoundError or ValueError for folders that are missing or incomplete and
    for files that cannot be used.
    """

    def __post_init__(self) -> None:
        """Raise ValueError for values out of range."""
        super().__post_init__()
        subset_names(self.train_subsets)
        subset_names(self.val_subsets)
        self.place = place(self.root)
        if self.jnd is None and (self.place / "jnd").is_dir():
            self.jnd = self.root

    def read(self, side: Side) -> Table:
        """Read the triplets of the subsets of one side."""
        subsets = self.train_subsets if side == "train" else self.val_subsets
        folder = self.place / "2afc" if (self.place / "2afc").is_dir() else self.place
        if is_store(folder):
            return read_store(folder, TWO_AFC).only(subsets, subset_names(subsets))
        return read_folder(folder, subsets)

    def how(self) -> str:
        """By folder, with the names of the folders."""
        return f", split by folder ({', '.join(self.train_subsets)}; {', '.join(self.val_subsets)})"


class ManifestDataModule(Manifest, JudgedDataModule):
    """Triplets listed in a CSV, see `read_manifest`, a store packed from one, or the folder of NIGHTS.

    A `split` column is followed where there is one; otherwise part of the triplets is held out for
    validation.

    Args:
        path: the CSV, the store, or the folder with NIGHTS's `data.csv`.
        split_by: "image": no image is on both sides, and triplets with images of both are left out;
            "triplet": triplets at random; "condition": all triplets of some conditions; "condition+image":
            neither an image nor a condition is on both sides.
        val_fraction: share of the images, or of the triplets, to hold out, in (0, 1]; 1 leaves nothing to
            train on, for scoring all of it.
        split_seed: chooses them; separate from `seed`, so that runs with different seeds are scored on the
            same triplets.
        val_split: rows of the `split` column to validate on, "val" or "test"; those of the other are left
            out, so that what was chosen on one can be scored on the other.
        val_conditions: with a split by condition, those to validate on; None: `val_fraction` of them.
        layout: "csv", which stands for all of these, the name of a published set, see
            `perceptual.data.readers.published`, or of a reader that an installed package adds.
        min_votes: triplets of fewer votes are left out; None: none but those of NIGHTS, whose authors use
            triplets of at least 6.

    The other arguments are those of `JudgedDataModule`. `setup` raises FileNotFoundError or ValueError for a
    manifest with errors and for files that cannot be used.
    """

    def __post_init__(self) -> None:
        """Raise ValueError for values out of range."""
        super().__post_init__()
        if not 0 < self.val_fraction <= 1:
            raise ValueError(f"val_fraction must be in (0, 1], got {self.val_fraction}")
        at_least("split_seed", self.split_seed, 0)
        at_least("min_votes", 1 if self.min_votes is None else self.min_votes, 1)
        one_of("split_by", self.split_by, get_args(SplitBy))
        if self.val_conditions is not None and not self._by_condition:
            raise ValueError("val_conditions needs split_by=condition or split_by=condition+image")
        if self.layout != CSV:
            reader_of(self.layout)
        one_of("val_split", self.val_split, get_args(ValSplit))
        self.place = self._located()

    def _located(self) -> Any:
        return place(self.path)

    @property
    def _by_condition(self) -> bool:
        return "condition" in self.split_by

    @cached_property
    def _split(self) -> tuple[dict[str, Table], str]:
        """Rows of each side, and how they were split; opened together, as they may share images."""
        table = self._table().open(self.size, self.shorter_side, self.resize)
        if table.split is not None:
            if self._by_condition:
                raise ValueError(
                    f"{self.place} has a split column, which split_by={self.split_by} would overrule"
                )
            train, val = table.split == "train", table.split == self.val_split
            if not (train.any() and val.any()):
                raise ValueError(
                    f"{self.place}: the split column needs rows of train and of {self.val_split}"
                )
            tested, left_out = self.val_split == "test", len(table) - train.sum() - val.sum()
            notes = ["test rows judge"] if tested else []
            notes += [f"{left_out:,} {'val' if tested else 'test'} rows left out"] if left_out else []
            how = "split by the manifest's own column" + (f" ({', '.join(notes)})" if notes else "")
        elif self.val_split != "val":
            raise ValueError(f"{self.place} has no split column, so there are no rows of {self.val_split}")
        elif self.val_fraction == 1:
            train, val, how = np.zeros(len(table), bool), np.ones(len(table), bool), "which is all of it"
        else:
            distinct = table.same_content()  # the same pixels may have several names
            rule = self.split_by, self.val_fraction, self.split_seed, self.val_conditions
            train, val = split(distinct, *rule)
            left_out = len(table) - train.sum() - val.sum()
            how = f"split by {self.split_by.replace('+', ' and ')}"
            if self._by_condition and table.condition is not None:
                how += f", judged on {', '.join(np.unique(table.condition[val]))}"
            how += {
                "image": f" (no image on both sides; {left_out:,} straddling rows left out)",
                "triplet": " (images are on both sides)",
                "condition": " (images may be on both sides)",
            }[self.split_by.rpartition("+")[2]]
        return {"train": table.take(train), "val": table.take(val)}, how

    def _table(self) -> Table:
        if self._is_nights:
            return read_nights(self.place, self._least)
        if self.layout != CSV:
            table = read_choices(self.layout, self.place)
        elif is_store(self.place):
            table = read_store(self.place, TWO_AFC)
        else:
            table = read_manifest(self.place)
        return table if self._least == 1 else table.of_votes(self._least)

    @cached_property
    def _is_nights(self) -> bool:
        return self.layout == CSV and not is_store(self.place) and self.place.is_dir()

    @property
    def _least(self) -> int:
        """Votes of a triplet that is used."""
        return self.min_votes or (MIN_VOTES if self._is_nights else 1)

    def read(self, side: Side) -> Table:
        """Read the rows of one side."""
        table = self._split[0][side]
        if not len(table):
            raise ValueError("val_fraction=1 leaves nothing to train on")
        return table

    def source(self) -> str:
        """Name the path, and the votes that a triplet needs."""
        return super().source() + (f", triplets of at least {self._least} votes" if self._least > 1 else "")

    def how(self) -> str:
        """By image, by triplet or by its own column, and how many rows were left out."""
        return f", {self._split[1]}"


class ParquetDataModule(Parquet, ManifestDataModule):
    """Triplets in Parquet files, on this disk or on the Hugging Face hub, see `read_parquet`.

    Args:
        columns: names of columns that differ from ours.

    The other arguments and errors are those of `ManifestDataModule`.
    """

    def _located(self) -> Any:
        return self.path if str(self.path).startswith(HUB) else super()._located()

    @property
    def _least(self) -> int:
        return self.min_votes or 1

    def _table(self) -> Table:
        table = read_parquet(self.path, self.columns)
        return table if self._least == 1 else table.of_votes(self._least)


class OddOneOutDataModule(ParquetDataModule):
    """Trios of which people said which image is the odd one.

    Args:
        path: a CSV, see `read_manifest`; Parquet files; a folder as of BAPPS, `<subset>/{a,b,c,odd}`, in
            `odd-one-out/` or itself; the folder of THINGS, see `read_things`; or a store packed from one.
        columns: of Parquet files, names of columns that differ from ours.

    The other arguments and errors are those of `ManifestDataModule`. Scores and intervals take trios that
    share their first image as not independent.
    """

    kind = ODD_ONE_OUT

    def _table(self) -> Table:
        things = not is_parquet(str(self.path)) and (self.place / THINGS).is_file()
        table = read_things(self.place) if things else read_judged(self.kind, self.path, self.columns)
        return table if self._least == 1 else table.of_votes(self._least)


class PhotosDataModule(Photos, JudgedDataModule):
    """Triplets made of scikit-image's photographs and judged by a simulated observer, see `make_items`.

    A first run needs no download, from images to score. A quarter of the triplets is of each design:
    `traditional` (design `paper`), `severity`, `cnn` and `mix`, see `perceptual.data.synthetic.designs`.
    Training and validation triplets come from different photographs. They do not depend on `seed`, which only
    orders them.

    Args:
        count_train: training triplets to make.
        count_val: validation triplets to make.
        designs: which designs they are of; of one alone, the subsets are its own.

    The other arguments are those of `JudgedDataModule`.
    """

    def __post_init__(self) -> None:
        """Raise ValueError for values out of range."""
        super().__post_init__()
        if self.size is None:
            raise ValueError("data=photos makes squares: size must be their side, not null")
        self.side = self.size
        at_least("count_train", self.count_train, 1)
        at_least("count_val", self.count_val, 1)
        designs = list(self.designs)
        if not designs or not set(designs) <= {*DESIGNS} or len({*designs}) < len(designs):
            raise ValueError(f"designs must be a list of {', '.join(DESIGNS)}, got {designs}")

    def read(self, side: Side) -> Table:
        """Make the triplets of one side, shared out among the designs; the first ones get one more."""
        photos = packaged(TRAIN_PHOTOS if side == "train" else VAL_PHOTOS)
        total, seed = (self.count_train, 0) if side == "train" else (self.count_val, 1)
        counts = [len(range(number, total, len(self.designs))) for number in range(len(self.designs))]
        return _joined(
            {
                design: make_items(TWO_AFC, photos, count, seed, self.side, design=design)
                for design, count in zip(self.designs, counts, strict=True)
                if count
            }
        )

    def source(self) -> str:
        """Photographs and the simulated observer."""
        return "photographs of scikit-image, judged by a simulated observer, not people"

    def how(self) -> str:
        """By photograph."""
        return ", split by photograph"


class JNDDataModule(Pairs, JudgedDataModule):
    """Pairs that people called the same or not, to score distances by; nothing is trained on them.

    Args:
        root: see `read_pairs`: a BAPPS folder, a CSV, Parquet files, or a store packed from one of them.
        subsets: paths of those to score, such as "val/cnn", each separately, named by the last part of its
            path; None: all.
        columns: of Parquet files, names of columns that differ from ours.

    The other arguments are those of `JudgedDataModule`. `setup` raises FileNotFoundError or ValueError for
    folders and files that are missing, incomplete or cannot be used.
    """

    kind, trains = JND, False

    def __post_init__(self) -> None:
        """Raise ValueError for values out of range."""
        super().__post_init__()
        if self.subsets is not None:
            subset_names(self.subsets)
        self.place = self.root if str(self.root).startswith(HUB) else place(self.root)

    def read(self, side: Side) -> Table:
        """Read the pairs."""
        return read_pairs(self.place, self.subsets, self.columns)

    def how(self) -> str:
        """Name the subsets."""
        return f" ({', '.join(self.val_set.table.subsets)})"


class OpinionDataModule(Opinions, JudgedDataModule):
    """Images that people rated against a reference, to score distances by; nothing is trained on them.

    Args:
        path: a CSV, see `read_opinion_manifest`, or the folder of a published set.
        size: side S of the squares that images are resized to; None: they keep their sizes, as the field
            does it.
        larger: whether larger scores are better or worse images, for a column `score`.
        layout: "csv", or the name of a published set, see `perceptual.data.readers.published`.

    The other arguments are those of `JudgedDataModule`. `setup` raises FileNotFoundError or ValueError for a
    manifest or a set with errors and for files that cannot be used.
    """

    kind, trains = OPINION, False

    def __post_init__(self) -> None:
        """Raise ValueError for values out of range."""
        super().__post_init__()
        one_of("larger", self.larger or "null", (*get_args(Larger), "null"))
        one_of("layout", self.layout, (CSV, *OPINIONS))
        self.place = place(self.path)

    def read(self, side: Side) -> Table:
        """Read the rated images."""
        if self.layout == CSV:
            return read_opinion_manifest(self.place, self.larger)
        return read_opinions(self.layout, self.place)


def published_choices(root: str, name: str, **others: Any) -> ManifestDataModule:
    """Make the data module of a published set of choices, such as `data=mucped23 data.root=…`."""
    return ManifestDataModule(root, layout=name, **others)


def published_opinions(root: str, name: str, **others: Any) -> OpinionDataModule:
    """Make the data module of a published set of opinions, such as `data=tid2013 data.root=…`."""
    return OpinionDataModule(root, layout=name, **others)


def _joined(tables: dict[str, Table]) -> Table:
    """Tables of squares in memory as one, each a subset, named by its design; one alone keeps its subsets."""
    parts = list(tables.values())
    if len(parts) == 1:
        return parts[0]
    starts = np.cumsum([0, *(len(table.images) for table in parts[:-1])])
    columns: dict[str, Any] = {
        name: np.concatenate([getattr(table, name) for table in parts])
        for name in ("answer", "votes", "made")
    }
    return replace(
        parts[0],
        opened=Pixels.squares(torch.cat([t.images.batch(torch.arange(len(t.images))) for t in parts])),
        items=np.hstack([table.items + start for table, start in zip(parts, starts, strict=True)]),
        **columns,
        subset=np.repeat(np.arange(len(parts)), [len(table) for table in parts]),
        subsets=["traditional" if design == "paper" else design for design in tables],
    )
