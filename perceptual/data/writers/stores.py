"""Pack the images of a folder, a manifest or NIGHTS into a store.

The work is done in `DST.partial`, which is renamed to DST once it is complete. Run again after it was killed,
`pack` goes on where it stopped; a complete store is left unchanged.
"""

import os
from collections.abc import Container, Sequence
from dataclasses import replace
from hashlib import sha256
from pathlib import Path

import numpy as np
import torch

from perceptual.data.decode import (
    RESIZE,
    size_of,
    write_native,
    write_pixels,
)
from perceptual.data.images import Pixels, resolution_of
from perceptual.data.readers.stores import (
    VERSION,
    StoreInfo,
    beside,
    is_store,
    read_info,
    write_columns,
    write_info,
)
from perceptual.data.settings import check_resolution
from perceptual.data.table import Table, check_alike
from perceptual.data.writers.partial import begin, complete, settle, state_of, working_on
from perceptual.files.messages import first_few
from perceptual.files.writing import allocate, refuse_existing

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
    check_resolution(size, shorter_side)
    request = _request(table, table.paths, size, source, shorter_side)
    if dst.exists():
        return already_there(dst, request)
    with working_on(dst) as partial:
        plan = f"{request} {state_of(table.paths)}"
        tasks, processes = len(_chunks(len(table.paths))), workers or os.cpu_count() or 1
        if size is None:
            sizes, problems = _sizes(table.paths, shorter_side)
            if not problems or skip_unusable:
                begin(partial, plan, len(table.paths), None, tasks, sizes=sizes)
                problems |= _decode(partial, table.paths, None, processes, shorter_side, set(problems))
        else:
            begin(partial, plan, len(table.paths), size, tasks)
            problems = _decode(partial, table.paths, size, processes)
        if problems and not skip_unusable:
            raise UnusableImages(list(problems.values()), len(table.paths))
        (partial / "plan").unlink()  # a run killed from here on starts over
        if problems:
            table = _without(partial, table, list(problems))
        if size is None:
            check_alike(table.kind.roles, table.items, np.load(partial / "sizes.npy"), [])
        return finish(partial, dst, table, source, request, list(problems.values()), shorter_side, processes)


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
        return finish(partial, dst, table, source, "", [])


def _request(
    table: Table, paths: list[str], size: int | None, source: str, shorter_side: int | None = None
) -> str:
    """SHA-256 of what is to be packed: the list of files, not their content."""
    resize = RESIZE if shorter_side is None else f"{RESIZE}, shorter side {shorter_side}"
    found = sha256(f"{table.kind.answer} {size} {resize} {table.subsets}\n".encode())
    found.update("\n".join(path.removeprefix(source) for path in paths).encode(errors="surrogateescape"))
    for column in (table.items, table.answer, table.subset, table.votes, table.split):
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


def _sizes(paths: list[str], shorter_side: int | None) -> tuple[np.ndarray, dict[int, str]]:
    """Height and width of each image, (M, 2), and what is wrong with which of them."""
    sizes, problems = np.zeros((len(paths), 2), np.int64), dict[int, str]()
    for row, path in enumerate(paths):
        try:
            sizes[row] = size_of(path, shorter_side)
        except ValueError as error:
            problems[row] = str(error)
    return sizes, problems


def _decode(
    partial: Path,
    paths: list[str],
    size: int | None,
    workers: int,
    shorter_side: int | None = None,
    known: Container[int] = (),
) -> dict[int, str]:
    """Decode what is not done yet; returns what is wrong with which images, in the order of the images."""
    digests = np.lib.format.open_memmap(partial / "digests.npy", mode="r+")
    chunks: list[Sequence[int]] = [*_chunks(len(paths))]
    problems: dict[int, str] = {}

    def keep(chunk: int, results: list[bytes | str]) -> bool:
        for row, result in zip(chunks[chunk], results, strict=True):
            if isinstance(result, str):
                problems[row] = result
            else:
                digests[row] = np.frombuffer(result, np.uint8)
        return not any(isinstance(result, str) for result in results)

    if size is None:
        ends = np.cumsum(3 * np.load(partial / "sizes.npy").prod(1))
        starts = np.append(0, ends[:-1]).tolist()
        array = str(partial / "pixels.npy")
        chunks = [[row for row in rows if row not in known] for rows in chunks]
        flat = [(array, [starts[r] for r in rows], [paths[r] for r in rows], shorter_side) for rows in chunks]
        complete(partial, chunks, write_native, flat, keep, workers, "Packing images")
    else:
        array = str(partial / "images.npy")
        tasks = [(array, rows, [paths[row] for row in rows], size) for rows in chunks]
        complete(partial, chunks, write_pixels, tasks, keep, workers, "Packing images")
    return dict(sorted(problems.items()))  # several processes find them in any order


def _chunks(images: int) -> list[range]:
    return [range(start, min(start + _CHUNK, images)) for start in range(0, images, _CHUNK)]


def _without(partial: Path, table: Table, bad: list[int]) -> Table:
    """Drop the items that show bad images, and the images that no item shows then."""
    keep = np.flatnonzero(~np.isin(table.items, bad).any(axis=0))
    if not len(keep):
        raise ValueError(f"every item shows one of the {len(bad):,} images that cannot be used")
    table = table.take(keep)
    used = np.unique(table.items)
    names = ("images", "digests")
    if (partial / "sizes.npy").exists():
        _keep_pixels(partial, used)
        names = ("sizes", "digests")
    for name in names:
        whole = np.load(partial / f"{name}.npy", mmap_mode="r")
        kept = np.lib.format.open_memmap(
            partial / "kept.npy", "w+", whole.dtype, (len(used), *whole.shape[1:])
        )
        allocate(partial / "kept.npy")
        for start in range(0, len(used), _CHUNK):
            kept[start : start + _CHUNK] = whole[used[start : start + _CHUNK]]
        kept.flush()
        os.replace(partial / "kept.npy", partial / f"{name}.npy")
    return replace(table, items=np.searchsorted(used, table.items))


def _keep_pixels(partial: Path, used: np.ndarray) -> None:
    """Drop the pixels of images in their own sizes that are not used."""
    images = Pixels.mapped(partial)
    ends = np.cumsum(3 * images.sizes[used].prod(1))
    kept = np.lib.format.open_memmap(partial / "kept.npy", "w+", np.uint8, (int(ends[-1]),))
    allocate(partial / "kept.npy")
    for end, image in zip(ends.tolist(), used.tolist(), strict=True):
        pixels = images.one(image).numpy().ravel()
        kept[end - len(pixels) : end] = pixels
    kept.flush()
    os.replace(partial / "kept.npy", partial / "pixels.npy")


def finish(
    partial: Path,
    dst: Path,
    table: Table,
    source: str,
    request: str,
    skipped: list[str],
    shorter_side: int | None = None,
    workers: int = 1,
) -> StoreInfo:
    """Check the images, write the rest of the store and rename `partial` to `dst`.

    Raises:
        ValueError: pixels are not what was written: the disk or the memory is broken.
    """
    (partial / "done.npy").unlink(missing_ok=True)
    write_columns(partial, table)
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
    write_info(partial, info)
    settle(partial, dst)
    return info
