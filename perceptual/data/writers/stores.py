"""Pack the images of a folder, a manifest or NIGHTS into a store.

The work is done in `DST.partial`, which is renamed to DST once it is complete. Run again after it was killed,
`pack` goes on where it stopped; a complete store is left unchanged.
"""

import os
from dataclasses import replace
from hashlib import sha256
from pathlib import Path

import numpy as np

from perceptual.data.decode import RESIZE, first_few, pixel_digest, write_pixels
from perceptual.data.images import MappedImages
from perceptual.data.items.table import Table
from perceptual.data.readers.stores import VERSION, StoreInfo, is_store, read_info, write_columns, write_info
from perceptual.data.writers.folders import refuse_existing
from perceptual.data.writers.partial import begin, complete, state_of, working_on

_CHUNK = 256  # images per task


class UnusableImages(ValueError):
    """Images that cannot be used; `problems` names each of them with the reason."""

    def __init__(self, problems: list[str], total: int) -> None:
        super().__init__(f"{len(problems):,} of {total:,} images cannot be used: {first_few(problems)}")
        self.problems = problems


def pack(
    table: Table,
    dst: str | Path,
    source: str,
    size: int = 64,
    skip_unusable: bool = False,
    workers: int | None = None,
) -> StoreInfo:
    """Decode the images of a table, resize them and write a store.

    Args:
        table: triplets or pairs over files.
        dst: the store: a folder that does not exist yet, or the same store, which is left unchanged.
        source: where the table comes from, for the record.
        size: side S of the square images are resized to (PIL bilinear, antialiased).
        skip_unusable: leave out items with an image that cannot be used, instead of raising.
        workers: processes that decode; None: one per core. More than one need a main module that can be
            imported, as always with Python's processes.

    Raises:
        UnusableImages: at the end, with all images that cannot be used.
        ValueError: `dst` is something else already, another process is packing it, or nothing is left.
    """
    dst = Path(dst)
    if not isinstance(table.images, list):
        raise ValueError(f"{source} is packed already")
    request = _request(table, table.images, size, source)
    if dst.exists():
        return already_there(dst, request)
    with working_on(dst) as partial:
        plan = f"{request} {state_of(table.images)}"
        begin(partial, plan, len(table.images), size, tasks=len(_chunks(len(table.images))))
        problems = _decode(partial, table.images, size, workers or os.cpu_count() or 1)
        if problems and not skip_unusable:
            raise UnusableImages(list(problems.values()), len(table.images))
        (partial / "plan").unlink()  # a run killed from here on starts over
        if problems:
            table = _without(partial, table, list(problems))
        return finish(partial, dst, table, source, request, list(problems.values()))


def write_store(table: Table, dst: str | Path, source: str) -> StoreInfo:
    """Write a store of a table whose images are open; raises ValueError if `dst` exists."""
    dst = Path(dst)
    if isinstance(table.images, list):
        raise ValueError("images must be open, see Table.open; or use pack")
    refuse_existing(dst)
    with working_on(dst) as partial:
        images = np.asarray(table.images)
        np.save(partial / "images.npy", images)
        digests = [pixel_digest(pixels) for pixels in images]
        np.save(partial / "digests.npy", np.frombuffer(b"".join(digests), np.uint8).reshape(-1, 32))
        return finish(partial, dst, table, source, "", [])


def _request(table: Table, paths: list[str], size: int, source: str) -> str:
    """SHA-256 of what is to be packed: the list of files, not their content."""
    found = sha256(f"{table.answer} {size} {RESIZE} {table.subsets}\n".encode())
    found.update("\n".join(path.removeprefix(source) for path in paths).encode(errors="surrogateescape"))
    for column in (table.items(), getattr(table, table.answer), table.subset, table.votes, table.split):
        found.update(b"" if column is None else column.tobytes())
    return found.hexdigest()


def already_there(dst: Path, request: str) -> StoreInfo:
    """The store at `dst` if it was made by the same request; raises ValueError for anything else."""
    if not is_store(dst):
        raise ValueError(f"{dst} exists already and is no store; remove it or choose another place")
    info = read_info(dst)
    if info.request != request:
        raise ValueError(
            f"{dst} is another store ({info.items:,} {info.kind} at size {info.size}, source: "
            f"{info.source}); remove it or choose another place"
        )
    return info


def _decode(partial: Path, paths: list[str], size: int, workers: int) -> dict[int, str]:
    """Decode what is not done yet; returns what is wrong with which images, in the order of the images."""
    digests = np.lib.format.open_memmap(partial / "digests.npy", mode="r+")
    chunks = _chunks(len(paths))
    problems: dict[int, str] = {}

    def keep(chunk: int, results: list[bytes | str]) -> bool:
        for row, result in zip(chunks[chunk], results, strict=True):
            if isinstance(result, str):
                problems[row] = result
            else:
                digests[row] = np.frombuffer(result, np.uint8)
        return not any(isinstance(result, str) for result in results)

    array = str(partial / "images.npy")
    tasks = [(array, rows, [paths[row] for row in rows], size) for rows in chunks]
    complete(partial, chunks, write_pixels, tasks, keep, workers, "Packing images")
    return dict(sorted(problems.items()))  # several processes find them in any order


def _chunks(images: int) -> list[range]:
    return [range(start, min(start + _CHUNK, images)) for start in range(0, images, _CHUNK)]


def _without(partial: Path, table: Table, bad: list[int]) -> Table:
    """Drop the items that show bad images, and the images that no item shows then."""
    keep = np.flatnonzero(~np.isin(table.items(), bad).any(axis=0))
    if not len(keep):
        raise ValueError(f"every item shows one of the {len(bad):,} images that cannot be used")
    table = table.take(keep)
    used = np.unique(table.items())
    for name in ("images", "digests"):
        whole = np.load(partial / f"{name}.npy", mmap_mode="r")
        kept = np.lib.format.open_memmap(partial / "kept.npy", "w+", np.uint8, (len(used), *whole.shape[1:]))
        for start in range(0, len(used), _CHUNK):
            kept[start : start + _CHUNK] = whole[used[start : start + _CHUNK]]
        kept.flush()
        os.replace(partial / "kept.npy", partial / f"{name}.npy")
    renumbered = np.searchsorted(used, table.items())
    return replace(table, **dict(zip(table.roles, renumbered, strict=True)))


def finish(
    partial: Path, dst: Path, table: Table, source: str, request: str, skipped: list[str]
) -> StoreInfo:
    """Write the rest of the store and rename `partial` to `dst`."""
    (partial / "done.npy").unlink(missing_ok=True)
    write_columns(partial, table)
    images = MappedImages(partial)
    counts = np.bincount(table.subset, minlength=len(table.subsets)).tolist()
    info = StoreInfo(
        version=VERSION,
        kind=table.plural,
        source=source,
        size=images.shape[-1],
        resize=RESIZE,
        items=len(table),
        images=images.shape[0],
        subsets=dict(zip(table.subsets, counts, strict=True)),
        skipped=skipped,
        request=request,
        fingerprint=replace(table, images=images).fingerprint(),
    )
    write_info(partial, info)
    os.replace(partial, dst)
    return info
