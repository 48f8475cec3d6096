"""How far people agree with each other, and what that leaves to reach: the rows beside those of methods."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from perceptual.chance import FEWEST
from perceptual.data.kinds import TWO_AFC
from perceptual.evaluation.results import Arrays
from perceptual.evaluation.statistics import Floats, ends, resample
from perceptual.metrics import (
    Ceiling,
    ceiling,
    ceiling_score,
    human_score,
    jnd_ceiling,
    two_people_agreement,
)
from perceptual.metrics.ceiling import ceiling_draws

ESTIMATED = "ceiling, estimated"
DRAWS = 100  # each a fit of its own


class Limit(NamedTuple):
    """The estimated ceiling of the macro mean, in [0, 1]."""

    value: Ceiling
    low: float
    """Lower end of its 95 % interval, by bootstrap over references; NaN for too few of them in a subset."""
    high: float


def rows(kind: str, items: Arrays, subsets: Sequence[str]) -> dict[str, list[float]]:
    """Rows that say how far the judgments themselves agree: each by subset, then macro mean and micro.

    Without counts of votes only those that need none; no rows for other kinds.

    Args:
        kind: of the items, `2afc`, `jnd` or `opinion`.
        items: arrays of judged items as `results` has them.
        subsets: names that `items["subset"]` counts.
    """
    if kind not in ("2afc", "jnd"):
        return {}
    columns = [
        items["judgment" if kind == "2afc" else "same"],
        *([items["votes"]] if "votes" in items else []),
    ]
    answer, *votes = map(torch.from_numpy, columns)
    parts = [torch.from_numpy(items["subset"]) == i for i in range(len(subsets))]
    if kind == "jnd":
        found = {ESTIMATED: _row(jnd_ceiling, parts, answer, *votes)} if votes else {}
    else:
        found = {"a person, own vote included": _row(human_score, parts, answer)}
        if votes:
            found["two people, unbiased"] = _row(two_people_agreement, parts, answer, *votes)
        found["ceiling, raw"] = _row(ceiling_score, parts, answer)
        if votes:
            found[ESTIMATED] = _row(lambda *one: ceiling(*one).estimate, parts, answer, *votes)
    # nothing to show where nobody was asked
    return {name: row for name, row in found.items() if not np.isnan(row).any()}


def limit(kind: str, items: Arrays, subsets: Sequence[str], cluster: np.ndarray) -> Limit | None:
    """The ceiling of the macro mean, with what votes and sampling leave open; None where it is not known.

    Args:
        kind, items, subsets: as `rows` takes them.
        cluster: (N,) number of what is drawn with replacement.
    """
    if kind != "2afc" or "votes" not in items or not len(items["votes"]):
        return None
    judgment, votes = torch.from_numpy(items["judgment"]), torch.from_numpy(items["votes"])
    parts = [items["subset"] == i for i in range(len(subsets))]
    values = [ceiling(judgment[part], votes[part]) for part in parts]
    if np.isnan(values).any():
        return None

    def drawn(times: Floats) -> Floats:
        by_part = [ceiling_draws(judgment[part], votes[part], times[:, part]) for part in parts]
        return np.stack(by_part, axis=-1)

    needed = np.ones(len(parts), bool)
    low, high = ends(resample(drawn, cluster, items["subset"], draws=DRAWS, needed=needed).mean(1))
    if min(len(np.unique(cluster[part])) for part in parts) < FEWEST:
        low = high = np.nan
    return Limit(Ceiling(*np.mean(values, axis=0).tolist()), float(low), float(high))


def ceilings(data: Any) -> dict[str, dict[str, float]]:
    """A row of estimated ceilings for the table of scores on the validation items of a data module.

    By the names that `scoring.score` gives: subsets, `mean` and `micro`, those of JND pairs with `jnd/`.
    Empty where the votes are not known.
    """
    row: dict[str, float] = {}
    for number, judged in enumerate(data.val_sets):
        table, kind = judged.table, judged.table.kind.name
        prefix = f"{kind}/" if number else ""
        if (found := rows(kind, table.columns, table.subsets).get(ESTIMATED)) is not None:
            row |= {
                prefix + name: value
                for name, value in zip([*table.subsets, "mean", "micro"], found, strict=True)
            }
    return {ESTIMATED: row} if "mean" in row else {}


def sentence(score: float, data: Any) -> str | None:
    """How near a 2AFC score (the macro mean) comes to what is possible, in one line; None if not known."""
    table = data.val_set.table
    if table.kind != TWO_AFC or table.votes is None:
        return None
    judgment, votes = torch.from_numpy(table.answer), torch.from_numpy(table.votes)
    parts = [torch.from_numpy(table.subset == i) for i in range(len(table.subsets))]
    found = np.mean([ceiling(judgment[part], votes[part]) for part in parts], axis=0)
    if np.isnan(found).any():
        return None
    estimate, lower, upper = 100 * found
    return (
        f"{100 * score:.1f} of at most about {estimate:.1f} (few votes leave open {lower:.1f} to {upper:.1f})"
    )


def _row(score: Callable[..., Any], parts: Sequence[Tensor], *columns: Tensor) -> list[float]:
    by_subset = [float(score(*(column[part] for column in columns))) for part in parts]
    return [*by_subset, float(np.mean(by_subset)), float(score(*columns))]


def with_ceiling(scores: Mapping[str, Mapping[str, float]], data: Any) -> dict[str, Mapping[str, float]]:
    """Scores of methods, with the row of `ceilings` below them."""
    columns = set(next(iter(scores.values()), {}))
    return {**scores, **{name: row for name, row in ceilings(data).items() if columns <= set(row)}}
