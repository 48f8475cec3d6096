"""Local paths and URLs of object storage, by one interface; and the folder of all caches."""

import os
from pathlib import Path
from typing import Any


def cache_folder() -> Path:
    """`$PERCEPTUAL_CACHE`, or `~/.cache/perceptual`; it may be deleted between runs."""
    return Path(os.environ.get("PERCEPTUAL_CACHE") or Path.home() / ".cache/perceptual")


def is_remote(place: object) -> bool:
    """Whether it is a URL, such as `s3://bucket/folder`."""
    return "://" in str(place)


def place(where: object) -> Any:
    """A `Path`, or for a URL the object of universal_pathlib that behaves as one.

    Raises:
        ValueError: it is a URL, and the extra `remote` is not installed.
    """
    if not is_remote(where):
        return Path(str(where))
    try:
        from upath import UPath

        return UPath(str(where))
    except ImportError as error:
        raise ValueError(f"{where} is a URL, which needs: pip install -e '.[remote]'") from error
