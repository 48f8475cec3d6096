"""Download BAPPS (Zhang et al. 2018) and unpack it.

Work in progress is in `<root>/.download`; a folder is moved to its place once it is complete and checked. Run
again after an interruption, the download continues where it stopped.
"""

import os
import shutil
import tarfile
import zlib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Literal

from perceptual.data import bapps_subsets
from perceptual.data.download.http import fetch
from perceptual.data.kinds import JND, TWO_AFC, Kind
from perceptual.data.readers.folders import read_folder
from perceptual.files.progress import Progress
from perceptual.files.writing import alone

BASE = "https://perceptual-similarity.s3.us-west-2.amazonaws.com/dataset/"


@dataclass(frozen=True)
class Part:
    """One archive of a data set."""

    archive: str
    top: str  # the folder in the archive
    place: str  # that folder's place below the root
    kind: Kind
    counts: Mapping[str, int | None]  # items of each subset; None where the number is not published exactly


Name = Literal["val", "jnd", "train"]
BAPPS: dict[Name, Part] = {
    "val": Part("twoafc_val.tar.gz", "val", "2afc/val", TWO_AFC, bapps_subsets.VAL),
    "jnd": Part("jnd.tar.gz", "jnd", "jnd", JND, bapps_subsets.JND),
    "train": Part("twoafc_train.tar.gz", "train", "2afc/train", TWO_AFC, bapps_subsets.TRAIN),
}


def download_bapps(
    root: str | Path,
    subsets: Sequence[Name] = ("val", "jnd"),
    base: str = BASE,
    parts: Mapping[Name, Part] = BAPPS,
) -> list[str]:
    """Download parts of BAPPS to `<root>/2afc` and `<root>/jnd`; parts that exist are only checked.

    Args:
        root: folder for the data set. An archive that is in it already is used, and left there.
        subsets: of "val", "jnd" and "train"; 1.1, 0.2 and 5.3 GB to download.
        base: URL of the folder of the archives.
        parts: the archives by subset.

    Returns:
        a line per part, with its folder and the number of its items.

    Raises:
        ValueError: an unknown subset, an archive that is damaged or unsafe, or a folder that exists and is
            incomplete.
        OSError: an archive cannot be downloaded; names its URL and where to put it.
    """
    unknown = [subset for subset in subsets if subset not in parts]
    if unknown or not subsets:
        raise ValueError(f"subsets must be of {', '.join(parts)}, got {', '.join(unknown) or 'none'}")
    root = Path(root)
    with workshop_in(root) as workshop:
        return [_bring(root, workshop, parts[subset], base) for subset in dict.fromkeys(subsets)]


@contextmanager
def workshop_in(root: Path) -> Iterator[Path]:
    """`<root>/.download`, for one process at a time; removed when all is done."""
    workshop = root / ".download"
    workshop.mkdir(parents=True, exist_ok=True)
    with alone(workshop / "lock", f"another process is downloading to {root}"):
        yield workshop
    shutil.rmtree(workshop)


def _bring(root: Path, workshop: Path, part: Part, base: str) -> str:
    folder = root / part.place
    if not folder.exists():
        archive = root / part.archive
        if not archive.exists():
            archive = fetch(base + part.archive, workshop / part.archive, by_hand=archive)
        extracted = workshop / f"{part.archive}.extracted"
        shutil.rmtree(extracted, ignore_errors=True)
        unpack(archive, extracted)
        if not (extracted / part.top).is_dir():
            raise ValueError(f"{archive} holds no folder {part.top}; remove it and run this again")
        _check(extracted / part.top, part)
        folder.parent.mkdir(parents=True, exist_ok=True)
        os.replace(extracted / part.top, folder)
        (workshop / part.archive).unlink(missing_ok=True)
    return f"{folder}: {_check(folder, part):,} {part.kind.plural}"


def _check(folder: Path, part: Part) -> int:
    """Number of items; raises ValueError or FileNotFoundError if some are missing."""
    names = list(part.counts)
    table = read_folder(folder, names, part.kind, names)
    for number, (name, expected) in enumerate(part.counts.items()):
        found = int((table.subset == number).sum())
        if expected not in (None, found):
            raise ValueError(
                f"{folder / name} holds {found:,} of {expected:,} {part.kind.plural}; "
                "remove the folder and run this again"
            )
    return len(table)


RATIO = 50  # images do not compress: an archive that holds so many times its size is meant to fill the disk
MARGIN = 2**20  # bytes that any archive may hold


def unpack(archive: Path, folder: Path) -> None:
    """Unpack the files of a `.tar.gz` into a new folder; modes, owners and times are ignored.

    Raises:
        ValueError: the archive is damaged, or holds anything but folders and files inside the folder: links,
            devices, paths that lead out of it.
    """
    try:
        with (
            Progress(f"Unpacking {archive.name}", archive.stat().st_size) as progress,
            archive.open("rb") as file,
            tarfile.open(fileobj=file, mode="r:gz") as tar,
        ):
            total = 0
            for member in tar:
                total += member.size
                check_size(archive, total)
                _write(tar, member, archive, folder)
                progress.reach(file.tell())
            assert tar.fileobj is not None
            while tar.fileobj.read(2**20):  # gzip's checksum comes last
                pass
    except (tarfile.TarError, zlib.error, EOFError, OSError) as error:
        if isinstance(error, OSError) and error.errno is not None:
            raise  # of the disk, not of gzip
        raise ValueError(f"{archive} is damaged ({error}); remove it and run this again") from None


def check_size(archive: Path, total: int) -> None:
    """Refuse an archive that holds so many bytes; raises ValueError that names it."""
    if total > MARGIN + RATIO * archive.stat().st_size:
        raise ValueError(
            f"{archive} is not to be trusted: it holds more than {RATIO} times its size; remove it"
        )


def check_member(archive: Path, name: str, plain: bool) -> None:
    """Refuse what an archive is not to hold.

    Args:
        archive: the file, for the error.
        name: of the member.
        plain: whether it is a plain file or a folder.

    Raises:
        ValueError: it leads out of the folder that is unpacked to, or is a link or a device.
    """
    path = PurePosixPath(name)
    # a backslash or a colon is a separator or a drive elsewhere
    outside = path.is_absolute() or ".." in path.parts or any(mark in name for mark in "\\:\0")
    if outside or not plain:
        what = "leads out of the folder" if outside else "is neither a plain file nor a folder"
        raise ValueError(f"{archive} is not to be trusted: {name!r} {what}; remove it")


def _write(tar: tarfile.TarFile, member: tarfile.TarInfo, archive: Path, folder: Path) -> None:
    check_member(archive, member.name, (member.isreg() or member.isdir()) and not member.issparse())
    target = folder / member.name
    if member.isdir():
        target.mkdir(parents=True, exist_ok=True)
        return
    target.parent.mkdir(parents=True, exist_ok=True)
    source = tar.extractfile(member)
    assert source is not None  # it is a regular file
    with source, target.open("xb") as out:
        shutil.copyfileobj(source, out)
