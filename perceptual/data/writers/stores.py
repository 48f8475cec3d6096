"""Pack the images of a folder, a manifest or NIGHTS into a store.

The work is done in `DST.partial`, which is renamed to DST once it is complete. Run again after it was killed,
`pack` goes on where it stopped; a complete store is left unchanged.
"""

import os
from collections.abc import Container
from dataclasses import asdict, replace
from hashlib import sha256
from pathlib import Path

import numpy as np
import torch

from perceptual.data.decode import RESIZE, write_images
from perceptual.data.images import Pixels, UnusableImages, resolution_of, sizes_of
from perceptual.data.readers.stores import (
    INFO,
    VERSION,
    StoreInfo,
    beside,
    is_store,
    read_info,
)
from perceptual.data.settings import check_resolution
from perceptual.data.table import Table, check_alike
from perceptual.data.writers.partial import begin, complete, new_pixels, settle, state_of, working_on
from perceptual.files.records import to_json
from perceptual.files.writing import refuse_existing

_CHUNK = 256  # images per task


def pack(
    table: Table,
    dst: str | Path,
    source: str,
    size: int | None = 64,
    skip_unusable: bool = False,
    workers: int | None = None,
    shorter_side: int | None = None,
) -> StoreInfo:
    """Decode the images of a table, resize them and write a store.

    Args:
        table: triplets or pairs over files.
        dst: the store: a folder that does not exist yet, or the same store, which is left unchanged.
        source: where the table comes from, for the record.
        size: side S of the square images are resized to (PIL bilinear, antialiased); None: they keep their
            sizes.
        skip_unusable: leave out items with an image that cannot be used, instead of raising.
        workers: processes that decode; None: one per core. More than one need a main module that can be
            imported, as always with Python's processes.
        shorter_side: without `size`, pixels to resize the shorter side of each image to.

    Raises:
        UnusableImages: at the end, with all images that cannot be used; of images in their own sizes, those
            whose header cannot be read at once.
        ValueError: `dst` is something else already, another process is packing it, or nothing is left.
    """
    dst = Path(dst)
    if table.opened is not None:
        raise ValueError(f"{source} is packed already")
    if table.mask is not None:
        raise ValueError(
            f"{source} has masks, which stores do not hold: leave out the column mask, or do not pack"
        )
    check_resolution(size, shorter_side)
    request = _request(table, table.paths, size, source, shorter_side)
    if dst.exists():
        return already_there(dst, request)
    with working_on(dst) as partial:
        sizes, problems = sizes_of(table.paths, size, shorter_side)
        processes = workers or os.cpu_count() or 1
        if not problems or skip_unusable:
            tasks = len(range(0, len(sizes), _CHUNK))
            begin(partial, f"{request} {state_of(table.paths)}", sizes, size, tasks)
            problems |= _decode(partial, table.paths, sizes, size, shorter_side, processes, set(problems))
        if problems and not skip_unusable:
            raise UnusableImages(problems, len(table.paths))
        (partial / "plan").unlink()  # a run killed from here on starts over
        if problems:
            table = _without(partial, table, list(problems), size)
        check_alike(table.kind.roles, table.items, Pixels.mapped(partial).sizes, [])
        info = finish(partial, table, source, request, list(problems.values()), shorter_side, processes)
        settle(partial, dst)
        return info


def write_store(table: Table, dst: str | Path, source: str) -> StoreInfo:
    """Write a store of a table whose images are open; raises ValueError if `dst` exists."""
    dst = Path(dst)
    if table.opened is None or not table.opened.square:
        raise ValueError("images must be open at one size, see Table.open; or use pack")
    refuse_existing(dst)
    with working_on(dst) as partial:
        everything = torch.arange(len(table.images))
        np.save(partial / "images.npy", table.images.batch(everything).numpy())
        np.save(partial / "digests.npy", np.asarray(table.images.digests))
        info = finish(partial, table, source, "", [])
        settle(partial, dst)
        return info


def _request(
    table: Table, paths: list[str], size: int | None, source: str, shorter_side: int | None = None
) -> str:
    """SHA-256 of what is to be packed: the list of files, not their content."""
    resize = RESIZE if shorter_side is None else f"{RESIZE}, shorter side {shorter_side}"
    found = sha256(f"{table.kind.answer} {size} {resize} {table.subsets}\n".encode())
    found.update("\n".join(path.removeprefix(source) for path in paths).encode(errors="surrogateescape"))
    for column in (table.items, table.answer, table.subset, table.votes, table.split, table.condition):
        found.update(b"" if column is None else column.tobytes())
    return found.hexdigest()


