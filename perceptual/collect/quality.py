"""Quality of votes: sentinels, speed, sides and consistency of each participant; rules to exclude people."""

import math
from collections import Counter, defaultdict
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from itertools import pairwise
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.special import stdtrit

from perceptual.chance import FEWEST, LEVEL
from perceptual.collect.questions import is_first
from perceptual.collect.stopping import Count, count
from perceptual.collect.study import ITEM, REPEAT, SENTINEL, Config
from perceptual.collect.votes import VoteRow

PAUSE_SECONDS = 120  # between two votes, from which the time does not count as work
LEAST_SECONDS = 300  # of work, from which votes per hour can be said
LEAST_FOR_SIDES = 20  # votes from which "one side only" can be said


@dataclass(frozen=True)
class Rules:
    """Rules that exclude participants from an export.

    Args:
        most_missed: share of the sentinels seen that may be missed.
        fastest_ms: median response time below which a participant is too fast.
        most_one_side: share of the votes for one choice, above which a participant looked at one side only.
    """

    most_missed: float = 0.25
    fastest_ms: float = 300.0
    most_one_side: float = 0.95

    def __post_init__(self) -> None:
        for name in ("most_missed", "most_one_side"):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"{name} must be in [0, 1], got {getattr(self, name)}")
        if not 0 <= self.fastest_ms < math.inf:
            raise ValueError(f"fastest_ms must be a number of at least 0, got {self.fastest_ms}")

    def say(self) -> list[str]:
        """Return the rules as sentences."""
        return [
            f"missed more than {self.most_missed:.0%} of the sentinels",
            f"had a median response time below {self.fastest_ms:g} ms",
            f"made the same choice in more than {self.most_one_side:.0%} of at least {LEAST_FOR_SIDES} votes",
        ]


class Person(NamedTuple):
    """Votes of one participant in numbers; None for what no vote tells."""

    participant: int
    external: str
    votes: int
    sentinels: int
    missed: int
    median_ms: float | None
    first_choice: float | None  # share of "left", or of "same"
    repeats: int
    consistent: int
    excluded: str  # the rule, or nothing

    def cells(self) -> dict[str, str]:
        """Return the cells of a table of people, without the name."""
        return {
            "participant": str(self.participant),
            "votes": f"{self.votes:,}",
            "sentinels missed": f"{self.missed} of {self.sentinels}",
            "median time": _seconds(self.median_ms),
            "first choice": _percent(self.first_choice),
            "repeats alike": f"{self.consistent} of {self.repeats}",
            "excluded by the rules": self.excluded,
        }


def assess(votes: Sequence[VoteRow], rules: Rules, everyone: Mapping[int, str] | None = None) -> list[Person]:
    """Each participant with a vote, in order; with `everyone`, names by number, also those without one."""
    by_person: dict[int, list[VoteRow]] = defaultdict(list)
    names = dict(everyone or {})
    for vote in votes:
        if vote.counts:
            by_person[vote.participant].append(vote)
            names[vote.participant] = vote.external
    return [_person(number, names[number], by_person[number], rules) for number in sorted(names)]


def _person(number: int, external: str, votes: list[VoteRow], rules: Rules) -> Person:
    asked = [vote for vote in votes if vote.purpose in (ITEM, REPEAT)]
    sentinels = [vote for vote in votes if vote.purpose == SENTINEL]
    missed = sum(vote.right == "no" for vote in sentinels)
    median = float(np.median([vote.response_ms for vote in asked])) if asked else None
    one_side = sum(is_first(vote.choice) for vote in asked)
    first = {vote.item: vote.answer for vote in asked if vote.purpose == ITEM}
    repeats = [vote.answer == first.get(vote.item) for vote in asked if vote.purpose == REPEAT]
    most = max(Counter(vote.choice for vote in asked).values(), default=0)
    broken = (
        _is_more(missed, len(sentinels), rules.most_missed),
        median is not None and median < rules.fastest_ms,
        len(asked) >= LEAST_FOR_SIDES and _is_more(most, len(asked), rules.most_one_side),
    )
    names = ("sentinels missed", "too fast", "one side only")
    excluded = "; ".join(name for name, is_so in zip(names, broken, strict=True) if is_so)
    return Person(
        number,
        external,
        len([vote for vote in asked if vote.purpose == ITEM]),
        len(sentinels),
        missed,
        median,
        one_side / len(asked) if asked else None,
        len(repeats),
        sum(repeats),
        excluded,
    )


def _is_more(part: int, whole: int, share: float) -> bool:
    """Return whether `part` exceeds a decimal share of `whole`, exactly: 57 of 100 does not exceed 0.57."""
    return part > Fraction(str(share)) * whole


