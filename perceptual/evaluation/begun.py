"""Distances that a run had computed when it was stopped: kept beside the results until a method is scored."""

import shutil
import time
from pathlib import Path

import numpy as np

from perceptual.files.places import safe_name
from perceptual.files.writing import whole_file

EVERY = 20.0  # seconds between two writings: what a killed run loses at most


class Begun:
    """Columns (K, N) float32 by method, NaN where not computed, in `results/<data>/begun/<method>/`.

    Args:
        folder: `results/<data>`.
        of: what the columns count, such as "items"; those of another count or name are not read.
    """

    def __init__(self, folder: Path, of: str) -> None:
        self._folder, self._of = folder / "begun", of
        self._written = time.monotonic()

    def read(self, method: str, rows: int) -> np.ndarray | None:
        """What is there of a method, (K, rows); None if nothing is, or what is there does not fit."""
        try:
            with np.load(self._path(method)) as found:
                columns: np.ndarray = found["columns"]
        except Exception:  # a damaged file raises all kinds of errors
            return None
        return columns if columns.dtype == np.float32 and columns.shape[1:] == (rows,) else None

    def keep(self, columns: dict[str, np.ndarray], now: bool = False) -> None:
        """Write the columns, (K, rows) each by method, if `EVERY` has passed or `now`."""
        if not now and time.monotonic() - self._written < EVERY:
            return
        for method, values in columns.items():
            path = self._path(method)
            with whole_file(path) as fresh, fresh.open("wb") as file:
                np.savez(file, columns=values)  # with a checksum
        self._written = time.monotonic()

    def forget(self, method: str) -> None:
        """Remove what is there of a method, which is scored now."""
        shutil.rmtree(self._path(method).parent, ignore_errors=True)

    def _path(self, method: str) -> Path:
        return self._folder / safe_name(method) / f"{self._of}.npz"
