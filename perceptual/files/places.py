"""Local paths and URLs of object storage by one interface; walking through folders; the folder of caches."""

import hashlib
import os
import re
import unicodedata
from collections.abc import Iterable, Iterator
from functools import cache
from pathlib import Path
from typing import Any

from perceptual.files.messages import install

ELSEWHERE = "PERCEPTUAL_CACHE=… names another folder"
# names that Windows gives to devices, whatever follows their first dot
DEVICES = {
    "con",
    "prn",
    "aux",
    "nul",
    *(f"{port}{number}" for port in ("com", "lpt") for number in range(10)),
}


def cache_folder() -> Path:
    """`$PERCEPTUAL_CACHE`, or `~/.cache/perceptual`; it may be deleted between runs.

    Raises:
        OSError: there is no home folder.
    """
    folder = Path(os.path.expanduser(os.environ.get("PERCEPTUAL_CACHE") or "~/.cache/perceptual"))
    if folder.parts[:1] == ("~",):  # no HOME, and the system does not list the user
        raise OSError(f"there is no home folder for the cache: {ELSEWHERE}")
    return folder


def safe_name(name: str) -> str:
    """A name for a file or folder on any system: the name itself, or a readable part of it and a hash.

    The hash stands where there are odd characters or capitals (names that differ in these are one on some
    disks), and after the names of Windows' devices.
    """
    device = name.partition(".")[0].lower() in DEVICES
    if not device and re.fullmatch(r"[a-z0-9_]([a-z0-9_.-]*[a-z0-9_-])?", name):
        return name
    odd = r"\W+" if device else r"[^\w.-]+"
    readable = re.sub(odd, "-", name).strip("-.")[-80:]
    return f"{readable}-{hashlib.sha256(name.encode()).hexdigest()[:8]}"


def is_remote(place: object) -> bool:
    """Return whether it is a URL, such as `s3://bucket/folder`."""
    return "://" in str(place)


def place(where: object) -> Any:
    """A `Path`, with `~` as the home folder; for a URL an object of universal_pathlib that behaves as one.

    Raises:
        ValueError: it is a URL, and the extra `remote` is not installed.
    """
    if not is_remote(where):
        return Path(os.path.expanduser(str(where)))
    try:
        from upath import UPath

        return UPath(str(where))
    except ImportError as error:
        raise ValueError(f"{where} is a URL, which needs: {install('remote')}") from error


def listed(folder: str | Path) -> list[os.DirEntry[str]]:
    """List the entries of a folder, without hidden ones, sorted by name; raises OSError."""
    with os.scandir(folder) as entries:
        return sorted((one for one in entries if not one.name.startswith(".")), key=lambda one: one.name)


def walk(root: str | Path) -> Iterator[tuple[Path, list[str], list[str]]]:
    """Walk through a folder and those below; yields what `os.walk` does, sorted.

    Links to folders are followed, hidden files and folders left out. A folder whose name is removed from the
    list of names is not entered.

    Raises:
        ValueError: a link leads to a folder that it lies in.
        OSError: a folder cannot be read.
    """
    waiting: list[tuple[Path, tuple[str, ...]]] = [(Path(root), ())]
    while waiting:
        folder, within = waiting.pop()
        real = os.path.realpath(folder)
        if real in within:
            raise ValueError(f"{folder} is a link to {real}, a folder that it lies in; remove the link")
        entries = listed(folder)
        folders = [entry.name for entry in entries if entry.is_dir()]
        yield folder, folders, [entry.name for entry in entries if not entry.is_dir()]
        waiting += [(folder / name, (*within, real)) for name in reversed(folders)]


def nfc(name: str) -> str:
    """A name in Unicode's form C: other forms look the same, and macOS and archives made there write them."""
    return unicodedata.normalize("NFC", name)


def as_on_disk(paths: Iterable[str]) -> list[str]:
    """Return the paths, spelled as on disk where they differ in Unicode's form, or have Windows' slashes."""

    @cache
    def spellings(folder: str) -> dict[str, list[str]]:
        found: dict[str, list[str]] = {}
        for name in os.listdir(folder) if os.path.isdir(folder) else ():
            found.setdefault(nfc(name), []).append(name)
        return found

    @cache
    def spelled(path: str) -> str:
        above, name = os.path.split(path)
        if path.isascii() or not name or os.path.lexists(path):
            return path
        above = spelled(above)
        same = spellings(above).get(nfc(name), [])
        return os.path.join(above, same[0] if len(same) == 1 else name)

    def on_this_system(path: str) -> str:
        return path.replace("\\", "/") if "\\" in path and not os.path.lexists(path) else path

    return [spelled(on_this_system(path)) for path in paths]
