"""Triplets, pairs and trios in Parquet files, as Hugging Face's `datasets` writes them: images are bytes.

The bytes are copied, batch by batch, to files in the cache, named by their SHA-256, and read from there as
any other image files are: memory is bounded, an image that recurs is one file, and fingerprints are those of
files.
"""

import hashlib
import math
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from perceptual.data.kinds import TWO_AFC, Kind
from perceptual.data.readers.manifests import SHARED, refuse_preferences
from perceptual.data.table import SPLITS, Table, as_shares, no_people, number_images, number_subsets
from perceptual.files.messages import first_line
from perceptual.files.places import cache_folder
from perceptual.files.writing import whole_file

HUB = "hf://datasets/"
BATCH = 64  # rows read at once
OPTIONAL = ("votes", "subset", "condition", "split")
# what the files of a split are called on the hub
NAMED = {"train": "train", "validation": "val", "val": "val", "valid": "val", "test": "test"}


def read_parquet(path: str, columns: Mapping[str, str] | None = None, kind: Kind = TWO_AFC) -> Table:
    """List the items of Parquet files.

    A column of images has structs `{bytes, path}`, or bytes. Without a column `split` it is read off the
    names of files such as `validation-00000-of-00002.parquet`, where all of them say one.

    Args:
        path: a file, a folder that holds such files, or `hf://datasets/OWNER/NAME[/FOLDER or FILE]`.
        columns: the names of columns that differ from ours: those of the roles, the answer's (`judge`; of
            trios `odd_a`, `odd_b` and `odd_c`), `votes`, `subset`, `condition` and `split`.
        kind: of the items.

    Raises:
        FileNotFoundError: there are no such files, or the hub did not give them.
        ValueError: naming the file, the column and the row that cannot be read.
    """
    known = (*kind.roles, *kind.cells, *OPTIONAL)
    named = {name: name for name in known} | dict(columns or {})
    if odd := [name for name in named if name not in known]:
        raise ValueError(f"data.columns has no {odd[0]!r}; it names {', '.join(known)}")
    files, rows = find_files(path), list[dict[str, Any]]()
    folder = cache_folder() / "parquet"
    folder.mkdir(parents=True, exist_ok=True)
    for file in files:
        found = list(_rows(file, kind, named, set(columns or {}), folder))
        if rows and found and (alone := (rows[0].keys() ^ found[0].keys()) - {"split"}):
            raise ValueError(
                f"{file} and {files[0]} must have the same columns; only one has {', '.join(sorted(alone))}"
            )
        rows += found
    if not rows:
        raise ValueError(f"{path} holds no rows")
    paths_of = [[row[role] for role in kind.roles] for row in rows]
    items, paths = number_images(paths_of)
    answer = np.array([[row[cell] for cell in kind.cells] for row in rows], np.float32)
    answer = answer.reshape(-1, *kind.shape)
    votes = np.array([row["votes"] for row in rows], np.float32) if "votes" in rows[0] else None
    answers = ", ".join(named[cell] for cell in kind.cells)
    if kind.by_role:
        answer, votes, wrong = as_shares(answer, votes)
        _refuse(wrong, f"{path}: {answers} must be {SHARED}")
    if votes is not None:
        _refuse(no_people(answer, votes), f"{path}: {answers} · votes must be a whole number of people")
    groups = [[row[name] for row in rows] for name in ("condition", "subset") if name in rows[0]]
    subset, subsets = number_subsets(*(groups or [[Path(path).stem] * len(rows)]))
    splits = [row.get("split") for row in rows]
    return Table(
        kind=kind,
        paths=paths,
        items=items,
        answer=answer,
        subset=subset,
        subsets=subsets,
        votes=votes,
        split=np.array(splits) if None not in splits else None,
        condition=np.array(groups[0]) if "condition" in rows[0] else None,
    )


def _refuse(wrong: np.ndarray, rule: str) -> None:
    if wrong.any():
        raise ValueError(
            f"{rule}; {wrong.sum():,} of {len(wrong):,} are not, the first is that of row "
            f"{wrong.argmax() + 1}"
        )


