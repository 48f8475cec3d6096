"""Packed store: triplets, pairs or trios with their images decoded and resized, as memory-mapped arrays.

A folder with

- `store.json`: what is in it and where it came from (`StoreInfo`), written last;
- `images.npy` (M, 3, S, S) uint8, RGB, and `digests.npy` (M, 32) uint8, the SHA-256 of each image; of images
  in their own sizes, instead `pixels.npy` (B,) uint8, one image after another, and `sizes.npy` (M, 2);
- `items.npy` (roles, N) int64, for each item the images it shows;
- `judgment.npy` or `same.npy` (N,) or `odd.npy` (N, 3) float32, `subset.npy` (N,) int64 and, where the
  source has them, `votes.npy` (N,) float32, `split.npy` and `condition.npy` (N,) text, and `made.npy` (N,)
  bytes, the record of synthetic items.

The folder may lie on object storage (`s3://bucket/folder`). A store split in shards, see
`perceptual.data.writers.shards`, has `shards.json`, tar files of images, and `columns.npz` with the rest.
"""

import io
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
from annotated_types import Ge

from perceptual.data.images import Images, Pixels, Ranges, Stretch, resolution_of
from perceptual.data.kinds import SHARES, Kind
from perceptual.data.table import OPTIONAL, SPLITS, Table, no_people, no_shares
from perceptual.files.places import is_remote, place
from perceptual.files.records import read_record

VERSION = 1
INFO = "store.json"
SHARDS, COLUMNS = "shards.json", "columns.npz"
KINDS: dict[str, Kind] = {kind.plural: kind for kind in SHARES}
REMEDY = "pack it again"

Count = Annotated[int, Ge(0)]
Side = Annotated[int, Ge(1)]


@dataclass(frozen=True)
class StoreInfo:
    """Content of `store.json`."""

    version: int  # of this format
    kind: Literal["triplets", "pairs", "trios"]
    source: str
    size: Side | None  # side S of the images; None: they keep their sizes
    resize: str
    items: Count
    images: Count
    subsets: dict[str, Count]  # items of each, in the order of their numbers
    skipped: list[str]  # files that could not be used
    request: str  # SHA-256 of the listing this was packed from, see `perceptual.data.writers.stores`
    fingerprint: str  # SHA-256 of the content, see `Table.fingerprint`
    beside: str  # SHA-256 of what the fingerprint leaves out
    shorter_side: Side | None = None  # of images that keep their shapes; None: as they were


@dataclass(frozen=True)
class Shard:
    """One tar file of images."""

    file: str
    images: Count
    start: Count  # byte of the first image
    stride: Count  # bytes from one image to the next
    bytes: Count


@dataclass(frozen=True)
class Shards:
    """Content of `shards.json`."""

    store: StoreInfo
    images_per_shard: Side
    shards: list[Shard]


def is_store(path: str | Path) -> bool:
    """Return whether there is a complete store."""
    return (place(path) / INFO).is_file() or (place(path) / SHARDS).is_file()


def read_info(folder: str | Path) -> StoreInfo:
    """Read a store's `store.json`; raises ValueError if it is of another format."""
    path = place(folder) / SHARDS
    if path.is_file():
        info = read_record(path, Shards, REMEDY).store
    else:
        path = place(folder) / INFO
        info = read_record(path, StoreInfo, REMEDY)
    if info.version != VERSION:
        raise ValueError(f"{path} is of format {info.version}, this is for format {VERSION}; {REMEDY}")
    return info


def read_store(folder: str | Path, kind: Kind | None = None) -> Table:
    """Read the table of a store, its images mapped; all but the pixels is checked against `store.json`.

    Args:
        folder: the store.
        kind: of its items; None: any.

    Raises:
        ValueError: it holds another kind, or a file of it is missing, damaged or does not fit.
    """
    home, info = place(folder), read_info(folder)
    if kind is not None and KINDS[info.kind] != kind:
        raise ValueError(f"{folder} is a store of {info.kind}, not of {kind.plural}")
    kind = KINDS[info.kind]
    if info.size is None and is_remote(home):
        raise ValueError(f"{folder} holds images in their own sizes, which are read from local stores only")
    try:
        images, columns = _open(kind, home, info)
        _check(kind, images, columns, info)
        answer = columns.pop(kind.answer)
        table = Table(kind=kind, opened=images, answer=answer, subsets=list(info.subsets), **columns)
        found = {"fingerprint": table.fingerprint(), "beside": beside(table)}
    except Exception as error:  # damaged files raise all kinds of errors
        raise ValueError(f"{folder} is damaged, {REMEDY}: {error}") from None
    for name, digest in found.items():
        if getattr(info, name) != digest:
            raise ValueError(
                f"{folder} was damaged or changed, {REMEDY}: it has not the {name} that is recorded"
            )
    return table


def beside(table: Table) -> str:
    """SHA-256, in hex, of what the fingerprint leaves out: splits, conditions, what was done to the items."""
    found = sha256()
    # stores without conditions keep the digest that they have
    for column in (table.split, table.made, *([] if table.condition is None else [table.condition])):
        found.update(b"-" if column is None else f"{column.dtype.str} {column.shape}".encode())
        found.update(b"" if column is None else column.tobytes())
    return found.hexdigest()


