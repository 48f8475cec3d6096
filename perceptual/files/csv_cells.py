"""Cells of CSV files: names that a spreadsheet would run as formulas are written with an apostrophe before.

https://owasp.org/www-community/attacks/CSV_Injection. What is written so is read back as it was.
"""

import csv
import re
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any, TextIO

_FORMULA = re.compile(r"'*[=+\-@\t\r].", re.DOTALL)  # a sign alone is none


def written(cell: str) -> str:
    """A cell of text as files have it."""
    return f"'{cell}" if _FORMULA.match(cell) else cell


def read(cell: str) -> str:
    """A cell of a file as it was before it was written."""
    return cell[1:] if cell.startswith("'") and _FORMULA.match(cell) else cell


class Rows:
    """A writer of rows, with the lines ended as they are on Unix.

    Args:
        file: open for text, with `newline=""`.
        columns: the header.
        number: how a cell that is no text is written; as `csv` does by default.
    """

    def __init__(
        self, file: TextIO, columns: Sequence[str], number: Callable[[Any], Any] = lambda value: value
    ) -> None:
        self._number = number
        self._rows = csv.writer(file, lineterminator="\n")
        self._rows.writerow(map(written, columns))

    def write(self, row: Iterable[Any]) -> None:
        """Write a row, in the order of the columns."""
        self._rows.writerow(written(cell) if isinstance(cell, str) else self._number(cell) for cell in row)


def write_file(path: Path, columns: Sequence[str], rows: Iterable[Iterable[Any]]) -> None:
    """Write a CSV file of rows, each in the order of the columns."""
    with path.open("w", newline="", encoding="utf-8") as file:
        lines = Rows(file, columns)
        for row in rows:
            lines.write(row)
