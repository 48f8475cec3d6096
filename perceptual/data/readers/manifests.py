"""Triplets, pairs, trios and opinions listed in a CSV file: image files and what people answered."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from perceptual.data.kinds import ALGORITHMS, OPINION, TWO_AFC, Kind
from perceptual.data.readers.columns import read_columns, read_header
from perceptual.data.settings import Larger
from perceptual.data.table import SPLITS, Table, as_shares, no_people, number_subsets

OPTIONAL = ("votes", "subset", "split", "made", "condition", "mask", *ALGORITHMS)
SHARED = "shares that sum to 1 or, without votes, numbers of people"
# what larger numbers mean, by the column's name; None: not said by it
LARGER: dict[str, Larger | None] = {"mos": "better", "dmos": "worse", "score": None}


def read_manifest(path: str | Path, kind: Kind = TWO_AFC) -> Table:
    """List the triplets, pairs or trios of a CSV file with a header.

    Its columns are `ref`, `p0`, `p1` (image files, relative to the CSV), `judge` (fraction that preferred p1)
    and optionally `votes` (people asked), `subset` (a name to score by), `condition` (another, such as the
    light or the camera, to split by too), `split` (train, val or test), `mask` (an image of what counts of
    all images of the item: white counts, black does not) and `made` (what was done to synthetic items, see
    `perceptual.data.synthetic.steps`). Those of pairs (`JND`) have `p0`, `p1` and `same`. Those of trios
    (`ODD_ONE_OUT`) have `a`, `b`, `c` and `odd_a`, `odd_b`, `odd_c`: how many people chose each as the odd
    one, or their shares, which sum to 1. Files saved by spreadsheets are read, see
    `perceptual.data.readers.columns`.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it is not such a CSV, holds no row, or has a value that is not allowed; or people were
            asked which of two images is better, without a reference.
    """
    return _read_table(kind, Path(path), kind.cells)


def read_opinion_manifest(path: str | Path, larger: Larger | None = None) -> Table:
    """List the opinions of a CSV with `ref`, `dist` and one of `mos`, `dmos`, `score`, any number.

    Args:
        path: the CSV, otherwise as in `read_manifest`.
        larger: whether larger scores are better or worse images. `mos` are better and `dmos` worse by what
            they are; a column `score` needs it said.

    Raises:
        FileNotFoundError, ValueError: as `read_manifest`; or it is not said what larger scores mean.
    """
    path = Path(path)
    header = read_header(path)
    answers = [name for name in LARGER if name in header]
    if len(answers) != 1:
        found = ", ".join(answers) or "none of them"
        raise ValueError(f"{path}: needs one column of {', '.join(LARGER)}, and has {found}")
    (name,) = answers
    means = LARGER[name] or larger
    if means is None:
        raise ValueError(
            f"{path}: a column score does not say whether larger is better or worse; say "
            "data.larger=better or data.larger=worse, or call it mos (better) or dmos (worse)"
        )
    if larger is not None and larger != means:
        raise ValueError(f"{path}: larger {name} are {means} by definition, but larger={larger} was given")
    table = _read_table(OPINION, path, (name,))
    return replace(table, answer=-table.answer) if means == "better" else table


def refuse_preferences(header: Sequence[str], where: object) -> None:
    """Raise ValueError for columns of two images, and of answers about them, without a reference."""
    if {*TWO_AFC.roles[1:], TWO_AFC.on_disk} <= {*header} and TWO_AFC.roles[0] not in header:
        raise ValueError(
            f"{where} has p0, p1 and judge but no ref: which of two images is better is a question about "
            "quality, not about a distance; triplets need ref"
        )


def _read_table(kind: Kind, path: Path, cells: tuple[str, ...]) -> Table:
    try:
        columns = read_columns(path, (*kind.roles, *cells), OPTIONAL)
    except ValueError:
        refuse_preferences(read_header(path), path)
        raise
    answer = cells[-1]
    if not any(columns.cells[answer]):
        raise ValueError(f"{path}: the column {answer} is empty: these have not been judged yet")
    votes = columns.people("votes") if "votes" in columns else None
    if kind.by_role:
        found = np.stack([columns.numbers(cell, 0) for cell in cells], 1)
        answers, votes, wrong = as_shares(found, votes)
        columns.refuse(answer, f"{', '.join(cells)} must be {SHARED}", wrong)
    else:
        answers = columns.numbers(answer, kind.low, kind.high)
    if votes is not None and kind.is_share:
        rule = f"{answer} · votes must be a whole number of people"
        columns.refuse(answer, rule, no_people(answers, votes))
    masks = ["mask"] if "mask" in columns else []
    for name, rule in (("mask", "name an image: what is white there counts"), ("condition", "be a name")):
        if name in columns:
            empty = np.array([not cell for cell in columns.cells[name]])
            columns.refuse(name, f"{name} must {rule}", empty)
    paths, read = columns.files([*kind.roles, *masks])
    groups = [columns.cells[name] for name in ("condition", "subset") if name in columns]
    subset, subsets = number_subsets(*(groups or [[path.stem] * len(columns)]))
    return Table(
        kind=kind,
        paths=paths,
        items=read[: len(kind.roles)],
        mask=read[-1] if masks else None,
        answer=answers,
        subset=subset,
        subsets=subsets,
        votes=votes,
        split=columns.words("split", SPLITS) if "split" in columns else None,
        made=np.array([cell.encode() for cell in columns.cells["made"]]) if "made" in columns else None,
        condition=np.array(columns.cells["condition"]) if "condition" in columns else None,
    )
