"""Make triplets or pairs straight into a packed store, in memory that does not grow with their number.

Run again after it was killed, it goes on where it stopped, as `perceptual.data.writers.stores.pack` does.
"""

import os
from hashlib import sha256
from pathlib import Path

import numpy as np

from perceptual.data.decode import pixel_digest
from perceptual.data.images import MappedImages
from perceptual.data.readers.stores import StoreInfo
from perceptual.data.synthetic.making import Making
from perceptual.data.writers.partial import begin, complete, state_of, working_on
from perceptual.data.writers.stores import already_there, finish


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
        OSError: a photograph cannot be read.
    """
    dst, request = Path(dst), _request(making)
    if dst.exists():
        return already_there(dst, request)
    kind, tasks = making.kind, making.tasks()
    with working_on(dst) as partial:
        columns = {kind.answer: (making.count, np.float32), "subset": (making.count, np.int64)}
        images = len(kind.roles) * making.count
        begin(partial, f"{request} {state_of(making.photos)}", images, making.size, len(tasks), columns)
        _fill(partial, making, tasks, workers)
        answers, groups = (np.load(partial / f"{name}.npy") for name in columns)
        (partial / "plan").unlink()  # a run killed from here on starts over
        table = making.table(MappedImages(partial), answers, groups)
        return finish(partial, dst, table, source, request, [])


Made = tuple[list[bytes], list[float], list[int]]  # digests of the images, answers and groups of the items


def _fill(partial: Path, making: Making, tasks: list[tuple[str, np.ndarray]], workers: int) -> None:
    """Make the items that no earlier run has made."""
    digests, answers, groups = (
        np.lib.format.open_memmap(partial / f"{name}.npy", mode="r+")
        for name in ("digests", making.kind.answer, "subset")
    )
    rows = [making.image_rows(of_items) for _, of_items in tasks]

    def keep(task: int, made: Made) -> bool:
        digests[rows[task]] = np.frombuffer(b"".join(made[0]), np.uint8).reshape(-1, 32)
        answers[tasks[task][1]], groups[tasks[task][1]] = made[1:]
        answers.flush()  # unlike images, these have no digest that would show a loss
        groups.flush()
        return True

    array = str(partial / "images.npy")
    arguments = [(making, array, path, of_items) for path, of_items in tasks]
    complete(partial, rows, _write, arguments, keep, workers, f"Making {making.kind.plural}")


def _write(making: Making, array: str, path: str, rows: np.ndarray) -> Made:
    """Make the items of a task and write their images into the array."""
    items = making.make(path, rows)
    images = np.lib.format.open_memmap(array, mode="r+")
    patches = [item.patches[role].numpy() for role in range(len(making.kind.roles)) for item in items]
    for row, pixels in zip(making.image_rows(rows), patches, strict=True):
        images[row] = pixels
    digests = [pixel_digest(pixels) for pixels in patches]
    return digests, [item.answer for item in items], [item.group for item in items]


def _request(making: Making) -> str:
    """SHA-256 of what is to be made; photographs count by their names."""
    folder = os.path.commonpath([os.path.dirname(path) for path in making.photos]) or "."
    names = [os.path.relpath(path, folder) for path in making.photos]
    head = f"made {making.kind.answer} {making.size} {making.count} {making.seed}"
    return sha256("\n".join([head, *names]).encode(errors="surrogateescape")).hexdigest()
