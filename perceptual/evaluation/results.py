"""Results on disk: a folder each, written under a temporary name and renamed, so that none is half written.

    results/<data>/items/              row.json (what was judged), judgment.npy, subset.npy, ref.npy …
    results/<data>/scored/<method>/    row.json (score and provenance), d0.npy and d1.npy, or distance.npy
    results/<data>/failed/<method>/    row.json with the reason, until the method is scored

`<data>` is the beginning of the data's fingerprint. Several processes may write to one folder.
"""

import errno
import hashlib
import json
import math
import os
import re
import shutil
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple

import numpy as np

from perceptual.files.records import to_json
from perceptual.files.writing import whole_folder

AGAIN = "remove it and evaluate again"
SEAL = "sha256"  # of the rest of a row and of the arrays beside it
PRECISION = "+bf16-mixed"  # ends the name of a method of that precision
OF_ITEMS = {"kind": str, "name": str, "fingerprint": str}
OF_METHODS = {"method": str}
OF_NUMBERS = ("scores", "majority", "krcc", "plcc", "protocol", "trust", "order", "conditions")
Row = dict[str, Any]
Arrays = dict[str, np.ndarray]


class Result(NamedTuple):
    """A row and the arrays beside it."""

    row: Row
    arrays: Arrays


class DataResults:
    """Results of all methods on one set of judged items.

    Args:
        folder: `results/<data>`; need not exist yet.
        others: folders of results on the same items, such as those of other runs; they are read, not written.
    """

    def __init__(self, folder: str | os.PathLike[str], *others: str | os.PathLike[str]) -> None:
        self.folder = Path(folder)
        self._folders = [self.folder, *map(Path, others)]

    def write_items(self, row: Mapping[str, Any], arrays: Mapping[str, np.ndarray]) -> None:
        """Keep what was judged; the first writer's stays."""
        publish(self.folder / "items", row, arrays)

    def write(self, row: Mapping[str, Any], arrays: Mapping[str, np.ndarray]) -> None:
        """Keep the result of a method, `row["method"]`; if there is one already, that one stays."""
        publish(self._scored(row["method"]), row, arrays)
        self._forget_failure(row["method"])

    def write_failure(self, row: Mapping[str, Any]) -> None:
        """Keep why a method gave no score, in place of an earlier reason."""
        self._forget_failure(row["method"])
        publish(self._failed(row["method"]), row, {})

    def has(self, method: str) -> bool:
        """Whether the method is scored."""
        return self._scored(method).is_dir()

    def row_of(self, method: str) -> Row | None:
        """The row of a method's result; None if it is not scored."""
        return read_method(self._scored(method)).row if self.has(method) else None

    def items(self) -> Result:
        """What was judged."""
        return read(self.folder / "items", OF_ITEMS)

    def scored(self) -> list[Result]:
        """Results of the methods that were scored, by name."""
        return [read_method(path) for folder in self._folders for path in _rows(folder / "scored")]

    def failed(self) -> list[Row]:
        """Rows of the methods that failed and have not been scored since, by name."""
        rows = []
        for path in [path for folder in self._folders for path in _rows(folder / "failed")]:
            with suppress(FileNotFoundError):  # another process has replaced or scored it since
                rows.append(read_method(path).row)
        return [row for row in rows if not self.has(row["method"])]

    def _forget_failure(self, method: str) -> None:
        shutil.rmtree(self._failed(method), ignore_errors=True)

    def _scored(self, method: str) -> Path:
        return self.folder / "scored" / folder_name(method)

    def _failed(self, method: str) -> Path:
        return self.folder / "failed" / folder_name(method)


