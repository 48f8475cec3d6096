"""Triplets, pairs and opinions listed in a CSV file, a manifest: image files and what people answered."""

from pathlib import Path

import numpy as np

from perceptual.data.items.opinions import OpinionTable
from perceptual.data.items.pairs import PairTable
from perceptual.data.items.table import SPLITS, AnyTable, Table
from perceptual.data.items.triplets import TripletTable
from perceptual.data.readers.columns import read_columns, read_header

OPTIONAL = ("votes", "subset", "split", "algorithm0", "algorithm1")  # what made p0 and p1: not used here


def read_manifest(path: str | Path) -> TripletTable:
    """List the triplets of a CSV file with a header.

    Its columns are `ref`, `p0`, `p1` (image files, relative to the CSV), `judge` (fraction that preferred p1)
    and optionally `votes` (people asked), `subset` (a name to score by) and `split` (train, val or test).
    Files saved by spreadsheets are read, see `perceptual.data.readers.columns`.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it is not such a CSV, holds no row, or has a value that is not allowed.
    """
    return _read_table(TripletTable, Path(path))


def read_pair_manifest(path: str | Path) -> PairTable:
    """List the pairs of a CSV file with `p0`, `p1` and `same`; otherwise as `read_manifest`."""
    return _read_table(PairTable, Path(path))


def read_opinion_manifest(path: str | Path) -> OpinionTable:
    """List the opinions of a CSV with `ref`, `dist` and `score`, any number; otherwise as `read_manifest`."""
    return _read_table(OpinionTable, Path(path), -np.inf, np.inf)


def read_judged_manifest(path: str | Path) -> Table:
    """List the pairs of a CSV with a column `same`, the triplets of any other; raises as `read_manifest`."""
    return read_pair_manifest(path) if PairTable.on_disk in read_header(Path(path)) else read_manifest(path)


def _read_table(kind: type[AnyTable], path: Path, low: float = 0, high: float = 1) -> AnyTable:
    columns = read_columns(path, (*kind.roles, kind.on_disk), OPTIONAL)
    if not any(columns.cells[kind.on_disk]):
        raise ValueError(f"{path}: the column {kind.on_disk} is empty: these have not been judged yet")
    answers = columns.numbers(kind.on_disk, low, high)
    votes = columns.numbers("votes", 1) if "votes" in columns else None
    split = columns.words("split", SPLITS) if "split" in columns else None
    names = columns.cells.get("subset", [path.stem] * len(columns))
    number = {name: i for i, name in enumerate(dict.fromkeys(names))}
    images, items = columns.files(kind.roles)
    return kind(
        images=images,
        **dict(zip(kind.roles, items, strict=True)),
        **{kind.answer: answers},
        subset=np.array([number[name] for name in names]),
        subsets=list(number),
        votes=votes,
        split=split,
    )
