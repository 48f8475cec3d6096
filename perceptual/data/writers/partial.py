"""An incomplete store, `DST.partial`: a run that was killed leaves it, and the next one completes it.

It holds `plan`, which identifies the run; the arrays of the images and of their digests, in full length from
the start; and `done.npy`, one flag per task. Tasks fill disjoint rows of the arrays.
"""

import os
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from hashlib import sha256
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from numpy.typing import DTypeLike

from perceptual.data.images import Pixels
from perceptual.data.workers import each_done
from perceptual.files.writing import alone, new_array

Result = TypeVar("Result")
MARK = ".perceptual"  # in an incomplete folder: it is ours, and may be removed
COMPLETE = ("store.json", "distorters.json")  # killed between the last file and the new name


@contextmanager
def working_on(dst: Path) -> Iterator[Path]:
    """Make or enter the folder `DST.partial`, locked against other processes.

    Raises:
        ValueError: another process is writing this store, or a folder of that name is not one of these.
    """
    partial = dst.with_name(dst.name + ".partial")
    if partial.is_symlink() or (partial.exists() and not _is_ours(partial)):
        raise ValueError(f"{partial} is in the way, and not made by an interrupted run: rename or remove it")
    partial.mkdir(parents=True, exist_ok=True)
    with alone(Path(f"{partial}.lock"), f"another process is writing {dst}"):
        partial.mkdir(exist_ok=True)  # another process may have given it its name while this one waited
        (partial / MARK).touch()
        yield partial


def clear(partial: Path) -> None:
    """Remove what an earlier run left, but not the mark."""
    for path in partial.iterdir():
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        elif path.name != MARK:
            path.unlink()


def settle(partial: Path, dst: Path) -> None:
    """Give a complete folder its name."""
    (partial / MARK).unlink(missing_ok=True)
    os.replace(partial, dst)


def _is_ours(partial: Path) -> bool:
    """Return whether an interrupted run left a folder."""
    left = (MARK, *COMPLETE)
    return not any(partial.iterdir()) or any((partial / name).exists() for name in left)


def goes_on(partial: Path, plan: str) -> bool:
    """Return whether an earlier run with the same plan left the folder; else empty it."""
    path = partial / "plan"
    if path.exists() and path.read_text() == plan:
        return True
    clear(partial)
    return False


def begin(
    partial: Path,
    plan: str,
    sizes: np.ndarray,
    size: int | None,
    tasks: int,
    columns: Mapping[str, tuple[int, DTypeLike]] | None = None,
) -> None:
    """Prepare the arrays, unless an earlier run with the same plan left them.

    Args:
        partial: the folder.
        plan: identifies the store and the state of the files that it is made from.
        sizes: (M, 2), height and width of each image.
        size: side S of squares; None: they keep their sizes.
        tasks: number of tasks.
        columns: other arrays to fill by tasks, their length and type by name.

    Raises:
        OSError: the disk is full.
    """
    if goes_on(partial, plan):
        return
    try:
        new_pixels(partial, sizes, size)
        new_array(partial / "digests.npy", np.uint8, (len(sizes), 32))
        new_array(partial / "done.npy", np.uint8, (tasks,))
        for name, (length, kind) in (columns or {}).items():
            new_array(partial / f"{name}.npy", kind, (length,))
        (partial / "plan").write_text(plan)
    except OSError:  # a full disk, which what is there already need not fill
        clear(partial)
        raise


def new_pixels(folder: Path, sizes: np.ndarray, size: int | None) -> np.ndarray:
    """Make the array of all pixels, flat, to be filled; and that of the sizes, where they differ."""
    if size is not None:
        return new_array(folder / "images.npy", np.uint8, (len(sizes), 3, size, size)).reshape(-1)
    np.save(folder / "sizes.npy", sizes)
    return new_array(folder / "pixels.npy", np.uint8, (int(3 * sizes.prod(1).sum()),))


def complete(
    partial: Path,
    rows: Sequence[Sequence[int] | np.ndarray],
    work: Callable[..., Result],
    tasks: Sequence[tuple[Any, ...]],
    keep: Callable[[int, Result], bool],
    workers: int,
    label: str,
) -> None:
    """Do the tasks that no earlier run has done.

    Args:
        partial: the folder, after `begin`.
        rows: for each task, the rows of the images that it fills.
        work: called as `work(*task)`, in another process if there are several workers; fills the images.
        tasks: its arguments.
        keep: called here with the task's number and result; whether the task need not be done again.
        workers: number of processes.
        label: of the progress bar.
    """
    done = np.lib.format.open_memmap(partial / "done.npy", mode="r+")
    left = [number for number in range(len(tasks)) if not (done[number] and _intact(partial, rows[number]))]
    for place, result in each_done(work, [tasks[number] for number in left], workers, label):
        done[left[place]] = keep(left[place], result)


def state_of(paths: Sequence[str]) -> str:
    """SHA-256 of the sizes and times of files, by which a change since an earlier run is noticed."""
    found = sha256()
    for path in paths:
        try:
            state = os.stat(path)
        except OSError:
            found.update(b"missing")
        else:
            found.update(f"{state.st_size} {state.st_mtime_ns}".encode())
    return found.hexdigest()


def _intact(partial: Path, rows: Sequence[int] | np.ndarray) -> bool:
    """Check that images of an earlier run are as they were when their digests were taken."""
    # mapped anew for each task: pages that stay mapped count as memory of this process
    return not Pixels.mapped(partial).damaged(rows)
