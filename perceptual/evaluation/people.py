"""How far people agree with each other, and what that leaves to reach: the rows beside those of methods."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from perceptual.chance import FEWEST
from perceptual.data.kinds import KINDS
from perceptual.evaluation.results import Arrays
from perceptual.evaluation.statistics import Floats, resample, within
from perceptual.metrics import SCORES, Ceiling
from perceptual.metrics.ceiling import SLACK, ceiling_draws
from perceptual.metrics.kinds import ESTIMATED

DRAWS = 100  # each a fit of its own


class Limit(NamedTuple):
    """The estimated ceiling of the macro mean, in [0, 1]."""

    value: Ceiling
    low: float
    """Lower end of its 95 % interval, of what few references and few votes leave open; NaN for too few
    references in a subset."""
    high: float


def rows(kind: str, items: Arrays, subsets: Sequence[str]) -> dict[str, list[float]]:
    """Score the people: each row by subset, then macro mean and micro.

    Without counts of votes only rows that need none; kinds without shares of people have no rows.

    Args:
        kind: of the items.
        items: arrays of judged items as `results` has them.
        subsets: names that `items["subset"]` counts.
    """
    columns, parts = _columns(kind, items, subsets)
    found = {
        name: _row(row.score, parts, *(columns if row.votes else columns[:1]))
        for name, row in SCORES[kind].people.items()
        if not row.votes or len(columns) > 1
    }
    # nothing to show where nobody was asked
    return {name: row for name, row in found.items() if not np.isnan(row).any()}


def limit(kind: str, items: Arrays, subsets: Sequence[str], cluster: np.ndarray) -> Limit | None:
    """The ceiling of the macro mean, with what votes and sampling leave open; None where it is not known.

    The votes give bounds only, so the interval is that of `within`, with the error of the estimate, by a
    bootstrap over references, in place of that of the bounds.

    Args:
        kind, items, subsets: as `rows` takes them.
        cluster: (N,) number of what is drawn with replacement.
    """
    value = _ceiling(kind, items, subsets)
    if value is None:
        return None
    (judgment, votes), parts = _columns(kind, items, subsets)
    fewest = min(len(np.unique(cluster[(part & (votes > 0)).numpy()])) for part in parts)
    if fewest < FEWEST:
        return Limit(value, np.nan, np.nan)

    def drawn(times: Floats) -> Floats:
        by_part = [ceiling_draws(judgment[part], votes[part], times[:, part.numpy()]) for part in parts]
        return np.stack(by_part, axis=-1)

    needed = np.ones(len(parts), bool)
    error = resample(drawn, cluster, items["subset"], draws=DRAWS, needed=needed).mean(1).std()
    by_votes = _ceiling(kind, items, subsets, slack=0.0)
    assert by_votes is not None  # as `value` is not
    low, high = within(by_votes.lower, by_votes.upper, float(error), fewest)
    return Limit(value, max(low, 0.0), min(high, 1.0))


def sentence(score: float, data: Any) -> str | None:
    """Say in one line how near a score (the macro mean) comes to what is possible; None if not known."""
    table = data.val_set.table
    value = _ceiling(table.kind.name, table.columns, table.subsets)
    if value is None:
        return None
    estimate, lower, upper = 100 * np.array(value)
    return (
        f"{100 * score:.1f} of at most about {estimate:.1f} (few votes leave open {lower:.1f} to {upper:.1f})"
    )


def with_ceiling(scores: Mapping[str, Mapping[str, float]], data: Any) -> dict[str, Mapping[str, float]]:
    """Scores of methods, with a row of estimated ceilings below them where the votes are known.

    Args:
        scores: as `scoring.score` gives them.
        data: module of the data that they are of.
    """
    row: dict[str, float] = {}
    for number, judged in enumerate(data.val_sets):
        table, kind = judged.table, judged.table.kind.name
        names = [f"{kind}/{name}" if number else name for name in (*table.subsets, "mean", "micro")]
        row |= zip(names, rows(kind, table.columns, table.subsets).get(ESTIMATED, []), strict=False)
    columns = set(next(iter(scores.values()), {}))
    return {**scores, **({ESTIMATED: row} if row and columns <= set(row) else {})}


def _ceiling(kind: str, items: Arrays, subsets: Sequence[str], slack: float = SLACK) -> Ceiling | None:
    """The ceiling of the macro mean; None where it is not known."""
    columns, parts = _columns(kind, items, subsets)
    ceiling = SCORES[kind].ceiling
    if ceiling is None or len(columns) < 2:
        return None
    value = np.mean([ceiling(columns[0][part], columns[1][part], slack) for part in parts], axis=0)
    return None if np.isnan(value).any() else Ceiling(*value.tolist())


def _columns(kind: str, items: Arrays, subsets: Sequence[str]) -> tuple[list[Tensor], list[Tensor]]:
    """Answers and, where they are known, votes, (N,) each; and the masks of the subsets."""
    columns = [torch.from_numpy(items[name]) for name in (KINDS[kind].answer, "votes") if name in items]
    return columns, [torch.from_numpy(items["subset"]) == i for i in range(len(subsets))]


def _row(score: Callable[..., Any], parts: Sequence[Tensor], *columns: Tensor) -> list[float]:
    by_subset = [float(score(*(column[part] for column in columns))) for part in parts]
    return [*by_subset, float(np.mean(by_subset)), float(score(*columns))]