def check_pixels(folder: str | Path) -> StoreInfo:
    """Check every image of a store against its digest; returns what the store records.

    Raises:
        ValueError: naming the first images that are not what was packed, or as `read_store`.
    """
    info = read_info(folder)
    try:
        read_store(folder).images.check()
    except ValueError as error:
        raise ValueError(f"{folder} is damaged, {REMEDY}: {error}") from None
    return info


def _open(kind: Kind, home: Any, info: StoreInfo) -> tuple[Images, dict[str, Any]]:
    """Open the images and the other columns of a store, unchecked."""
    if info.size is not None and (home / SHARDS).is_file():
        columns = dict(np.load(io.BytesIO((home / COLUMNS).read_bytes())))
        return Ranges(_shards(home), info.size, columns.pop("digests")), columns
    columns = {
        name: np.load(io.BytesIO((home / f"{name}.npy").read_bytes()))
        for name in ("items", kind.answer, "subset", *OPTIONAL)
        if name not in OPTIONAL or (home / f"{name}.npy").exists()
    }
    if info.size is not None and is_remote(home):
        return _remote_images(home, info.size), columns
    return Pixels.mapped(home, resolution_of(info.size, info.shorter_side)), columns


def _check(kind: Kind, images: Images, columns: dict[str, Any], info: StoreInfo) -> None:
    """Refuse arrays of another type, shape or range; raises ValueError naming the array."""
    of_items = (info.items,)
    expected = {
        "items": ((len(kind.roles), info.items), "<i8", lambda v: v.min() >= 0 and v.max() < info.images),
        kind.answer: (of_items + kind.shape, "<f4", lambda v: ((v >= 0) & (v <= 1)).all()),
        "subset": (of_items, "<i8", lambda v: v.min() >= 0 and v.max() < len(info.subsets)),
        "votes": (of_items, "<f4", lambda v: ((v > 0) & np.isfinite(v)).all()),
        "split": (of_items, "<U", lambda v: np.isin(v, SPLITS).all()),
        "made": (of_items, "|S", lambda v: True),
        "condition": (of_items, "<U", lambda v: (v != "").all()),
        "digests": ((info.images, 32), "|u1", lambda v: True),
    }
    if missing := [name for name in ("items", kind.answer, "subset") if name not in columns]:
        raise ValueError(f"{missing[0]} is missing")
    for name, array in {**columns, "digests": images.digests}.items():
        if name not in expected or not isinstance(array, np.ndarray):
            raise ValueError(f"{name} is no array of such a store")
        shape, dtype, in_range = expected[name]
        if array.shape != shape:
            raise ValueError(f"{name} is {array.shape}, not {shape}")
        if not array.dtype.str.startswith(dtype):
            raise ValueError(f"{name} is of type {array.dtype}")
        if array.size and not in_range(array):
            raise ValueError(f"{name} has values out of their range")
    if kind.by_role and (wrong := no_shares(columns[kind.answer])).any():
        raise ValueError(f"{kind.answer} must sum to 1; {wrong.sum():,} of {info.items:,} items do not")
    if "votes" in columns and (wrong := no_people(columns[kind.answer], columns["votes"])).any():
        raise ValueError(
            f"{kind.answer} · votes must be a whole number of people; {wrong.sum():,} of {info.items:,} "
            f"are not, the first is that of item {wrong.argmax()}"
        )
    if [len(images), *images.shape] != [info.images, 3, info.size, info.size]:
        raise ValueError(
            f"images is {[len(images), *images.shape]}, not {[info.images, 3, info.size, info.size]}"
        )


def _shards(folder: Any) -> list[Stretch]:
    """List the files of a store in shards; raises ValueError for one that is missing or of another length."""
    found = []
    for shard in read_record(folder / SHARDS, Shards, REMEDY).shards:
        path = folder / Path(shard.file).name  # no file elsewhere
        if not path.is_file():
            raise ValueError(f"the shard {path} is missing")
        if path.stat().st_size != shard.bytes:
            raise ValueError(f"the shard {path} has {path.stat().st_size} bytes, not {shard.bytes}")
        found.append(Stretch(str(path), shard.images, shard.start, shard.stride))
    return found


def _remote_images(folder: Any, size: int) -> Ranges:
    """Open the images of a store on object storage."""
    with (folder / "images.npy").open("rb") as file:
        np.lib.format.read_magic(file)
        shape, by_columns, dtype = np.lib.format.read_array_header_1_0(file)
        if by_columns or dtype != np.uint8:
            raise ValueError(f"images is of type {dtype}" + (", by columns" if by_columns else ""))
        start = file.tell()
    digests = np.load(io.BytesIO((folder / "digests.npy").read_bytes()))
    part = Stretch(str(folder / "images.npy"), shape[0], start, 3 * size**2)
    return Ranges([part], size, digests)
