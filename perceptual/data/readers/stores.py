"""Packed store: a table of triplets or pairs with its images decoded and resized, as memory-mapped arrays.

A folder with

- `store.json`: what is in it and where it came from (`StoreInfo`), written last;
- `images.npy` (M, 3, S, S) uint8, RGB, and `digests.npy` (M, 32) uint8, the SHA-256 of each image; of images
  in their own sizes, instead `pixels.npy` (B,) uint8, one image after another, and `sizes.npy` (M, 2);
- `items.npy` (roles, N) int64, for each item the images it shows;
- `judgment.npy` or `same.npy` (N,) float32, `subset.npy` (N,) int64 and, where the source has them,
  `votes.npy` (N,) float32, `split.npy` (N,) text and `made.npy` (N,) bytes, the record of synthetic items.

The folder may lie on object storage (`s3://bucket/folder`). A store split in shards, see
`perceptual.data.writers.shards`, has `shards.json`, tar files of images, and `columns.npz` with the rest.
"""

import io
import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from perceptual.data.images import MappedImages
from perceptual.data.items.pairs import PairTable
from perceptual.data.items.table import AnyTable, Table
from perceptual.data.items.triplets import TripletTable
from perceptual.data.native import NativeImages
from perceptual.data.places import is_remote, place
from perceptual.data.ranged import Part, RangedImages

VERSION = 1
INFO = "store.json"
SHARDS, COLUMNS = "shards.json", "columns.npz"
KINDS: dict[str, type[Table]] = {kind.plural: kind for kind in (TripletTable, PairTable)}
_OPTIONAL = ("votes", "split", "made")


@dataclass(frozen=True)
class StoreInfo:
    """What `store.json` records."""

    version: int  # of this format
    kind: str  # "triplets" or "pairs"
    source: str
    size: int | None  # side S of the images; None: they keep their sizes
    resize: str
    items: int
    images: int
    subsets: dict[str, int]  # items of each, in the order of their numbers
    skipped: list[str]  # files that could not be used
    request: str  # SHA-256 of the listing this was packed from, see `perceptual.data.writers.stores`
    fingerprint: str  # SHA-256 of the content, see `Table.fingerprint`
    shorter_side: int | None = None  # of images that keep their shapes; None: as they were


def is_store(path: str | Path) -> bool:
    """Whether there is a complete store."""
    return (place(path) / INFO).is_file() or (place(path) / SHARDS).is_file()


def read_info(folder: str | Path) -> StoreInfo:
    """What a store's `store.json` records; raises ValueError if it is of another format."""
    path, sharded = place(folder) / INFO, (place(folder) / SHARDS).is_file()
    try:
        if sharded:
            path = place(folder) / SHARDS
        found = json.loads(path.read_text(encoding="utf-8"))
        info = StoreInfo(**(found["store"] if sharded else found))
    except (ValueError, TypeError, KeyError):
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
    home, info = place(folder), read_info(folder)
    if KINDS[info.kind] is not kind:
        raise ValueError(f"{folder} is a store of {info.kind}, not of {kind.plural}")
    if info.size is None and is_remote(home):
        raise ValueError(f"{folder} holds images in their own sizes, which are read from local stores only")
    images: MappedImages | NativeImages | RangedImages
    try:
        if info.size is not None and (home / SHARDS).is_file():
            columns = dict(np.load(io.BytesIO((home / COLUMNS).read_bytes())))
            images = RangedImages(_shards(home), info.size, columns["digests"])
        else:
            columns = {
                name: np.load(io.BytesIO((home / f"{name}.npy").read_bytes()))
                for name in ("items", kind.answer, "subset", *_OPTIONAL)
                if name not in _OPTIONAL or (home / f"{name}.npy").exists()
            }
            if info.size is None:
                images = NativeImages.mapped(home, info.shorter_side)
            else:
                images = _remote_images(home, info.size) if is_remote(home) else MappedImages(home)
        items, answers, subset = (columns[name] for name in ("items", kind.answer, "subset"))
        optional = {name: columns[name] for name in _OPTIONAL if name in columns}
    except (KeyError, OSError, ValueError, EOFError) as error:
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


def _shards(folder: Any) -> list[Part]:
    """The files of a store in shards; raises ValueError for one that is missing or of another length."""
    shards = json.loads((folder / SHARDS).read_text(encoding="utf-8"))["shards"]
    for shard in shards:
        path = folder / shard["file"]
        if not path.is_file():
            raise ValueError(f"the shard {path} is missing")
        if path.stat().st_size != shard["bytes"]:
            raise ValueError(f"the shard {path} has {path.stat().st_size} bytes, not {shard['bytes']}")
    return [
        Part(str(folder / shard["file"]), shard["images"], shard["start"], shard["stride"])
        for shard in shards
    ]


def _remote_images(folder: Any, size: int) -> RangedImages:
    """The images of a store on object storage."""
    with (folder / "images.npy").open("rb") as file:
        np.lib.format.read_magic(file)
        shape, _, _ = np.lib.format.read_array_header_1_0(file)
        start = file.tell()
    digests = np.load(io.BytesIO((folder / "digests.npy").read_bytes()))
    part = Part(str(folder / "images.npy"), shape[0], start, 3 * size**2)
    return RangedImages([part], size, digests)


def columns_of(table: Table) -> dict[str, np.ndarray]:
    """All of a store except the images, their digests and `store.json`."""
    columns = {"items": table.items(), table.answer: getattr(table, table.answer), "subset": table.subset}
    return columns | {name: column for name in _OPTIONAL if (column := getattr(table, name)) is not None}


def write_columns(folder: Path, table: Table) -> None:
    """Write all of a store except the images, their digests and `store.json`."""
    for name, column in columns_of(table).items():
        np.save(folder / f"{name}.npy", column)


def write_info(folder: Path, info: StoreInfo) -> None:
    """Write `store.json`, which makes the folder a store."""
    record = asdict(info)
    if info.size is not None:  # as earlier versions write and read it
        del record["shorter_side"]
    (folder / INFO).write_text(json.dumps(record, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
