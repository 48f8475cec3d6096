"""Files and folders that a person keeps: written beside their place, and renamed when they are whole."""

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from itertools import count
from pathlib import Path
from typing import TYPE_CHECKING, Any

from filelock import FileLock, Timeout

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import DTypeLike


@contextmanager
def whole_file(path: Path) -> Iterator[Path]:
    """A place to write a file, which takes its name when it is complete.

    Raises:
        ValueError: the path is a folder.
        OSError: it cannot be written, or the disk is full.
    """
    partial = begin_beside(path)
    try:
        yield partial
        os.replace(partial, path)
    except OSError as error:  # which names no file where the disk is full
        raise OSError(f"{path} cannot be written ({error.strerror or error})") from error
    finally:
        partial.unlink(missing_ok=True)


@contextmanager
def whole_folder(dst: Path) -> Iterator[Path]:
    """A folder beside `dst` that nothing else has; it takes that name once complete, or is removed.

    Raises:
        OSError: it cannot be written, or the disk is full.
    """
    dst.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".writing-", dir=dst.parent) as temporary:
        whole = Path(temporary, "whole")
        whole.mkdir()
        try:
            yield whole
        except OSError as error:
            if error.filename is not None:
                raise
            raise OSError(f"{dst} cannot be written: {error.strerror or error}") from error  # disk is full
        whole.rename(dst)


def write_text(path: Path, text: str) -> None:
    """Write a file of text, in UTF-8; raises what `whole_file` does."""
    with whole_file(path) as partial:
        partial.write_text(text, "utf-8")


def save_picture(picture: Any, path: Path) -> None:
    """Write a figure of matplotlib or an image of Pillow, in the format that the name ends in, else PNG.

    Raises:
        ValueError: no such format, or the path is a folder.
        OSError: it cannot be written, or the disk is full.
    """
    ending = ending_of(path)
    if hasattr(picture, "savefig"):
        save = picture.savefig
    else:
        from PIL import Image

        save = picture.save
        known = Image.registered_extensions()
        if f".{ending}" not in known:
            raise ValueError(f"{path}: no picture is written as .{ending}; .png is one that is")
        ending = known[f".{ending}"]
    with whole_file(path) as partial:
        save(partial, format=ending)


def ending_of(path: Path) -> str:
    """Return the format that the name of a picture ends in, `png` if it has no suffix."""
    return path.suffix.lstrip(".").lower() or "png"


def check_writable(path: Path) -> None:
    """Refuse a file that could not be written, before any work; raises what `whole_file` does."""
    begin_beside(path).unlink()


def new_array(path: Path, dtype: "DTypeLike", shape: tuple[int, ...]) -> "np.ndarray":
    """Map a new `.npy` file, to be filled later.

    A full disk is an OSError here; while the map is filled it would end the process by a signal.
    """
    import numpy as np

    array = np.lib.format.open_memmap(path, "w+", np.dtype(dtype), shape)
    size = path.stat().st_size
    if hasattr(os, "posix_fallocate"):
        try:
            with path.open("r+b") as file:
                os.posix_fallocate(file.fileno(), 0, size)
        except OSError as error:
            raise OSError(error.errno, f"{error.strerror} ({size:,} bytes are needed)", str(path)) from None
    return array


def begin_beside(path: Path) -> Path:
    """An empty file beside the path, to be renamed to it; raises what `whole_file` does."""
    if path.is_dir():
        raise ValueError(f"{path} is a folder, where the name of a file is expected")
    if path.exists() and not path.is_file():  # as root, /dev/null would be replaced by a file
        raise ValueError(f"{path} is no file that could be replaced")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        for number in count():  # another's file, a link or the rows of an interrupted run stay as they are
            partial = path.with_name(f"{path.name}.partial{number or ''}")
            with suppress(FileExistsError):
                partial.open("x").close()
                return partial
    except OSError as error:
        raise OSError(f"{path} cannot be written ({error.strerror})") from error
    raise AssertionError  # numbers do not end


def refuse_existing(dst: str | Path) -> None:
    """Raise ValueError if there is such a file or folder."""
    if Path(dst).exists():
        raise ValueError(f"{dst} exists already; remove it or choose another place")


@contextmanager
def alone(lock: Path, otherwise: str) -> Iterator[None]:
    """Hold a lock file, removed afterwards; raises ValueError that says `otherwise` if another does."""
    held = FileLock(lock, timeout=0)
    try:
        held.acquire()
    except Timeout:
        raise ValueError(otherwise) from None
    try:
        yield
    finally:
        held.release()
        lock.unlink(missing_ok=True)