def tally(
    votes: Sequence[VoteRow], config: Config, excluded: Collection[int] = frozenset()
) -> dict[int, Count]:
    """Count the votes of each item, without those of excluded participants.

    Args:
        votes: all of them, in order of arrival; those of excluded participants decided too when to stop.
        config: of the study.
        excluded: numbers of participants.
    """
    by_item: dict[int, list[tuple[int, bool]]] = defaultdict(list)
    for vote in votes:
        if vote.counts and vote.purpose == ITEM:
            by_item[vote.item].append((vote.answer, vote.participant not in excluded))
    counts = {item: count(config, by_item[item]) for item in sorted(by_item)}
    return {item: one for item, one in counts.items() if one.n}


def summary(
    votes: Sequence[VoteRow], config: Config, excluded: Collection[int] = frozenset()
) -> dict[str, Any]:
    """Summarise votes: agreement, self-consistency, share of the first choice with its interval, speed.

    Agreement is unbiased, over items with two votes or more, also where the votes decided when to stop. The
    interval takes participants as independent, not their votes. What nothing can be said of is None.

    Args:
        votes, config, excluded: as in `tally`.
    """
    counts = tally(votes, config, excluded)
    agreements = [one.agreement for one in counts.values() if one.agreement is not None]
    mine = [vote for vote in votes if vote.participant not in excluded]
    kept = [vote for vote in mine if vote.counts and vote.purpose == ITEM]
    people = assess(mine, Rules())
    repeats = sum(person.repeats for person in people)
    first = np.array([is_first(vote.choice) for vote in kept], float)
    hours, per_hour = _pace(mine)
    return {
        "votes": sum(one.n for one in counts.values()),
        "items": len(counts),
        "participants": sum(person.votes > 0 for person in people),
        "agreement": float(np.mean(agreements)) if agreements else None,
        "consistency": sum(person.consistent for person in people) / repeats if repeats else None,
        "repeats": repeats,
        "first_choice": float(first.mean()) if len(kept) else None,
        "first_choice_interval": interval(first, np.array([vote.participant for vote in kept], int)),
        "median_ms": float(np.median([vote.response_ms for vote in kept])) if kept else None,
        "hours": hours,
        "per_hour": per_hour,
        "shrunk": sum(vote.scale < 1 for vote in kept),
    }


def facts(found: Mapping[str, Any], config: Config) -> dict[str, str]:
    """Return the numbers of a `summary` as text, by their headings."""
    between = "too few participants for an interval"
    if found["first_choice_interval"]:
        between = " to ".join(map(_percent, found["first_choice_interval"]))
    per_hour = found["per_hour"]
    return {
        "Two people agree (unbiased, items with two votes or more)": _percent(found["agreement"]),
        f"Same answer when asked again ({found['repeats']:,} repeats)": _percent(found["consistency"]),
        f"{config.asked.choices[0].capitalize()} chosen (95 % interval, by participant)": (
            f"{_percent(found['first_choice'])} ({between})"
        ),
        "Median response time": _seconds(found["median_ms"]),
        "Votes per hour of work": "too little work to say" if per_hour is None else f"{per_hour:,.0f}",
        "Votes on images shown smaller than native": f"{found['shrunk']:,}",
    }


def _percent(value: float | None) -> str:
    return "–" if value is None else f"{value:.1%}"


def _seconds(milliseconds: float | None) -> str:
    return "–" if milliseconds is None else f"{milliseconds / 1000:.2f} s"


def interval(first: NDArray[np.float64], participant: NDArray[np.int64]) -> tuple[float, float] | None:
    """95 % interval of the share of votes (N,) that are 1, by participant; None of too few of them.

    By the jackknife over participants and Student's t distribution (Miller, "The jackknife: a review",
    Biometrika 1974).
    """
    names, person, votes = np.unique(participant, return_inverse=True, return_counts=True)
    people = len(names)
    if people < FEWEST:
        return None
    share = first.mean()
    without = (first.sum() - np.bincount(person, first)) / (len(first) - votes)
    error = math.sqrt(np.square(without - share).sum() * (people - 1) / people)
    half = stdtrit(people - 1, (1 + LEVEL) / 2) * error
    return max(0.0, float(share - half)), min(1.0, float(share + half))


def _pace(votes: Sequence[VoteRow]) -> tuple[float, float | None]:
    """Hours that participants worked, without long pauses, and the votes on items in an hour of work."""
    by_person: dict[int, list[tuple[float, bool]]] = defaultdict(list)
    for vote in votes:
        by_person[vote.participant].append((vote.received, vote.counts and vote.purpose == ITEM))
    seconds, given = 0.0, 0
    for times in by_person.values():
        times.sort()
        for (before, _), (after, is_item) in pairwise(times):
            if after - before < PAUSE_SECONDS:
                seconds, given = seconds + after - before, given + is_item
    return seconds / 3600, 3600 * given / seconds if seconds >= LEAST_SECONDS else None
