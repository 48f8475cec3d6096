"""Triplets and pairs as one CSV lists them: our own manifest, and the one of NIGHTS."""

import csv
import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from perceptual.data.decode import first_few
from perceptual.data.items.opinions import OpinionTable
from perceptual.data.items.pairs import PairTable
from perceptual.data.items.table import SPLITS, AnyTable
from perceptual.data.items.triplets import TripletTable

OPTIONAL = ("votes", "subset", "split")


def read_manifest(path: str | Path) -> TripletTable:
    """List the triplets of a CSV with a header.

    Its columns are `ref`, `p0`, `p1` (image files, relative to the CSV), `judge` (fraction that preferred p1)
    and, if wanted, `votes` (people asked), `subset` (a name to score by) and `split` (train, val or test).

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: if it is not such a CSV, holds no row, or has a value that is not allowed.
    """
    return _read_table(TripletTable, Path(path))


def read_pair_manifest(path: str | Path) -> PairTable:
    """List the pairs of a CSV with `p0`, `p1` and `same`; all else as in `read_manifest`."""
    return _read_table(PairTable, Path(path))


def read_opinion_manifest(path: str | Path) -> OpinionTable:
    """List the pairs of a CSV with `ref`, `dist` and `score`, any number; all else as in `read_manifest`."""
    return _read_table(OpinionTable, Path(path), -np.inf, np.inf)


def read_nights(folder: str | Path) -> TripletTable:
    """List the triplets of NIGHTS, from its folder as published (Fu et al., DreamSim, 2023).

    `data.csv` there names the images and counts the votes; left is p0, right is p1, and `judgment` the share
    of `right_vote`. The set's own `split` is kept, and its other columns are left aside.

    Raises:
        FileNotFoundError: if there is no `data.csv`.
        ValueError: if it has not the columns, no row, or a value that is not allowed.
    """
    path = Path(folder) / "data.csv"
    required = ("left_vote", "right_vote", "ref_path", "left_path", "right_path", "split")
    columns, lines = _read_columns(path, required, None)
    left, right = (
        _numbers(path, name, columns[name], lines, 0, np.inf) for name in ("left_vote", "right_vote")
    )
    _refuse(path, "left_vote or right_vote must be positive", columns["left_vote"], lines, left + right == 0)
    votes = _numbers(path, "votes", columns["votes"], lines, 1, np.inf) if "votes" in columns else None
    images, (ref, p0, p1) = _share(path, [columns[name] for name in required[2:5]])
    split = _split(path, columns["split"], lines)
    subset = np.zeros(len(lines), np.int64)
    return TripletTable(
        images=images,
        ref=ref,
        p0=p0,
        p1=p1,
        judgment=right / (left + right),
        subset=subset,
        subsets=["nights"],
        votes=votes,
        split=split,
    )


def _read_table(kind: type[AnyTable], path: Path, low: float = 0, high: float = 1) -> AnyTable:
    required = (*kind.roles, kind.on_disk)
    columns, lines = _read_columns(path, required, OPTIONAL)
    cells = columns[kind.on_disk]
    if not any(cells):
        raise ValueError(f"{path}: the column {kind.on_disk} is empty, nobody has judged these yet")
    answers = _numbers(path, kind.on_disk, cells, lines, low, high)
    votes = _numbers(path, "votes", columns["votes"], lines, 1, np.inf) if "votes" in columns else None
    split = _split(path, columns["split"], lines) if "split" in columns else None
    names = columns["subset"] if "subset" in columns else [path.stem] * len(lines)
    number = {name: i for i, name in enumerate(dict.fromkeys(names))}
    images, items = _share(path, [columns[role] for role in kind.roles])
    return kind(
        images=images,
        **dict(zip(kind.roles, items, strict=True)),
        **{kind.answer: answers},
        subset=np.array([number[name] for name in names]),
        subsets=list(number),
        votes=votes,
        split=split,
    )


def _share(path: Path, columns: list[list[str]]) -> tuple[list[str], list[np.ndarray]]:
    """The distinct files that columns of names relative to the CSV mean, and each column's indices."""
    files: dict[str, int] = {}
    items = [
        np.array([files.setdefault(os.path.normpath(path.parent / name), len(files)) for name in column])
        for column in columns
    ]
    return list(files), items


def _read_columns(
    path: Path, required: Sequence[str], optional: Sequence[str] | None
) -> tuple[dict[str, list[str]], list[int]]:
    """The columns by name, and the line each row ends on; None: any others may be there as well."""
    if not path.is_file():
        raise FileNotFoundError(f"no manifest {path}")
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            reader = csv.reader(file, strict=True)
            header = [name.strip() for name in next(reader, [])]
            numbered = [(reader.line_num, row) for row in reader if row]
    except (UnicodeDecodeError, csv.Error) as error:
        raise ValueError(f"{path} is not a CSV in UTF-8: {error}") from None
    allowed = set(header) if optional is None else {*required, *optional}
    if not set(required) <= set(header) <= allowed or len(set(header)) < len(header):
        raise ValueError(
            f"{path}: columns must be {', '.join(required)} and may be {', '.join(optional or ['any'])}; "
            f"the header has {', '.join(header) or 'none'}"
        )
    ragged = [f"line {line} has {len(row)}" for line, row in numbered if len(row) != len(header)]
    if ragged:
        raise ValueError(f"{path}: {len(ragged):,} rows have not {len(header)} cells: {first_few(ragged)}")
    if not numbered:
        raise ValueError(f"{path} holds no rows, only a header")
    cells = zip(*([cell.strip() for cell in row] for _, row in numbered), strict=True)
    return {name: list(column) for name, column in zip(header, cells, strict=True)}, [n for n, _ in numbered]


def _numbers(
    path: Path, name: str, cells: list[str], lines: list[int], low: float, high: float
) -> np.ndarray:
    values = np.array([_number(cell) for cell in cells], np.float32)
    allowed = "that is finite" if np.isinf(low) else f"of at least {low}"
    if np.isfinite(high):
        allowed = f"in [{low}, {high}]"
    wrong = ~((values >= low) & (values <= high) & np.isfinite(values))
    _refuse(path, f"{name} must be a number {allowed}", cells, lines, wrong)
    return values


def _number(cell: str) -> float:
    try:
        return float(cell)
    except ValueError:
        return np.nan


def _split(path: Path, cells: list[str], lines: list[int]) -> np.ndarray:
    split = np.array(cells)
    _refuse(path, f"split must be one of {', '.join(SPLITS)}", cells, lines, ~np.isin(split, SPLITS))
    return split


def _refuse(path: Path, rule: str, cells: list[str], lines: list[int], wrong: np.ndarray) -> None:
    if wrong.any():
        offenders = (f"line {lines[row]} has {cells[row]!r}" for row in np.flatnonzero(wrong))
        raise ValueError(f"{path}: {rule}; {wrong.sum():,} of {len(lines):,} are not: {first_few(offenders)}")
