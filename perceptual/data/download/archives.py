"""Unpack a tar archive without trusting it."""

import shutil
import tarfile
import zlib
from pathlib import Path, PurePosixPath

from rich.console import Console
from rich.markup import escape
from rich.progress import open as open_with_progress

from perceptual.files.progress import lines

RATIO = 50  # images do not compress: an archive that holds so many times its size is meant to fill the disk
MARGIN = 2**20  # bytes that any archive may hold


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
            lines(lambda: f"Unpacking {archive.name}"),
            open_with_progress(
                archive,
                "rb",
                description=f"Unpacking {escape(archive.name)}",
                console=console,
                transient=True,
                disable=quiet,
            ) as file,
            tarfile.open(fileobj=file, mode="r:gz") as tar,
        ):
            limit, total = MARGIN + RATIO * archive.stat().st_size, 0
            for member in tar:
                total += member.size
                if total > limit:
                    what = f"holds more than {RATIO} times its size"
                    raise ValueError(f"{archive} is not to be trusted: it {what}; remove it")
                _write(tar, member, archive, folder)
            assert tar.fileobj is not None
            while tar.fileobj.read(2**20):  # gzip's checksum comes last
                pass
    except (tarfile.TarError, zlib.error, EOFError, OSError) as error:
        if isinstance(error, OSError) and error.errno is not None:
            raise  # of the disk, not of gzip
        raise ValueError(f"{archive} is damaged ({error}); remove it and run this again") from None


def _write(tar: tarfile.TarFile, member: tarfile.TarInfo, archive: Path, folder: Path) -> None:
    path = PurePosixPath(member.name)
    # a backslash or a colon is a separator or a drive elsewhere
    outside = path.is_absolute() or ".." in path.parts or any(mark in member.name for mark in "\\:\0")
    if outside or not (member.isreg() or member.isdir()) or member.issparse():
        what = "leads out of the folder" if outside else "is neither a plain file nor a folder"
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
