"""Read what a study is made from: items that need no answers yet."""

from pathlib import Path
from typing import NamedTuple

import numpy as np

from perceptual.collect.questions import QUESTIONS
from perceptual.data.kinds import ALGORITHMS, TWO_AFC
from perceptual.data.readers.columns import read_columns, read_header
from perceptual.data.readers.detect import read_origin
from perceptual.data.readers.stores import KINDS, is_store, read_info, read_store
from perceptual.data.table import SPLITS, Table, number_subsets

MANIFEST = "manifest.csv"


class Source(NamedTuple):
    """Items without regard to their answers, which are NaN where nobody has judged them."""

    table: Table
    algorithms: list[tuple[str, ...]] | None  # what made p0 and p1 of each item


def read_source(path: str | Path) -> Source:
    """Read a manifest whose answers may be empty, a folder that holds one, a BAPPS folder or a store.

    Raises:
        FileNotFoundError: there is nothing.
        ValueError: it cannot be read, or holds items of several kinds.
    """
    path = Path(path)
    if is_store(path):
        return Source(read_store(KINDS[read_info(path).kind], path), None)
    if (path / MANIFEST).is_file():
        path = path / MANIFEST
    if path.is_file():
        return _read_csv(path)
    halves = [path / name for name in QUESTIONS if (path / name).is_dir()]
    if len(halves) > 1:
        held = " and ".join(QUESTIONS[half.name].kind.plural for half in halves)
        raise ValueError(f"{path} holds {held}: name one, {' or '.join(map(str, halves))}")
    if halves and is_store(halves[0]):
        return read_source(halves[0])
    return Source(next(iter(read_origin(path).values())), None)


def _read_csv(path: Path) -> Source:
    header = read_header(path)
    kinds = [asked.kind for asked in QUESTIONS.values() if set(asked.kind.roles) <= set(header)]
    kind = max(kinds, key=lambda kind: len(kind.roles), default=TWO_AFC)
    # `made`, what was done to the patches, is not kept: participants shall not see it
    optional = (kind.on_disk, "votes", "subset", "split", "made", *ALGORITHMS)
    columns = read_columns(path, kind.roles, optional)
    paths, items = columns.files(kind.roles)
    rows = zip(*(columns.cells[role] for role in kind.roles), strict=True)
    empty = np.array([not all(row) for row in rows])
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
    algorithms = list(zip(*(columns.cells[name] for name in ALGORITHMS), strict=True)) if named else None
    return Source(table, algorithms)
