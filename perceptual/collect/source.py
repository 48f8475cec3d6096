"""Read what a study is made from: items that need no answers yet."""

from pathlib import Path
from typing import NamedTuple

import numpy as np

from perceptual.data.kinds import JND, TWO_AFC
from perceptual.data.readers.columns import read_columns, read_header
from perceptual.data.readers.csv_files import ALGORITHMS
from perceptual.data.readers.detect import read_origin
from perceptual.data.readers.stores import KINDS, is_store, read_info, read_store
from perceptual.data.table import SPLITS, Table, number_subsets

MANIFEST = "manifest.csv"


class Source(NamedTuple):
    """Items without regard to their answers, which are NaN where nobody has judged them."""

    table: Table
    algorithms: list[tuple[str, str]] | None  # what made p0 and p1 of each item


def read_source(path: str | Path) -> Source:
    """Read a manifest whose answers may be empty, a folder that holds one, a BAPPS folder or a store.

    Raises:
        FileNotFoundError: there is nothing.
        ValueError: it cannot be read, or holds triplets and pairs.
    """
    path = Path(path)
    if is_store(path):
        return Source(read_store(KINDS[read_info(path).kind], path), None)
    if path.is_dir() and (path / MANIFEST).is_file():
        path = path / MANIFEST
    if path.is_file():
        return _read_csv(path)
    halves = [half for half in ("2afc", "jnd") if is_store(path / half) or (path / half).is_dir()]
    if len(halves) == 2:
        raise ValueError(f"{path} holds triplets and pairs: name one, {path / '2afc'} or {path / 'jnd'}")
    if halves and is_store(path / halves[0]):
        return read_source(path / halves[0])
    return Source(next(iter(read_origin(path).values())), None)


def _read_csv(path: Path) -> Source:
    header = read_header(path)
    kind = JND if "ref" not in header and "p0" in header else TWO_AFC
    # `made`, what was done to the patches, is not kept: participants shall not see it
    optional = (kind.on_disk, "votes", "subset", "split", "made", *ALGORITHMS)
    columns = read_columns(path, kind.roles, optional)
    paths, items = columns.files(kind.roles)
    empty = np.array(
        [not all(columns.cells[role][row] for role in kind.roles) for row in range(len(columns))]
    )
    columns.refuse(kind.roles[0], f"{', '.join(kind.roles)} must name images", empty)
    subset, subsets = number_subsets(columns.cells.get("subset", [path.stem] * len(columns)))
    table = Table(
        kind=kind,
        paths=paths,
        items=items,
        answer=np.full(len(columns), np.nan, np.float32),
        subset=subset,
        subsets=subsets,
        split=columns.words("split", SPLITS) if "split" in columns else None,
    )
    named = all(name in columns for name in ALGORITHMS)
    pairs = list(zip(*(columns.cells[name] for name in ALGORITHMS), strict=True)) if named else None
    return Source(table, pairs)