def find(results: str | os.PathLike[str]) -> list[DataResults]:
    """Every set of results in a folder and below, oldest first; those on the same items come as one.

    Raises:
        FileNotFoundError: there is none.
    """
    found = [path.parents[1] for path in Path(results).rglob("items/row.json")]
    if not found:
        raise FileNotFoundError(f"no results in {os.fspath(results)!r}; evaluate.py and train.py write them")
    by_items: dict[str, list[Path]] = {}
    for folder in sorted(found, key=lambda folder: (folder / "items").stat().st_mtime):
        by_items.setdefault(read(folder / "items").row["fingerprint"], []).append(folder)
    return [DataResults(*folders) for folders in by_items.values()]


def publish(folder: Path, row: Mapping[str, Any], arrays: Mapping[str, np.ndarray]) -> bool:
    """Make a folder with `row.json` and `<name>.npy`, whole or not at all; False if it is there already.

    Raises:
        OSError: it cannot be written, or the disk is full.
    """
    sealed = {**row, SEAL: _digest(json.loads(to_json(row)), arrays)}
    try:
        with whole_folder(folder) as whole:
            for name, array in arrays.items():
                np.save(whole / f"{name}.npy", array)
            (whole / "row.json").write_text(to_json(sealed), "utf-8")
    except OSError as error:
        # a folder with something in it cannot be replaced
        if error.errno in (errno.EEXIST, errno.ENOTEMPTY) or folder.is_dir():
            return False
        raise
    return True


def read(folder: Path, fields: Mapping[str, type] = MappingProxyType({})) -> Result:
    """Read a published folder.

    Raises:
        ValueError: it is damaged or was changed, or lacks one of `fields`; names it.
        FileNotFoundError: there is none.
    """
    try:
        row = json.loads((folder / "row.json").read_text("utf-8"))
        seal = row.pop(SEAL, None)
        arrays = {path.stem: np.load(path) for path in sorted(folder.glob("*.npy"))}
        if seal != _digest(row, arrays):
            raise ValueError("it has not the SHA-256 that it records")
        for key, kind in fields.items():
            if not isinstance(row.get(key), kind):
                raise ValueError(f"{key} in row.json must be {kind.__name__}, got {row.get(key)!r}")
        if fields and len({(array.ndim == 1, array.size) for array in arrays.values()}) > 1:
            raise ValueError("its arrays are not of one length")
        row |= {key: _numbers(row[key]) for key in OF_NUMBERS if key in row}
        return Result(row, arrays)
    except FileNotFoundError:
        raise
    except Exception as error:  # damaged files raise all kinds of errors
        raise ValueError(f"{folder} was damaged or changed, {AGAIN}: {error}") from None


def read_method(folder: Path) -> Result:
    """Read the published folder of a method.

    Raises:
        ValueError: it is damaged, or holds what belongs in the folder of another method.
        FileNotFoundError: there is none.
    """
    result = read(folder, OF_METHODS)
    method = result.row["method"]
    if folder.name != folder_name(method):
        raise ValueError(f"{folder} holds the result of another method, {method!r}; {AGAIN}")
    return result


def _numbers(value: Any) -> Any:
    """Numbers as they were before they were written: JSON has no NaN, but null."""
    if isinstance(value, dict):
        return {key: _numbers(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_numbers(item) for item in value]
    return math.nan if value is None else value


def _digest(row: Mapping[str, Any], arrays: Mapping[str, np.ndarray]) -> str:
    found = hashlib.sha256(json.dumps(row, sort_keys=True).encode())
    for name, array in sorted(arrays.items()):
        found.update(f"{name} {array.dtype.str} {array.shape}".encode())
        found.update(np.ascontiguousarray(array).data)
    return found.hexdigest()


def folder_name(method: str) -> str:
    """The folder of a method: its own name, or a readable part and a hash where it has odd characters."""
    if re.fullmatch(r"\w[\w.-]*", method):
        return method
    readable = re.sub(r"[^\w.-]+", "-", method).strip("-.")[-80:]
    return f"{readable}-{hashlib.sha256(method.encode()).hexdigest()[:8]}"


def _rows(parent: Path) -> list[Path]:
    return sorted(path.parent for path in parent.glob("[!.]*/row.json"))
