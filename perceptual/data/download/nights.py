"""Download NIGHTS (Fu et al. 2023, "DreamSim", https://arxiv.org/abs/2306.09344) and unpack it, as BAPPS."""

import os
import shutil
import stat
import zipfile
import zlib
from pathlib import Path

from perceptual.data.download.bapps import check_member, check_size, workshop_in
from perceptual.data.download.http import fetch
from perceptual.data.readers.published import NIGHTS, read_nights
from perceptual.files.messages import first_few
from perceptual.files.progress import Progress

URL = "https://data.csail.mit.edu/nights/nights.zip"


def download_nights(root: str | Path, url: str = URL) -> str:
    """Download NIGHTS to a folder, with its `data.csv`; what is there already is only checked.

    Args:
        root: the folder. An archive that is in it already is used, and left there.
        url: of the archive.

    Returns:
        a line with the folder and the number of triplets that are used.

    Raises:
        ValueError: an archive that is damaged, unsafe or of something else, or images that are missing.
        OSError: it cannot be downloaded; names the URL and where to put the archive.
    """
    root, name = Path(root), url.rpartition("/")[2]
    with workshop_in(root) as workshop:
        if not (root / NIGHTS).is_file():
            archive = root / name
            if not archive.exists():
                archive = fetch(url, workshop / name, by_hand=archive)
            unpacked = workshop / "unpacked"
            shutil.rmtree(unpacked, ignore_errors=True)
            unpack(archive, unpacked)
            tables = sorted(unpacked.rglob(NIGHTS))
            if not tables:
                raise ValueError(f"{archive} holds no {NIGHTS}; remove it and run this again")
            _check(tables[0].parent)
            # the table last: where it is, all is there
            for path in sorted(tables[0].parent.iterdir(), key=lambda path: path.name == NIGHTS):
                os.replace(path, root / path.name)
        return f"{root}: {_check(root):,} triplets"


def _check(folder: Path) -> int:
    table = read_nights(folder)
    if missing := [path for path in table.paths if not os.path.isfile(path)]:
        raise ValueError(
            f"{folder}: {len(missing):,} of {len(table.paths):,} images are missing: {first_few(missing, 2)}"
            "; remove the folder and run this again"
        )
    return len(table)


def unpack(archive: Path, folder: Path) -> None:
    """Unpack the files of a `.zip` into a new folder.

    Raises:
        ValueError: the archive is damaged, or holds anything but folders and files inside the folder.
    """
    try:
        with zipfile.ZipFile(archive) as held:
            members = held.infolist()
            check_size(archive, sum(member.file_size for member in members))
            with Progress(f"Unpacking {archive.name}", len(members)) as progress:
                for member in members:
                    kind = stat.S_IFMT(member.external_attr >> 16)
                    check_member(archive, member.filename, kind in (0, stat.S_IFREG, stat.S_IFDIR))
                    held.extract(member, folder)  # which checks the sum of each
                    progress.advance(1)
    except (zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError, RuntimeError) as error:
        raise ValueError(f"{archive} is damaged ({error}); remove it and run this again") from None
