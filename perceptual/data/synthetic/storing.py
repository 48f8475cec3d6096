"""Make triplets or pairs straight into a packed store, in memory that does not grow with their number.

Run again after it was killed, it goes on where it stopped, as `perceptual.data.writers.stores.pack` does. In
the other forms, the store is made first and its images are written as files from there.
"""

import os
import shutil
from hashlib import sha256
from pathlib import Path

import numpy as np
from numpy.typing import DTypeLike

from perceptual.data.decode import pixel_digest
from perceptual.data.images import Pixels
from perceptual.data.readers.stores import StoreInfo, is_store, read_info, read_store
from perceptual.data.synthetic.distorters.population import load_population
from perceptual.data.synthetic.making import Making
from perceptual.data.synthetic.steps import LONGEST
from perceptual.data.writers.folders import FORMS, write_files
from perceptual.data.writers.partial import begin, clear, complete, state_of, working_on
from perceptual.data.writers.stores import already_there, finish
from perceptual.files.writing import refuse_existing


def make_store(making: Making, dst: str | Path, source: str, workers: int = 1) -> StoreInfo:
    """Write the store of the items that `making` describes.

    Args:
        making: what to make.
        dst: the store: a folder that does not exist yet, or the same store, which is left unchanged.
        source: where the items come from, for the record.
        workers: processes to make them in; more than one need a main module that can be imported.

    Raises:
        ValueError: `dst` is something else already, another process is writing it, or a photograph is too
            small.
        OSError: a photograph cannot be read, or the disk is full.
    """
    dst, request = Path(dst), _request(making)
    if dst.exists():
        return already_there(dst, request)
    kind, tasks = making.kind, making.tasks()
    with working_on(dst) as partial:
        columns: dict[str, tuple[int, DTypeLike]] = {
            kind.answer: (making.count, np.float32),
            "subset": (making.count, np.int64),
            "made": (making.count, f"S{LONGEST}"),
        }
        images = len(kind.roles) * making.count
        begin(partial, f"{request} {state_of(making.photos)}", images, making.size, len(tasks), columns)
        _fill(partial, making, tasks, workers)
        answers, subset, made = (np.load(partial / f"{name}.npy") for name in columns)
        (partial / "plan").unlink()  # a run killed from here on starts over
        made = made.astype(f"S{np.char.str_len(made).max()}")  # no longer than they are
        table = making.table(Pixels.mapped(partial), answers, subset, made)
        return finish(partial, dst, table, source, request, [], workers=workers)


def make_files(making: Making, dst: str | Path, source: str, form: str, workers: int = 1) -> None:
    """Write the items that `making` describes as image files.

    Args:
        making, dst, source, workers: as in `make_store`; `dst` must not exist.
        form: `folder`, the layout of BAPPS, or `unjudged`, with a manifest for people to fill in.

    Raises:
        ValueError, OSError: as `make_store`.
    """
    dst = Path(dst)
    if form not in FORMS:
        raise ValueError(f"form must be one of {', '.join(FORMS)}, got {form!r}")
    refuse_existing(dst)
    with working_on(dst) as partial:
        store, files = partial / "store", partial / form
        if is_store(store) and read_info(store).request != _request(making):
            clear(partial)  # what an earlier run with another request left
        make_store(making, store, source, workers)
        write_files(read_store(making.kind, store), files, form, workers)
        os.replace(files, dst)
        shutil.rmtree(partial)


Made = tuple[list[bytes], list[float], list[int], list[bytes]]  # digests of images, and columns of items


def _fill(partial: Path, making: Making, tasks: list[tuple[str, np.ndarray]], workers: int) -> None:
    """Make the items that no earlier run has made."""
    names = (making.kind.answer, "subset", "made")
    digests, *columns = (
        np.lib.format.open_memmap(partial / f"{name}.npy", mode="r+") for name in ("digests", *names)
    )
    rows = [making.image_rows(of_items) for _, of_items in tasks]

    def keep(task: int, made: Made) -> bool:
        digests[rows[task]] = np.frombuffer(b"".join(made[0]), np.uint8).reshape(-1, 32)
        for column, values in zip(columns, made[1:], strict=True):
            column[tasks[task][1]] = values
            column.flush()  # unlike images, these have no digest that would show a loss
        return True

    array = str(partial / "images.npy")
    arguments = [(making.for_worker(path), array, path, of_items) for path, of_items in tasks]
    complete(partial, rows, _write, arguments, keep, workers, f"Making {making.kind.plural}")


def _write(making: Making, array: str, path: str, rows: np.ndarray) -> Made:
    """Make the items of a task and write their images into the array."""
    items = making.make(path, rows)
    images = np.lib.format.open_memmap(array, mode="r+")
    patches = [item.patches[role].numpy() for role in range(len(making.kind.roles)) for item in items]
    for row, pixels in zip(making.image_rows(rows), patches, strict=True):
        images[row] = pixels
    digests = [pixel_digest(pixels) for pixels in patches]
    return (
        digests,
        [item.answer for item in items],
        [item.subset for item in items],
        [item.made for item in items],
    )


def _request(making: Making) -> str:
    """SHA-256 of what is to be made; photographs count by their names."""
    folder = os.path.commonpath([os.path.dirname(path) for path in making.photos]) or "."
    names = [os.path.relpath(path, folder) for path in making.photos]
    head = f"made 3 {making.design} {making.kind.answer} {making.size} {making.count} {making.seed}"
    if making.distorters:
        head += f" {load_population(making.distorters).digest}"
    return sha256("\n".join([head, *names]).encode(errors="surrogateescape")).hexdigest()
