"""The leaderboard of one set of judged items: every method's scores with intervals, best first."""

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from perceptual.data.kinds import KINDS
from perceptual.evaluation.people import Limit, limit
from perceptual.evaluation.people import rows as rows_of_people
from perceptual.evaluation.results import Arrays, DataResults, Result, Row
from perceptual.evaluation.runs import common_folder, varied
from perceptual.evaluation.selection import Picked, average_seeds, corrected
from perceptual.evaluation.statistics import Intervals, bootstrap, clusters, ends, rank_groups
from perceptual.metrics import SCORES

MEANS = ["mean", "micro"]


class Entry(NamedTuple):
    """A method's place on a leaderboard; scores in [0, 1], a number a column."""

    row: Row
    score: list[float]
    low: list[float]
    """Lower ends of the 95 % intervals."""
    high: list[float]
    group: int
    """Rises down the board where the macro mean differs significantly from the best of the group above."""
    gap: tuple[float, float]
    """Paired interval of the best method's macro mean minus this one's."""

    @property
    def tied(self) -> bool:
        """Whether the macro mean does not differ significantly from the best one, as far as that is known."""
        return self.gap[0] <= 0


class Board(NamedTuple):
    """What `tables` and `plots` show."""

    data: Row
    columns: list[str]
    """Subsets, then `mean` (macro) and `micro`."""
    entries: list[Entry]
    """Methods that were scored, best macro mean first."""
    references: dict[str, list[float]]
    """Rows about the people: how well a person, two people and the best possible distance agree with them."""
    failed: list[Row]
    recurring: bool
    """Whether references recur, so that the bootstrap draws references rather than items."""
    settings: list[str]
    """Keys of the settings in which the rows of training runs differ, see `runs`."""
    folder: Path | None
    """What holds all training runs among the rows; their names are relative to it."""
    ceiling: Limit | None = None
    """The best macro mean that any distance can have; None where the votes are not known."""
    picked: Picked | None = None
    """The macro mean of the best, corrected for having been picked among all."""


def make(results: DataResults, lost: Sequence[Row] = ()) -> Board:
    """The leaderboard of the results on one set of items.

    Args:
        results: of the methods, or of training runs.
        lost: rows of training runs that gave no score, see `runs.without_score`.

    Raises:
        ValueError: no method has been scored on it, or its results do not fit each other.
    """
    items, scored = results.items(), results.scored()
    if not scored:
        raise ValueError(f"{results.folder} holds no scored method, only {len(results.failed())} failures")
    try:
        return _made(results, items, scored, lost)
    except (KeyError, TypeError, IndexError, AttributeError, RuntimeError) as error:
        raise ValueError(
            f"{results.folder} holds results that do not fit each other ({type(error).__name__}: {error}); "
            "evaluate again"
        ) from error


def _made(results: DataResults, judged: Result, scored: list[Result], lost: Sequence[Row]) -> Board:
    data, items = judged
    intervals, recurring = bootstrapped(data["kind"], [result.arrays for result in scored], items)
    rows, intervals = average_seeds([result.row for result in scored], intervals)
    macro = len(data["subsets"])
    group = rank_groups(intervals.score[:, macro], intervals.draws[:, :, macro])
    best = int(np.nan_to_num(intervals.score[:, macro], nan=-np.inf).argmax())
    gaps = ends(intervals.draws[:, [best], macro] - intervals.draws[:, :, macro])
    parts = zip(
        rows,
        *(numbers.tolist() for numbers in (intervals.score, intervals.low, intervals.high)),
        group,
        [(low, high) for low, high in gaps.T.tolist()],
        strict=True,
    )
    # a method without a score, which is in no group, comes last
    entries = sorted(
        (Entry(*part) for part in parts),
        key=lambda e: (np.isnan(e.score[macro]), e.group, -np.nan_to_num(e.score[macro])),
    )
    people = rows_of_people(data["kind"], items, data["subsets"])
    ceiling = limit(data["kind"], items, data["subsets"], clusters(items["cluster"])[0])
    failed = [*results.failed(), *lost]
    rows = [entry.row for entry in entries]
    settings, folder = varied(rows), common_folder([*rows, *lost])
    columns = data["subsets"] + MEANS
    known = ~np.isnan(intervals.draws[:, :, macro]).any(0)
    picked = (
        corrected(intervals.score[known, macro], intervals.draws[:, known, macro]) if known.any() else None
    )
    return Board(data, columns, entries, people, failed, recurring, settings, folder, ceiling, picked)


def bootstrapped(kind: str, scored: list[Arrays], items: Arrays) -> tuple[Intervals, bool]:
    """Scores of methods with their draws, and whether references recur, so that those are drawn.

    Args:
        kind: of the items, `2afc`, `jnd` or `opinion`.
        scored: of each method, its distances.
        items: what was judged.
    """
    cluster, recurring = clusters(items["cluster"])
    names, score = KINDS[kind], SCORES[kind]
    answer = items[names.answer]
    distances = np.stack([[arrays[column] for column in names.columns] for arrays in scored])
    found = bootstrap(
        distances,
        items["subset"],
        cluster,
        answer=answer,
        weighted=score.weighted,
        counting=score.counting(answer),
    )
    return found, recurring