def already_there(dst: Path, request: str) -> StoreInfo:
    """Read the store at `dst` if it was made by the same request; raises ValueError for anything else."""
    if not is_store(dst):
        raise ValueError(f"{dst} exists already and is no store; remove it or choose another place")
    info = read_info(dst)
    if info.request != request:
        raise ValueError(
            f"{dst} is another store ({info.items:,} {info.kind} at size {info.size}, source: "
            f"{info.source}); remove it or choose another place"
        )
    return info


def _decode(
    partial: Path,
    paths: list[str],
    sizes: np.ndarray,
    size: int | None,
    shorter_side: int | None,
    workers: int,
    known: Container[int],
) -> dict[int, str]:
    """Decode what is not done yet; returns what is wrong with which images, in the order of the images."""
    digests = np.lib.format.open_memmap(partial / "digests.npy", mode="r+")
    ends = np.cumsum(3 * sizes.prod(1))
    starts = np.append(0, ends[:-1]).tolist()
    array = str(partial / ("pixels.npy" if size is None else "images.npy"))
    chunks = [
        [row for row in range(first, min(first + _CHUNK, len(paths))) if row not in known]
        for first in range(0, len(paths), _CHUNK)
    ]
    tasks = [
        (array, [starts[row] for row in rows], [paths[row] for row in rows], size, shorter_side)
        for rows in chunks
    ]
    problems: dict[int, str] = {}

    def keep(chunk: int, results: list[bytes | str]) -> bool:
        for row, result in zip(chunks[chunk], results, strict=True):
            if isinstance(result, str):
                problems[row] = result
            else:
                digests[row] = np.frombuffer(result, np.uint8)
        return not any(isinstance(result, str) for result in results)

    complete(partial, chunks, write_images, tasks, keep, workers, "Packing images")
    return dict(sorted(problems.items()))  # several processes find them in any order


def _without(partial: Path, table: Table, bad: list[int], size: int | None) -> Table:
    """Drop the items that show bad images, and the images that no item shows then."""
    keep = np.flatnonzero(~np.isin(table.items, bad).any(axis=0))
    if not len(keep):
        raise ValueError(f"every item shows one of the {len(bad):,} images that cannot be used")
    table = table.take(keep)
    used = np.unique(table.items)
    images, kept = Pixels.mapped(partial), partial / "kept"
    kept.mkdir()
    flat, end = new_pixels(kept, images.sizes[used], size), 0
    for image in used.tolist():
        pixels = images.one(image).numpy().ravel()
        flat[end : end + len(pixels)] = pixels
        end += len(pixels)
    np.save(kept / "digests.npy", images.digests[used])
    for path in kept.iterdir():
        os.replace(path, partial / path.name)
    kept.rmdir()
    return replace(table, items=np.searchsorted(used, table.items))


def finish(
    partial: Path,
    table: Table,
    source: str,
    request: str,
    skipped: list[str],
    shorter_side: int | None = None,
    workers: int = 1,
) -> StoreInfo:
    """Check the images and write the rest of the store; Windows lets nobody rename it while it is mapped.

    Raises:
        ValueError: pixels are not what was written: the disk or the memory is broken.
    """
    (partial / "done.npy").unlink(missing_ok=True)
    for name, column in {"items": table.items, **table.columns}.items():
        np.save(partial / f"{name}.npy", column)
    images = Pixels.mapped(partial, resolution_of(None, shorter_side))
    images.check(workers)
    counts = np.bincount(table.subset, minlength=len(table.subsets)).tolist()
    info = StoreInfo(
        version=VERSION,
        kind=table.kind.plural,  # type: ignore[arg-type]  # one of `KINDS`
        source=source,
        size=images.shape[-1],
        shorter_side=shorter_side,
        resize=RESIZE,
        items=len(table),
        images=len(images),
        subsets=dict(zip(table.subsets, counts, strict=True)),
        skipped=skipped,
        request=request,
        fingerprint=replace(table, opened=images).fingerprint(),
        beside=beside(table),
    )
    record = asdict(info)
    if info.size is not None:
        del record["shorter_side"]
    (partial / INFO).write_text(to_json(record), "utf-8")
    return info
