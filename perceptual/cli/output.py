"""Output of the commands: numbers, tables, JSON, CSV."""

import os
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, TextIO

from rich.console import Console
from rich.table import Table

from perceptual.files import csv_cells
from perceptual.files.records import to_json
from perceptual.files.writing import begin_beside

Cell = str | int | float | None
STDERR = Console(stderr=True, highlight=False, markup=False, soft_wrap=True)


def short(value: Cell) -> str:
    """Return a number as a person reads it: four decimals, or as many digits where it is small."""
    if not isinstance(value, float):
        return "" if value is None else str(value)
    return f"{value:.4g}" if 0 < abs(value) < 0.01 else f"{value:.4f}"


def exact(value: Cell) -> str:
    """Return a number with all digits of float32."""
    if not isinstance(value, float):
        return "" if value is None else str(value)
    return f"{value:.9g}"


def say(what: Any) -> None:
    """Print a table, or a line without breaking it; brackets in names are no markup."""
    Console(highlight=False, markup=False).print(what, soft_wrap=isinstance(what, str))


def note(text: str) -> None:
    """Print a line for the person at the terminal, on stderr."""
    STDERR.print(text)


class Problems(list[str]):
    """Problems with what is measured: each is printed at once, and `finish` counts them.

    Args:
        things: what is measured, in the plural.
    """

    def __init__(self, things: str) -> None:
        super().__init__()
        self.things = things

    def add(self, problem: object) -> None:
        """Note a problem."""
        self.append(str(problem))
        note(f"not measured: {problem}")

    def finish(self, total: int) -> None:
        """Raise ValueError if there were any, of a total of things."""
        if self:
            raise ValueError(f"{len(self):,} of {total:,} {self.things} could not be measured")


def print_json(value: Any) -> None:
    """Print JSON; what it has no number for (−∞ is the psnr distance of equal images) becomes null."""
    print(to_json(value), end="")


def print_for_scripts(
    columns: Sequence[str], rows: Sequence[Sequence[Cell]], json: bool, csv: bool, key: str, **about: Any
) -> bool:
    """Print rows as CSV, or as JSON under a key beside what else is known; return whether one is wanted."""
    if json:
        print_json(about | {key: [dict(zip(columns, row, strict=True)) for row in rows]})
    elif csv:
        write_csv(sys.stdout, columns, rows)
    return json or csv


def write_csv(file: TextIO, columns: Sequence[str], rows: Iterable[Sequence[Cell]]) -> None:
    """Write a header and rows."""
    written = csv_cells.Rows(file, columns, exact)
    for row in rows:
        written.write(row)


def print_table(columns: Sequence[str], rows: Sequence[Sequence[Cell]]) -> None:
    """Print rows for a person; numbers stand right."""
    table = Table(
        box=None, pad_edge=False, padding=(0, 3, 0, 0), header_style="bold", show_header=any(columns)
    )
    for place, column in enumerate(columns):
        numbers = all(isinstance(row[place], int | float | None) for row in rows)
        table.add_column(column, justify="right" if numbers else "left", overflow="fold")
    for row in rows:
        table.add_row(*(short(cell) for cell in row))
    console = Console(highlight=False, markup=False)
    if not console.is_terminal:  # a file has no edge to wrap at
        console.width = 10_000
    console.print(table)


class RowFile:
    """CSV file that takes rows as they come: in `<path>.partial`, which becomes `<path>` at the end.

    Made at once, so that a place that cannot be written to is found before any work. If what is done in the
    context fails or is interrupted, the rows so far stay in the partial file, and a line says so.

    Raises:
        ValueError: the path is a folder.
        OSError: it cannot be written.
    """

    def __init__(self, path: Path, columns: Sequence[str]) -> None:
        self.path, self.columns, self.count = path, columns, 0

    def __enter__(self) -> "RowFile":
        self.partial = begin_beside(self.path)
        # names of files may be no UTF-8; they are written as they are
        self._file = self.partial.open("w", newline="", encoding="utf-8", errors="surrogateescape")
        self._rows = csv_cells.Rows(self._file, self.columns, exact)
        return self

    def write(self, rows: Sequence[Sequence[Cell]]) -> None:
        """Append rows; they are on disk afterwards."""
        for row in rows:
            self._rows.write(row)
        self._file.flush()
        self.count += len(rows)

    def __exit__(self, failed: type[BaseException] | None, *_: object) -> None:
        self._file.close()
        if failed is None:
            os.replace(self.partial, self.path)
        elif self.count:
            note(f"{self.count:,} rows so far are in {self.partial}")
        else:
            self.partial.unlink()


def refuse_inputs(output: Path | None, *inputs: str | os.PathLike[str]) -> None:
    """Refuse to write over what is read; raises ValueError naming the file."""
    if output is None or not output.exists():
        return
    for path in inputs:
        if os.path.exists(path) and os.path.samefile(path, output):
            raise ValueError(f"{output} is one of the files to be read; give another output")
