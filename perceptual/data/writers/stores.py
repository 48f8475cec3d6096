"""Pack the images of a folder, a manifest or NIGHTS into a store, whole or not at all.

The work is done in `DST.partial`, which becomes DST in one renaming. A run that was killed goes on where it
stopped; a store that is complete is left as it is.
"""

import os
import shutil
from collections.abc import Iterable, Iterator
from concurrent.futures import as_completed
from contextlib import contextmanager
from dataclasses import replace
from hashlib import sha256
from pathlib import Path
from typing import TypeVar

import numpy as np
from filelock import FileLock, Timeout
from rich.console import Console
from rich.progress import track

from perceptual.data.decode import RESIZE, first_few, pixel_digest, write_pixels
from perceptual.data.images import MappedImages
from perceptual.data.items.table import Table
from perceptual.data.readers.stores import VERSION, StoreInfo, is_store, read_info, write_columns, write_info
from perceptual.data.workers import worker_pool

_CHUNK = 256  # images a task
T = TypeVar("T")


class UnusableImages(ValueError):
    """Images of a source that cannot be used; `problems` names each of them and says why."""

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
        dst: the store, a folder that does not exist yet or this very store.
        source: where the table comes from, for the record.
        size: side S of the square images are resized to (PIL bilinear, antialiased).
        skip_unusable: leave out the items with an image that cannot be used, instead of refusing all.
        workers: processes that decode; None: one a core. More than one need a main module that can be
            imported, as always with Python's processes.

    Raises:
        UnusableImages: at the end, with all images that cannot be used.
        ValueError: if `dst` is something else already, another process is packing it, or nothing is left.
    """
    dst = Path(dst)
    if not isinstance(table.images, list):
        raise ValueError(f"{source} is packed already")
    request = _request(table, table.images, size, source)
    if dst.exists():
        return _already_there(dst, request)
    with _partial(dst) as partial:
        plan = f"{request} {_state_of(table.images)}"
        if _plan(partial) != plan:
            _begin(partial, len(table.images), size, plan)
        problems = _decode(partial, table.images, size, workers or os.cpu_count() or 1)
        if problems and not skip_unusable:
            raise UnusableImages(list(problems.values()), len(table.images))
        (partial / "plan").unlink()  # killed from here on, begin anew
        if problems:
            table = _without(partial, table, list(problems))
        return _finish(partial, dst, table, source, request, list(problems.values()))


def write_store(table: Table, dst: str | Path, source: str) -> StoreInfo:
    """Write a store of a table whose images are open; `dst` must not exist. Raises ValueError if it does."""
    dst = Path(dst)
    if isinstance(table.images, list):
        raise ValueError("images must be open, see Table.open; or use pack")
    if dst.exists():
        raise ValueError(f"{dst} exists already; remove it or choose another place")
    with _partial(dst) as partial:
        images = np.asarray(table.images)
        np.save(partial / "images.npy", images)
        digests = [pixel_digest(pixels) for pixels in images]
        np.save(partial / "digests.npy", np.frombuffer(b"".join(digests), np.uint8).reshape(-1, 32))
        return _finish(partial, dst, table, source, "", [])


def _request(table: Table, paths: list[str], size: int, source: str) -> str:
    """SHA-256 of what is to be packed: the listing, not the content of the files."""
    found = sha256(f"{table.answer} {size} {RESIZE} {table.subsets}\n".encode())
    found.update("\n".join(path.removeprefix(source) for path in paths).encode(errors="surrogateescape"))
    for column in (table.items(), getattr(table, table.answer), table.subset, table.votes, table.split):
        found.update(b"" if column is None else column.tobytes())
    return found.hexdigest()


def _state_of(paths: list[str]) -> str:
    """SHA-256 of the sizes and times of the files, to see whether they changed since a run was killed."""
    found = sha256()
    for path in paths:
        try:
            state = os.stat(path)
        except OSError:
            found.update(b"missing")
        else:
            found.update(f"{state.st_size} {state.st_mtime_ns}".encode())
    return found.hexdigest()


def _already_there(dst: Path, request: str) -> StoreInfo:
    if not is_store(dst):
        raise ValueError(f"{dst} exists already and is no store; remove it or choose another place")
    info = read_info(dst)
    if info.request != request:
        raise ValueError(
            f"{dst} is a store of something else ({info.items:,} {info.kind} at size {info.size} of "
            f"{info.source}); remove it or choose another place"
        )
    return info


@contextmanager
def _partial(dst: Path) -> Iterator[Path]:
    """The folder to work in, for one process at a time."""
    partial = dst.with_name(dst.name + ".partial")
    partial.mkdir(parents=True, exist_ok=True)
    lock = FileLock(f"{partial}.lock", timeout=0)
    try:
        lock.acquire()
    except Timeout:
        raise ValueError(f"another process is writing {dst}") from None
    try:
        yield partial
    finally:
        lock.release()
        Path(lock.lock_file).unlink(missing_ok=True)


def _plan(partial: Path) -> str | None:
    path = partial / "plan"
    return path.read_text() if path.exists() else None


def _begin(partial: Path, images: int, size: int, plan: str) -> None:
    shutil.rmtree(partial)
    partial.mkdir()
    for name, shape in (
        ("images", (images, 3, size, size)),
        ("digests", (images, 32)),
        ("done", (-(-images // _CHUNK),)),
    ):
        np.lib.format.open_memmap(partial / f"{name}.npy", "w+", np.uint8, shape)
    (partial / "plan").write_text(plan)


def _decode(partial: Path, paths: list[str], size: int, workers: int) -> dict[int, str]:
    """Decode what is not done yet; what is wrong with which images."""
    array = str(partial / "images.npy")
    digests = np.lib.format.open_memmap(partial / "digests.npy", mode="r+")
    done = np.lib.format.open_memmap(partial / "done.npy", mode="r+")
    chunks = [range(start, min(start + _CHUNK, len(paths))) for start in range(0, len(paths), _CHUNK)]
    todo = [i for i, rows in enumerate(chunks) if not (done[i] and _intact(array, digests, rows))]
    problems: dict[int, str] = {}

    def keep(chunk: int, results: list[bytes | str]) -> None:
        for row, result in zip(chunks[chunk], results, strict=True):
            if isinstance(result, str):
                problems[row] = result
            else:
                digests[row] = np.frombuffer(result, np.uint8)
        done[chunk] = not any(isinstance(result, str) for result in results)

    if workers == 1 or len(todo) < 2:
        for i in _progress(todo, len(todo)):
            keep(i, write_pixels(array, chunks[i], [paths[row] for row in chunks[i]], size))
        return problems
    with worker_pool(min(workers, len(todo))) as pool:
        tasks = {
            pool.submit(write_pixels, array, chunks[i], [paths[row] for row in chunks[i]], size): i
            for i in todo
        }
        for task in _progress(as_completed(tasks), len(tasks)):
            keep(tasks[task], task.result())
    return dict(sorted(problems.items()))  # in whatever order the processes found them


def _progress(steps: Iterable[T], total: int) -> Iterable[T]:
    console = Console(stderr=True)
    quiet = not console.is_terminal
    return track(steps, "Packing images", total, console=console, transient=True, disable=quiet)


def _intact(array: str, digests: np.ndarray, rows: range) -> bool:
    """Whether images that an earlier run left are as they were when they were decoded."""
    images = np.load(array, mmap_mode="r")
    return all(pixel_digest(images[row]) == digests[row].tobytes() for row in rows)


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


def _finish(
    partial: Path, dst: Path, table: Table, source: str, request: str, skipped: list[str]
) -> StoreInfo:
    """Write the rest of the store and put it in its place."""
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
