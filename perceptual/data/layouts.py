"""Triplets as they lie on disk: the BAPPS folder tree, and a manifest (one CSV)."""

import csv
import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from perceptual.data.images import first_few
from perceptual.data.triplets import TripletTable

FOLDERS = ("ref", "p0", "p1", "judge")
COLUMNS = ("ref", "p0", "p1", "judge", "votes", "subset", "split")
SPLITS = ("train", "val", "test")


def read_folder(root: str | Path, subsets: Sequence[str]) -> TripletTable:
    """List `<root>/<subset>/{ref,p0,p1}/STEM.png` with `judge/STEM.npy`, joined by stem.

    Args:
        root: folder that holds the subsets.
        subsets: their paths, such as "val/cnn"; a subset is named by the last part, "cnn".

    Raises:
        FileNotFoundError: if the root, a subset or one of its four folders is not there.
        ValueError: if a folder is empty, a stem is not in all four, or a judgment not one number in [0, 1].
    """
    names = subset_names(subsets)
    parts = [_read_subset(Path(root) / subset) for subset in subsets]
    counts = [len(judgment) for _, judgment in parts]
    images = [path for role in range(3) for files, _ in parts for path in files[role]]
    rows = np.arange(sum(counts))
    return TripletTable(
        images=images,
        ref=rows,
        p0=rows + len(rows),
        p1=rows + 2 * len(rows),
        judgment=np.concatenate([judgment for _, judgment in parts]),
        subset=np.repeat(np.arange(len(names)), counts),
        subsets=names,
    )


def subset_names(subsets: Sequence[str]) -> list[str]:
    """The last parts of the subsets' paths; raises ValueError unless there are some and they differ."""
    names = [] if isinstance(subsets, str) else [Path(subset).name for subset in subsets]
    if not names or len(set(names)) < len(names):
        raise ValueError(f"subsets must be a list of folders whose names differ, got {subsets!r}")
    return names


def _read_subset(folder: Path) -> tuple[list[list[str]], np.ndarray]:
    """Files of ref, p0 and p1, each in the order of the stems, and the judgments."""
    by_stem = {role: _files_by_stem(folder, role) for role in FOLDERS}
    stems = sorted(set().union(*by_stem.values()))
    if not stems:
        raise ValueError(f"{folder} is empty: no file in any of {', '.join(FOLDERS)}")
    gaps = [
        f"{stem} (not in {', '.join(absent)})"
        for stem in stems
        if (absent := [role for role in FOLDERS if stem not in by_stem[role]])
    ]
    if gaps:
        counts = ", ".join(f"{len(files):,} in {role}" for role, files in by_stem.items())
        raise ValueError(
            f"{folder}: {len(gaps):,} of {len(stems):,} stems are incomplete ({counts}): {first_few(gaps)}"
        )
    ref, p0, p1, judge = ([by_stem[role][stem] for stem in stems] for role in FOLDERS)
    return [ref, p0, p1], _read_judgments(judge)


def _files_by_stem(folder: Path, role: str) -> dict[str, str]:
    if not (folder / role).is_dir():
        around = next(path for path in (folder, *folder.parents) if path.is_dir())
        there = first_few(sorted(entry.name for entry in around.iterdir())) or "nothing"
        raise FileNotFoundError(f"no folder {folder / role}; {around} holds {there}")
    with os.scandir(folder / role) as entries:
        paths = sorted(entry.path for entry in entries if not entry.name.startswith("."))
    files = {Path(path).stem: path for path in paths}
    if len(files) < len(paths):
        repeated = sorted(set(paths) - set(files.values()))
        raise ValueError(f"{folder / role}: {len(repeated):,} stems occur twice: {first_few(repeated)}")
    return files


def _read_judgments(paths: list[str]) -> np.ndarray:
    judgments = np.full(len(paths), np.nan, np.float32)
    for row, path in enumerate(paths):
        try:
            judgments[row] = np.load(path, allow_pickle=False).astype(np.float32).item()
        except (ValueError, EOFError, OSError, AttributeError):  # text, pickles, empty files, arrays, .npz
            continue
    wrong = ~((judgments >= 0) & (judgments <= 1))
    if wrong.any():
        raise ValueError(
            f"{wrong.sum():,} of {len(paths):,} judgments are not one number in [0, 1]: "
            + first_few(f"{paths[row]} ({judgments[row]:g})" for row in np.flatnonzero(wrong))
        )
    return judgments


def read_manifest(path: str | Path) -> TripletTable:
    """List the triplets of a CSV with a header.

    Its columns are `ref`, `p0`, `p1` (image files, relative to the CSV), `judge` (fraction that preferred p1)
    and, if wanted, `votes` (people asked), `subset` (a name to score by) and `split` (train, val or test).

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: if it is not such a CSV, holds no row, or has a value that is not allowed.
    """
    path = Path(path)
    columns, lines = _read_columns(path)
    judgment = _numbers(path, "judge", columns["judge"], lines, 0, 1)
    votes = _numbers(path, "votes", columns["votes"], lines, 1, np.inf) if "votes" in columns else None
    split = _split(path, columns["split"], lines) if "split" in columns else None
    names = columns["subset"] if "subset" in columns else [path.stem] * len(lines)
    subsets = list(dict.fromkeys(names))
    number = {name: i for i, name in enumerate(subsets)}
    files: dict[str, int] = {}
    ref, p0, p1 = (
        np.array(
            [files.setdefault(os.path.normpath(path.parent / name), len(files)) for name in columns[role]]
        )
        for role in ("ref", "p0", "p1")
    )
    subset = np.array([number[name] for name in names])
    return TripletTable(list(files), ref, p0, p1, judgment, subset, subsets, votes, split)


def _read_columns(path: Path) -> tuple[dict[str, list[str]], list[int]]:
    """The columns by name, and the line each row ends on."""
    if not path.is_file():
        raise FileNotFoundError(f"no manifest {path}")
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            reader = csv.reader(file, strict=True)
            header = [name.strip() for name in next(reader, [])]
            numbered = [(reader.line_num, row) for row in reader if row]
    except (UnicodeDecodeError, csv.Error) as error:
        raise ValueError(f"{path} is not a CSV in UTF-8: {error}") from None
    required = COLUMNS[:4]
    if not set(required) <= set(header) <= set(COLUMNS) or len(set(header)) < len(header):
        raise ValueError(
            f"{path}: columns must be {', '.join(required)} and may be {', '.join(COLUMNS[4:])}; "
            f"the header has {', '.join(header) or 'none'}"
        )
    ragged = [f"line {line} has {len(row)}" for line, row in numbered if len(row) != len(header)]
    if ragged:
        raise ValueError(f"{path}: {len(ragged):,} rows have not {len(header)} cells: {first_few(ragged)}")
    if not numbered:
        raise ValueError(f"{path} holds no triplets, only a header")
    cells = zip(*([cell.strip() for cell in row] for _, row in numbered), strict=True)
    return {name: list(column) for name, column in zip(header, cells, strict=True)}, [n for n, _ in numbered]


def _numbers(
    path: Path, name: str, cells: list[str], lines: list[int], low: float, high: float
) -> np.ndarray:
    values = np.array([_number(cell) for cell in cells], np.float32)
    allowed = f"in [{low}, {high}]" if np.isfinite(high) else f"of at least {low}"
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
