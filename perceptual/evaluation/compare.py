"""Is one method better than another? The paired difference on the same judged items, in one sentence."""

import math
from collections.abc import Sequence
from pathlib import Path
from statistics import NormalDist
from typing import NamedTuple

from perceptual.chance import FEWEST, LEVEL
from perceptual.evaluation.board import bootstrapped
from perceptual.evaluation.results import DataResults, Items, Result
from perceptual.evaluation.statistics import Floats, ends
from perceptual.names import Method

NORMAL = NormalDist().inv_cdf((1 + LEVEL) / 2)  # standard errors of an interval


class Comparison(NamedTuple):
    """Two methods on the same items; scores and differences of the macro mean, in [0, 1] or correlations."""

    data: Items
    names: tuple[str, str]
    scores: tuple[float, float]
    difference: float
    """The first minus the second."""
    low: float
    """Lower end of its 95 % interval: paired bootstrap over references."""
    high: float
    superiority: float
    """Share of the draws in which the first scores more, ties half: probability that it is the better one."""
    items: int
    needed: float
    """How many items of this kind would take 0 out of the interval if the difference stayed; may be inf."""

    @property
    def decided(self) -> bool:
        """Whether the interval leaves 0 out."""
        return self.low > 0 or self.high < 0


def compare(place: DataResults, first: str, second: str) -> Comparison:
    """Compare two methods that have results on one set of items.

    Args:
        place: the results.
        first, second: names of methods, or paths of checkpoints or runs.

    Raises:
        ValueError: one of them has no result there, or both are the same.
    """
    data, scored = place.items(), place.all()
    one, other = (found(scored, name) for name in (first, second))
    if one.method == other.method:
        raise ValueError(f"two different methods are needed, got {one.method!r} twice")
    intervals, _ = bootstrapped(data, [one.arrays, other.arrays])
    macro = len(data.subsets)
    return Comparison(
        data,
        (one.method, other.method),
        (float(intervals.score[0, macro]), float(intervals.score[1, macro])),
        *difference(intervals.score[:, macro], intervals.draws[:, :, macro], sum(data.counts)),
    )


def difference(score: Floats, draws: Floats, items: int) -> tuple[float, float, float, float, int, float]:
    """Difference, its interval, probability of superiority, items, and items that would decide it.

    Args:
        score: (2,) scores.
        draws: (B, 2) scores of the same draws of items.
        items: number of items.
    """
    gap, drawn = float(score[0] - score[1]), draws[:, 0] - draws[:, 1]
    low, high = ends(drawn)
    superiority = float((drawn > 0).mean() + (drawn == 0).mean() / 2)
    # the standard error falls as one over the root of the number of items
    needed = items * (NORMAL * float(drawn.std()) / abs(gap)) ** 2 if gap else math.inf
    return gap, float(low), float(high), superiority, items, needed


def found(scored: Sequence[Result], name: str) -> Result:
    """The result of a method: by the name results have, one that means it, or a path with or without hash.

    Raises:
        ValueError: there is none.
    """
    method = Method.parse(name)
    wanted = {name, str(method)}
    if method.path or Path(name).exists():
        wanted.add(str(Path(name).absolute()))
    matching = [
        result for result in scored if result.method in wanted or result.method.rpartition("@")[0] in wanted
    ]
    if not matching:
        there = ", ".join(result.method for result in scored) or "none"
        raise ValueError(f"no result of {name!r}; there are {there}")
    if len(matching) > 1:
        several = ", ".join(result.method for result in matching)
        raise ValueError(f"several results of {name!r}: {several}; give one whole")
    return matching[0]


def sentences(compared: Comparison) -> list[str]:
    """The comparison in words, a line each."""
    unit = " %" if compared.data.judged.is_share else ""
    a, b = (
        f"{name} {100 * score:.1f}{unit}" for name, score in zip(compared.names, compared.scores, strict=True)
    )
    low, high, gap = (100 * value for value in (compared.low, compared.high, compared.difference))
    lines = [
        f"{a}, {b} ({compared.items:,} items, {compared.data.description})",
        f"Difference {gap:+.2f} points, 95 % interval {low:+.2f} to {high:+.2f}; "
        f"probability that {compared.names[0]} is the better one {100 * compared.superiority:.1f} %",
    ]
    if compared.decided:
        better = compared.names[0] if gap > 0 else compared.names[1]
        return [*lines, f"{better} is better: the interval leaves 0 out."]
    if math.isnan(compared.low):
        return [
            lines[0],
            f"Nothing can be said: fewer than {FEWEST} references, in all or in one of the subsets.",
        ]
    if math.isinf(compared.needed):
        return [
            *lines,
            "No significant difference, and no number of items would show one: the scores are equal.",
        ]
    more = max(1, math.ceil(compared.needed) - compared.items)
    return [
        *lines,
        f"No significant difference: at this difference about {more:,} more items would decide it.",
    ]
