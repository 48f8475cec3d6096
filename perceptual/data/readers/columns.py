"""Columns of a CSV file, checked cell by cell; what spreadsheets save is read too.

The separator is a comma, a semicolon or a tab: what a first line such as `sep=;` names, else whichever the
header has most of. Where it is a semicolon, a comma in a number is a decimal point. Header names are trimmed
and lower-cased; a byte order mark, empty rows and empty columns at the end are skipped.
"""

import csv
import os
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from perceptual.files import csv_cells
from perceptual.files.messages import first_few
from perceptual.files.places import as_on_disk

SEPARATORS = (",", ";", "\t")
MOST_PEOPLE = 2**24  # of one item: float32, which votes are kept in, counts no further
_SEPARATOR = re.compile(r'"?sep=(.?)"?\s*', re.IGNORECASE)
# float() would take 1_000, Arabic digits and words as well
_NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)(e[+-]?\d+)?", re.ASCII | re.IGNORECASE)
_COUNT = re.compile(r"\d+([.,]0+)?", re.ASCII)


@dataclass(frozen=True)
class Columns:
    """Rows of a CSV file, column by column."""

    path: Path
    cells: dict[str, list[str]]  # trimmed, by the name of the column
    lines: list[int]  # the line that each row ends on
    decimal_comma: bool

    def __contains__(self, name: str) -> bool:
        return name in self.cells

    def __len__(self) -> int:
        return len(self.lines)

    def numbers(self, name: str, low: float, high: float = np.inf) -> np.ndarray:
        """A column as float32, (N,); raises ValueError for cells that are no finite number in [low, high]."""
        cells = self.cells[name]
        if self.decimal_comma:
            cells = [cell.replace(",", ".") for cell in cells]
        values = np.array([number(cell) for cell in cells], np.float32)
        allowed = "that is finite" if np.isinf(low) else f"of at least {low:g}"
        if np.isfinite(high):
            allowed = f"in [{low:g}, {high:g}]"
        wrong = ~((values >= low) & (values <= high) & np.isfinite(values))
        self.refuse(name, f"{name} must be a number {allowed}", wrong)
        return values

    def people(self, name: str) -> np.ndarray:
        """A column of numbers of people as float32, (N,); raises ValueError for what is no such count."""
        values = self.numbers(name, 1)
        whole = np.array([bool(_COUNT.fullmatch(cell)) for cell in self.cells[name]])
        self.refuse(name, f"{name} must be a whole number of people", ~whole | (values > MOST_PEOPLE))
        return values

    def words(self, name: str, allowed: Sequence[str]) -> np.ndarray:
        """A column of words, (N,); raises ValueError for any other than those allowed."""
        words = np.array(self.cells[name])
        self.refuse(name, f"{name} must be one of {', '.join(allowed)}", ~np.isin(words, allowed))
        return words

    def files(self, names: Sequence[str]) -> tuple[list[str], np.ndarray]:
        """Return the distinct files in some columns, relative to the CSV, and their indices, (columns, N)."""
        files: dict[str, int] = {}
        items = []
        for name in names:
            paths = as_on_disk(os.path.normpath(self.path.parent / cell) for cell in self.cells[name])
            items.append([files.setdefault(path, len(files)) for path in paths])
        return list(files), np.array(items, np.int64)

    def refuse(self, name: str, rule: str, wrong: np.ndarray) -> None:
        """Raise ValueError with the rule and cells of column `name` if a mask (N,) says any row is wrong."""
        if wrong.any():
            cells = self.cells[name]
            offenders = (f"line {self.lines[row]} has {cells[row]!r}" for row in np.flatnonzero(wrong))
            raise ValueError(
                f"{self.path}: {rule}; {wrong.sum():,} of {len(self):,} are not: {first_few(offenders)}"
            )


def read_columns(path: Path, required: Sequence[str], optional: Sequence[str] | None) -> Columns:
    """Read a CSV file with a header.

    Args:
        path: the file, in UTF-8.
        required: columns that it must have.
        optional: columns that it may have; None: any.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it is not such a CSV, has other columns, a row of another length, or no row.
    """
    header, separator, numbered = _read(path)
    allowed = set(header) if optional is None else {*required, *optional}
    if not set(required) <= set(header) <= allowed or len(set(header)) < len(header):
        raise ValueError(
            f"{path}: columns must be {', '.join(required)} and may be {', '.join(optional or ['any'])}; "
            f"the header has {', '.join(header) or 'none'}"
        )
    ragged = [f"line {line} has {len(row)}" for line, row in numbered if len(row) != len(header)]
    if ragged:
        raise ValueError(f"{path}: {len(ragged):,} rows do not have {len(header)} cells: {first_few(ragged)}")
    if not numbered:
        raise ValueError(f"{path} holds no rows, only a header")
    cells = zip(*([csv_cells.read(cell) for cell in row] for _, row in numbered), strict=True)
    by_name = {name: list(column) for name, column in zip(header, cells, strict=True)}
    return Columns(path, by_name, [line for line, _ in numbered], decimal_comma=separator == ";")


def read_header(path: Path) -> list[str]:
    """Names of the columns of a CSV file; raises as `read_columns`."""
    return _read(path)[0]


def _read(path: Path) -> tuple[list[str], str, list[tuple[int, list[str]]]]:
    """Header, separator, and the rows that are not empty with the line each ends on."""
    if not path.is_file():
        raise FileNotFoundError(f"no manifest {path}")
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            first = file.readline()
            named = _SEPARATOR.fullmatch(first)
            separator = (
                named[1] if named else max(SEPARATORS, key=first.count)
            )  # the comma, where all are as rare
            if separator not in SEPARATORS:
                raise ValueError(
                    f"{path}: the line sep= must name a comma, a semicolon or a tab, got {separator!r}"
                )
            if not named:
                file.seek(0)
            reader = csv.reader(file, strict=True, delimiter=separator)
            header = _without_empty_end([name.strip().lower() for name in next(reader, [])])
            rows = [(reader.line_num + bool(named), [cell.strip() for cell in row]) for row in reader]
            return (
                header,
                separator,
                [(line, _without_empty_end(row, len(header))) for line, row in rows if any(row)],
            )
    except (UnicodeDecodeError, csv.Error) as error:
        raise ValueError(f"{path} is not a CSV in UTF-8: {error}") from None


def _without_empty_end(row: list[str], length: int = 0) -> list[str]:
    """Drop empty cells at the end of a row, but keep at least `length` cells."""
    while len(row) > length and not row[-1]:
        row = row[:-1]
    return row


def number(cell: str) -> float:
    """A number as people write it; NaN for anything else."""
    return float(cell) if _NUMBER.fullmatch(cell) else np.nan
