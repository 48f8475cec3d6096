"""Results on disk: a folder each, written under a temporary name and renamed, so that none is half written.

    results/<data>/items/                row.json (what was judged), judgment.npy, subset.npy, ref.npy …
    results/<data>/scored/<method>/      row.json (score and provenance), d0.npy and d1.npy, or distance.npy
    results/<data>/failed/<method>/      row.json with the reason, until the method is scored
    results/<data>/conditions/<method>/  row.json with the scores under conditions
    results/<data>/trust/<method>/       row.json with the trust report

`<data>` is the beginning of the data's fingerprint. Several processes may write to one folder.
"""

import errno
import hashlib
import json
import math
import os
import shutil
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import MISSING, Field, dataclass, field, fields
from pathlib import Path
from typing import Annotated, Any, TypeVar

import numpy as np
from pydantic import BeforeValidator, ConfigDict

from perceptual.data.kinds import KINDS, Kind
from perceptual.files.places import safe_name
from perceptual.files.records import check_record, to_json
from perceptual.files.writing import whole_folder

AGAIN = "remove it and evaluate again"
SEAL = "sha256"  # of the rest of a row and of the arrays beside it
SCORED, FAILED, CONDITIONS, TRUST = "scored", "failed", "conditions", "trust"  # folders of results

Arrays = dict[str, np.ndarray]
Number = Annotated[float, BeforeValidator(lambda value: math.nan if value is None else value)]
"""JSON has no NaN, but null."""
Estimate = list[Number]
"""A number and the ends of its 95 % interval."""


@dataclass
class Kept:
    """A row of JSON and the arrays beside it."""

    __pydantic_config__ = ConfigDict(arbitrary_types_allowed=True)

    arrays: Arrays = field(default_factory=dict, compare=False, kw_only=True)

    def row(self) -> dict[str, Any]:
        """What is written as JSON: the fields that are known."""
        known = {f.name: getattr(self, f.name) for f in fields(self) if f.name != "arrays"}
        return {f.name: known[f.name] for f in fields(self) if f.name in known and known[f.name] != _empty(f)}


def _empty(of: Field[Any]) -> Any:
    return of.default if of.default_factory is MISSING else of.default_factory()


@dataclass
class Items(Kept):
    """What was judged, and by whom."""

    kind: str
    name: str
    fingerprint: str
    description: str
    size: int | str
    """Side of squares in pixels, or how images keep their shapes."""
    subsets: list[str]
    counts: list[int]
    """Items of each subset."""

    @property
    def judged(self) -> Kind:
        """The kind of judgment."""
        return KINDS[self.kind]


@dataclass
class Result(Kept):
    """What is known of a method on some judged items; fields that do not apply are empty."""

    method: str
    """Its name among results."""
    error: str | None = None
    """Why there is no score."""
    size: int | str | None = None
    """Of the images, as `Items` has it."""
    family: str = ""
    """The architecture's family, `classic` or `trained`; of a training run, the backbone."""

    # scores in [0, 1] or correlations by subset, then `mean` (macro) and `micro`
    scores: dict[str, Number] = field(default_factory=dict)
    majority: dict[str, Number] = field(default_factory=dict)
    krcc: dict[str, Number] = field(default_factory=dict)
    plcc: dict[str, Number] = field(default_factory=dict)
    protocol: dict[str, dict[str, Estimate]] = field(default_factory=dict)
    """What `opinion_protocol` gives."""
    conditions: dict[str, Estimate] = field(default_factory=dict)
    """2AFC scores by condition, then `mean`."""
    trust: dict[str, Estimate] = field(default_factory=dict)
    """By column of the trust report."""
    order: dict[str, Number] = field(default_factory=dict)
    """Rank correlation of distance and severity by family of distortion."""

    # what the trust report was made on
    seed: int = 0
    items: int | None = None
    attacked: int | None = None
    attacks: str = "fast"
    """How strong they were, see `perceptual.distance.attacks.STRENGTHS`."""
    rival: str | None = None
    note: str | None = None

    # the distance, see `provenance`
    parameters: int = 0
    value_range: list[float] | None = None
    backbone: str | None = None
    weights: str | None = None
    weights_sha256: str | None = None
    weights_file: str | None = None
    """SHA-256 of the weights on this machine, see `methods.weights_of`."""
    levels: list[int] | None = None
    channels: list[int] | None = None
    input_size: list[int] | None = None
    precision: str | None = None
    compiled: bool | None = None

    # its cost
    seconds: float | None = None
    flops: int | None = None
    level_shares: list[Number] | None = None
    images_per_second: float | None = None

    # the training run, see `runs`
    settings: dict[str, Any] | None = None
    seeds: int = 1
    """Runs that differ in their seed alone, whose mean this is."""
    command: str | None = None
    trained_on: str | None = None
    epochs: int | None = None
    steps: int | None = None

    # the machine
    versions: dict[str, str] = field(default_factory=dict)
    device: str | None = None
    threads: int | None = None
    date: str | None = None

    @property
    def folder(self) -> str:
        """Name of its folder."""
        seed = f"-seed{self.seed}" if self.seed else ""
        return safe_name(self.method) + seed + ("" if self.attacks == "fast" else f"-{self.attacks}")


