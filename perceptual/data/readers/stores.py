"""Packed store: a table of triplets or pairs with its images decoded and resized, as memory-mapped arrays.

A folder with

- `store.json`: what is in it and where it came from (`StoreInfo`), written last;
- `images.npy` (M, 3, S, S) uint8, RGB, and `digests.npy` (M, 32) uint8, the SHA-256 of each image;
- `items.npy` (roles, N) int64, for each item the images it shows;
- `judgment.npy` or `same.npy` (N,) float32, `subset.npy` (N,) int64 and, where the source has them,
  `votes.npy` (N,) float32, `split.npy` (N,) text and `made.npy` (N,) bytes, the record of synthetic items.
"""

import json
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from perceptual.data.images import MappedImages
from perceptual.data.items.pairs import PairTable
from perceptual.data.items.table import AnyTable, Table
from perceptual.data.items.triplets import TripletTable

VERSION = 1
INFO = "store.json"
KINDS: dict[str, type[Table]] = {kind.plural: kind for kind in (TripletTable, PairTable)}
_OPTIONAL = ("votes", "split", "made")


@dataclass(frozen=True)
class StoreInfo:
    """What `store.json` records."""

    version: int  # of this format
    kind: str  # "triplets" or "pairs"
    source: str
    size: int  # side S of the images
    resize: str
    items: int
    images: int
    subsets: dict[str, int]  # items of each, in the order of their numbers
    skipped: list[str]  # files that could not be used
    request: str  # SHA-256 of the listing this was packed from, see `perceptual.data.writers.stores`
    fingerprint: str  # SHA-256 of the content, see `Table.fingerprint`


def is_store(path: str | Path) -> bool:
    """Whether there is a complete store."""
    return (Path(path) / INFO).is_file()


def read_info(folder: str | Path) -> StoreInfo:
    """What a store's `store.json` records; raises ValueError if it is of another format."""
    path = Path(folder) / INFO
    try:
        info = StoreInfo(**json.loads(path.read_text(encoding="utf-8")))
    except (ValueError, TypeError):
        raise ValueError(f"{path} does not describe a store; pack it again") from None
    if info.version != VERSION or info.kind not in KINDS:
        raise ValueError(f"{path} is of format {info.version}, this is for format {VERSION}; pack it again")
    return info


def read_store(kind: type[AnyTable], folder: str | Path) -> AnyTable:
    """The table of a store, its images mapped.

    Args:
        kind: `TripletTable` or `PairTable`.
        folder: the store.

    Raises:
        ValueError: it holds the other kind, or a file of it is missing, damaged or does not fit.
    """
    folder, info = Path(folder), read_info(folder)
    if KINDS[info.kind] is not kind:
        raise ValueError(f"{folder} is a store of {info.kind}, not of {kind.plural}")
    try:
        images = MappedImages(folder)
        items, answers, subset = (
            np.load(folder / f"{name}.npy") for name in ("items", kind.answer, "subset")
        )
        optional = {
            name: np.load(folder / f"{name}.npy") for name in _OPTIONAL if (folder / f"{name}.npy").exists()
        }
    except (OSError, ValueError, EOFError) as error:
        raise ValueError(f"{folder} is damaged, pack it again: {error}") from None
    shapes = {
        "images": (images.shape, (info.images, 3, info.size, info.size)),
        "digests": (images.digests.shape, (info.images, 32)),
        "items": (items.shape, (len(kind.roles), info.items)),
    }
    shapes |= {
        name: (column.shape, (info.items,))
        for name, column in {kind.answer: answers, "subset": subset, **optional}.items()
    }
    for name, (found, expected) in shapes.items():
        if found != expected:
            raise ValueError(f"{folder} is damaged, pack it again: {name} is {found}, not {expected}")
    roles = dict(zip(kind.roles, items, strict=True))
    return kind(
        images=images,
        **roles,
        **{kind.answer: answers},
        subset=subset,
        subsets=list(info.subsets),
        **optional,
    )


def write_columns(folder: Path, table: Table) -> None:
    """Write all of a store except the images, their digests and `store.json`."""
    np.save(folder / "items.npy", table.items())
    columns = {table.answer: getattr(table, table.answer), "subset": table.subset}
    columns |= {name: column for name in _OPTIONAL if (column := getattr(table, name)) is not None}
    for name, column in columns.items():
        np.save(folder / f"{name}.npy", column)


def write_info(folder: Path, info: StoreInfo) -> None:
    """Write `store.json`, which makes the folder a store."""
    (folder / INFO).write_text(
        json.dumps(asdict(info), indent=1, ensure_ascii=False) + "\n", encoding="utf-8"
    )
