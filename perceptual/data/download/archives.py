"""Unpack a tar archive without trusting it."""

import shutil
import tarfile
import zlib
from pathlib import Path, PurePosixPath

from rich.console import Console
from rich.progress import open as open_with_progress


def unpack(archive: Path, folder: Path) -> None:
    """Unpack the files of a `.tar.gz` into a new folder; modes, owners and times are ignored.

    Raises:
        ValueError: the archive is damaged, or holds anything but folders and files inside the folder: links,
            devices, paths that lead out of it.
    """
    console = Console(stderr=True)
    quiet = not console.is_terminal
    try:
        with (
            open_with_progress(
                archive,
                "rb",
                description=f"Unpacking {archive.name}",
                console=console,
                transient=True,
                disable=quiet,
            ) as file,
            tarfile.open(fileobj=file, mode="r:gz") as tar,
        ):
            for member in tar:
                _write(tar, member, archive, folder)
    except (tarfile.TarError, zlib.error, EOFError, OSError) as error:
        if isinstance(error, OSError) and error.errno is not None:
            raise  # of the disk, not of gzip
        raise ValueError(f"{archive} is damaged ({error}); remove it and run this again") from None


def _write(tar: tarfile.TarFile, member: tarfile.TarInfo, archive: Path, folder: Path) -> None:
    path = PurePosixPath(member.name)
    # a backslash or a colon is a separator or a drive elsewhere
    outside = path.is_absolute() or ".." in path.parts or any(mark in member.name for mark in "\\:\0")
    if outside or not (member.isreg() or member.isdir()):
        what = "leads out of the folder" if outside else "is neither a file nor a folder"
        raise ValueError(f"{archive} is not to be trusted: {member.name!r} {what}; remove it")
    target = folder / path
    if member.isdir():
        target.mkdir(parents=True, exist_ok=True)
        return
    target.parent.mkdir(parents=True, exist_ok=True)
    source = tar.extractfile(member)
    assert source is not None  # it is a regular file
    with source, target.open("xb") as out:
        shutil.copyfileobj(source, out)