Record = TypeVar("Record", bound=Kept)


class DataResults:
    """Results of all methods on one set of judged items.

    Args:
        folder: `results/<data>`; need not exist yet.
        others: folders of results on the same items, such as those of other runs; they are read, not written.
    """

    def __init__(self, folder: str | os.PathLike[str], *others: str | os.PathLike[str]) -> None:
        self.folder = Path(folder)
        self._folders = [self.folder, *map(Path, others)]

    def write_items(self, items: Items) -> None:
        """Keep what was judged; the first writer's stays."""
        publish(self.folder / "items", items.row(), items.arrays)

    def items(self) -> Items:
        """What was judged."""
        return read(self.folder / "items", Items)

    def write(self, result: Result, part: str = SCORED) -> None:
        """Keep a result; if there is one already, that one stays, but for a failure."""
        failure = self.folder / FAILED / result.folder
        if part == FAILED:
            shutil.rmtree(failure, ignore_errors=True)
        publish(self.folder / part / result.folder, result.row(), result.arrays)
        if part == SCORED:
            shutil.rmtree(failure, ignore_errors=True)

    def find(self, method: str, part: str = SCORED, **about: Any) -> Result | None:
        """The result of a method; None if there is none. `about`: fields that tell reports of it apart."""
        folder = self.folder / part / Result(method, **about).folder
        return _read_result(folder) if folder.is_dir() else None

    def all(self, part: str = SCORED) -> list[Result]:
        """The results of all methods, by name; of failures those that have not been scored since."""
        found = []
        for path in [
            path for folder in self._folders for path in sorted((folder / part).glob("[!.]*/row.json"))
        ]:
            with suppress(FileNotFoundError):  # another process has replaced or scored it since
                found.append(_read_result(path.parent))
        scored = self.folder / SCORED
        return [one for one in found if part != FAILED or not (scored / one.folder).is_dir()]


def find(results: str | os.PathLike[str]) -> list[DataResults]:
    """Every set of results in a folder and below, oldest first; those on the same items come as one.

    Raises:
        FileNotFoundError: there is none.
    """
    found = [path.parents[1] for path in Path(results).rglob("items/row.json")]
    if not found:
        raise FileNotFoundError(
            f"no results in {os.fspath(results)!r}; train.py and evaluate.py, which `perceptual new` gives, "
            "write them"
        )
    by_items: dict[str, list[Path]] = {}
    for folder in sorted(found, key=lambda folder: (folder / "items").stat().st_mtime):
        by_items.setdefault(read(folder / "items", Items).fingerprint, []).append(folder)
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


def read(folder: Path, schema: type[Record]) -> Record:
    """Read a published folder.

    Raises:
        ValueError: it is damaged or was changed, or a field is missing or of another type.
        FileNotFoundError: there is none.
    """
    try:
        text = (folder / "row.json").read_text("utf-8")
        row = json.loads(text)
        seal = row.pop(SEAL, None)
        arrays = {path.stem: np.load(path) for path in sorted(folder.glob("*.npy"))}
        if seal != _digest(row, arrays):
            raise ValueError("it has not the SHA-256 that it records")
        if len({array.shape[:1] for array in arrays.values()}) > 1:
            raise ValueError("its arrays are not of one length")
        found = check_record(text, schema, "row.json", AGAIN)
    except FileNotFoundError:
        raise
    except Exception as error:  # damaged files raise all kinds of errors
        raise ValueError(f"{folder} was damaged or changed, {AGAIN}: {error}") from None
    found.arrays = arrays
    return found


def _read_result(folder: Path) -> Result:
    result = read(folder, Result)
    if folder.name != result.folder:
        raise ValueError(f"{folder} holds the result of another method, {result.method!r}; {AGAIN}")
    return result


def _digest(row: Mapping[str, Any], arrays: Mapping[str, np.ndarray]) -> str:
    found = hashlib.sha256(json.dumps(row, sort_keys=True).encode())
    for name, array in sorted(arrays.items()):
        found.update(f"{name} {array.dtype.str} {array.shape}".encode())
        found.update(np.ascontiguousarray(array).data)
    return found.hexdigest()
