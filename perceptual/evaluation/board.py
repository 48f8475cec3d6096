"""The leaderboard of one set of judged items: every method's scores with intervals, best first."""

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from perceptual.evaluation.people import Limit, limit
from perceptual.evaluation.people import rows as rows_of_people
from perceptual.evaluation.results import FAILED, Arrays, DataResults, Items, Result
from perceptual.evaluation.runs import common_folder, varied
from perceptual.evaluation.selection import Picked, average_seeds, corrected
from perceptual.evaluation.statistics import Intervals, bootstrap, clusters, ends, rank_groups
from perceptual.metrics import SCORES

MEANS = ["mean", "micro"]


class Entry(NamedTuple):
    """A method's place on a leaderboard; scores in [0, 1], a number a column."""

    result: Result
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

    data: Items
    columns: list[str]
    """Subsets, then `mean` (macro) and `micro`."""
    entries: list[Entry]
    """Methods that were scored, best macro mean first."""
    references: dict[str, list[float]]
    """Rows about the people: how well a person, two people and the best possible distance agree with them."""
    failed: list[Result]
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


def make(results: DataResults, lost: Sequence[Result] = ()) -> Board:
    """The leaderboard of the results on one set of items.

    Args:
        results: of the methods, or of training runs.
        lost: rows of training runs that gave no score, see `runs.without_score`.

    Raises:
        ValueError: no method has been scored on it, or its results do not fit each other.
    """
    items, scored = results.items(), results.all()
    if not scored:
        raise ValueError(f"{results.folder} holds no scored method, only {len(results.all(FAILED))} failures")
    try:
        return _made(results, items, scored, lost)
    except (KeyError, TypeError, IndexError, AttributeError, RuntimeError) as error:
        raise ValueError(
            f"{results.folder} holds results that do not fit each other ({type(error).__name__}: {error}); "
            "evaluate again"
        ) from error


def _made(results: DataResults, data: Items, scored: list[Result], lost: Sequence[Result]) -> Board:
    intervals, recurring = bootstrapped(data, [result.arrays for result in scored])
    averaged, intervals = average_seeds(scored, intervals)
    macro = len(data.subsets)
    group = rank_groups(intervals.score[:, macro], intervals.draws[:, :, macro])
    best = int(np.nan_to_num(intervals.score[:, macro], nan=-np.inf).argmax())
    gaps = ends(intervals.draws[:, [best], macro] - intervals.draws[:, :, macro])
    parts = zip(
        averaged,
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
    ranked = [entry.result for entry in entries]
    known = ~np.isnan(intervals.draws[:, :, macro]).any(0)
    draws = intervals.draws[:, known, macro]
    return Board(
        data,
        columns=data.subsets + MEANS,
        entries=entries,
        references=rows_of_people(data.kind, data.arrays, data.subsets),
        failed=[*results.all(FAILED), *lost],
        recurring=recurring,
        settings=varied(ranked),
        folder=common_folder([*ranked, *lost]),
        ceiling=limit(data.kind, data.arrays, data.subsets, clusters(data.arrays["cluster"])[0]),
        picked=corrected(intervals.score[known, macro], draws) if known.any() else None,
    )


def bootstrapped(items: Items, scored: Sequence[Arrays]) -> tuple[Intervals, bool]:
    """Scores of methods with their draws, and whether references recur, so that those are drawn.

    Args:
        items: what was judged.
        scored: of each method, its distances.
    """
    cluster, recurring = clusters(items.arrays["cluster"])
    kind, score = items.judged, SCORES[items.kind]
    answer = items.arrays[kind.answer]
    found = bootstrap(
        np.stack([[arrays[column] for column in kind.columns] for arrays in scored]),
        items.arrays["subset"],
        cluster,
        answer=answer,
        weighted=score.weighted,
        counting=score.counting(answer),
    )
    return found, recurring