def is_parquet(path: str) -> bool:
    """Return whether a path is one on the hub, a `.parquet` file, or a folder that holds some."""
    place = Path(path).expanduser()
    return path.startswith(HUB) or place.suffix == ".parquet" or any(place.glob("[!.]*.parquet"))


def find_files(path: str) -> list[Path]:
    """Parquet files of a path on this disk or on the hub, sorted; raises as `read_parquet`."""
    place = Path(path).expanduser()
    if path.startswith(HUB):
        place = _from_hub(path)
    found = [place] if place.is_file() else sorted(place.rglob("[!.]*.parquet"))
    if not found:
        raise FileNotFoundError(f"no file {path}, or no .parquet file in it")
    return found


def _from_hub(path: str) -> Path:
    from huggingface_hub import snapshot_download

    owner, name, inner = ([*path.removeprefix(HUB).strip("/").split("/", 2), "", ""])[:3]
    wanted = inner if inner.endswith(".parquet") else f"{inner}/*.parquet".lstrip("/")
    try:
        home = snapshot_download(f"{owner}/{name}", repo_type="dataset", allow_patterns=[wanted])
    except Exception as error:  # the hub's own, httpx's, and those of the operating system
        raise FileNotFoundError(f"{path}: the hub did not give it ({first_line(error)})") from error
    return Path(home, inner)


def _rows(
    file: Path, kind: Kind, named: Mapping[str, str], said: set[str], folder: Path
) -> Iterator[dict[str, Any]]:
    """Read the rows of a file by our names; images are paths of files."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    needed = {*kind.roles, *kind.cells} | said
    try:
        with pq.ParquetFile(file, buffer_size=1 << 20) as content:
            there = content.schema_arrow.names
            if absent := [named[name] for name in named if name in needed and named[name] not in there]:
                refuse_preferences(there, file)
                raise ValueError(
                    f"{file} has no column {', '.join(absent)}, but {', '.join(there)}; data.columns.ref=… "
                    "and such name others"
                )
            read = {name: column for name, column in named.items() if column in there}
            number = 0
            for batch in content.iter_batches(BATCH, columns=list(dict.fromkeys(read.values()))):
                for values in batch.to_pylist():
                    number += 1
                    where = f"{file}: row {number:,}"
                    yield {
                        name: _value(kind, name, values[column], f"{where}: {column}", folder, file)
                        for name, column in read.items()
                    } | ({} if "split" in read else _split_of(file))
    except (pa.ArrowException, OSError) as error:
        raise ValueError(f"{file} cannot be read: {first_line(error)}") from error


def _split_of(file: Path) -> dict[str, str]:
    split = NAMED.get(file.name.partition("-")[0].partition(".")[0])
    return {"split": split} if split else {}


def _value(kind: Kind, name: str, value: Any, where: str, folder: Path, file: Path) -> Any:
    """Check a cell; an image becomes the path of a file."""
    if name in kind.roles:
        return _image(value, where, folder, file)
    if name == "split":
        if (split := NAMED.get(str(value))) is None:
            raise ValueError(f"{where} must be one of {', '.join(SPLITS)}, got {value!r}")
        return split
    if name in ("subset", "condition"):
        return str(value)
    low, high = (1, 2**24) if name == "votes" else (kind.low, 2**24 if kind.by_role else kind.high)
    number = float(value) if isinstance(value, bool | int | float) else math.nan
    if not low <= number <= high or (name == "votes" and number != int(number)):
        what = "a whole number of people" if name == "votes" else f"a number in [{low:g}, {high:g}]"
        raise ValueError(f"{where} must be {what}, got {_short(value)}")
    return number


def _image(value: Any, where: str, folder: Path, file: Path) -> str:
    content, path = (value.get("bytes"), value.get("path")) if isinstance(value, dict) else (value, None)
    if content is None and isinstance(path, str) and (file.parent / path).is_file():
        return str(file.parent / path)
    if not isinstance(content, bytes) or not content:
        raise ValueError(f"{where} must be an image, {{bytes, path}} or bytes, got {_short(value)}")
    kept = folder / hashlib.sha256(content).hexdigest()
    if not kept.is_file() or kept.stat().st_size != len(content):
        with whole_file(kept) as partial:
            partial.write_bytes(content)
    return str(kept)


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) < 60 else f"{text[:57]}…"
