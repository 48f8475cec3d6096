"""How good votes are: sentinels, speed, sides and consistency of each participant, and rules to exclude."""

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from perceptual.collect.rows import VoteRow
from perceptual.collect.study import ITEM, REPEAT, SENTINEL
from perceptual.evaluation.intervals import bootstrap

PAUSE_SECONDS = 120  # between two votes, from which the time does not count as work
LEAST_FOR_SIDES = 20  # votes from which "one side only" can be said


@dataclass(frozen=True)
class Rules:
    """Who is left out of an export.

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
        if self.fastest_ms < 0:
            raise ValueError(f"fastest_ms must be at least 0, got {self.fastest_ms}")

    def say(self) -> list[str]:
        """The rules as sentences."""
        return [
            f"missed more than {self.most_missed:.0%} of the sentinels",
            f"had a median response time below {self.fastest_ms:g} ms",
            f"made the same choice in more than {self.most_one_side:.0%} of at least {LEAST_FOR_SIDES} votes",
        ]


class Person(NamedTuple):
    """The votes of one participant in numbers; None where there are none to say it from."""

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


def assess(votes: Sequence[VoteRow], rules: Rules) -> list[Person]:
    """Each participant with a vote, in order."""
    by_person: dict[int, list[VoteRow]] = defaultdict(list)
    for vote in votes:
        if vote.counts:
            by_person[vote.participant].append(vote)
    return [_person(by_person[number], rules) for number in sorted(by_person)]


def _person(votes: list[VoteRow], rules: Rules) -> Person:
    asked = [vote for vote in votes if vote.purpose in (ITEM, REPEAT)]
    sentinels = [vote for vote in votes if vote.purpose == SENTINEL]
    missed = sum(vote.right == "no" for vote in sentinels)
    median = float(np.median([vote.response_ms for vote in asked])) if asked else None
    share = float(np.mean([vote.choice in ("left", "same") for vote in asked])) if asked else None
    first = {vote.item: vote.answer for vote in asked if vote.purpose == ITEM}
    repeats = [vote.answer == first.get(vote.item) for vote in asked if vote.purpose == REPEAT]
    broken = (
        bool(sentinels) and missed / len(sentinels) > rules.most_missed,
        median is not None and median < rules.fastest_ms,
        share is not None and len(asked) >= LEAST_FOR_SIDES and max(share, 1 - share) > rules.most_one_side,
    )
    names = ("sentinels missed", "too fast", "one side only")
    excluded = "; ".join(name for name, is_so in zip(names, broken, strict=True) if is_so)
    return Person(
        votes[0].participant,
        votes[0].external,
        len([vote for vote in asked if vote.purpose == ITEM]),
        len(sentinels),
        missed,
        median,
        share,
        len(repeats),
        sum(repeats),
        excluded,
    )


def tally(votes: Iterable[VoteRow]) -> dict[int, tuple[int, int]]:
    """(n, k) for each item: its votes that count, and those for p1 or "same"."""
    counts: dict[int, list[int]] = defaultdict(lambda: [0, 0])
    for vote in votes:
        if vote.counts and vote.purpose == ITEM:
            counts[vote.item][0] += 1
            counts[vote.item][1] += vote.answer
    return {item: (n, k) for item, (n, k) in sorted(counts.items())}


def summary(votes: Sequence[VoteRow]) -> dict[str, Any]:
    """Votes, agreement of two people, self-consistency, share of the first choice with its interval, speed.

    Agreement is unbiased, over items with two votes or more. The interval draws participants, whose votes are
    not independent. What nothing can be said of is None.
    """
    kept = [vote for vote in votes if vote.counts and vote.purpose == ITEM]
    counts = np.array(list(tally(kept).values()), float).reshape(-1, 2)
    n, k = counts[counts[:, 0] >= 2].T
    agreement = None
    if len(n):
        # here: a server that only asks people starts without torch
        import torch

        from perceptual.metrics.two_afc import two_people_agreement

        agreement = two_people_agreement(torch.from_numpy(k / n), torch.from_numpy(n)).item()
    people = assess(votes, Rules())
    repeats = sum(person.repeats for person in people)
    first = np.array([vote.choice in ("left", "same") for vote in kept], float)
    interval = None
    if len(kept):
        _, person = np.unique([vote.participant for vote in kept], return_inverse=True)
        drawn = bootstrap(first[None], np.zeros(len(first), np.int64), person.astype(np.int64))
        low, high = float(drawn.low[0, -1]), float(drawn.high[0, -1])
        interval = None if np.isnan(low) else (low, high)  # of few participants none can be said
    hours = _hours(votes)
    return {
        "votes": len(kept),
        "items": len(counts),
        "agreement": agreement,
        "consistency": sum(person.consistent for person in people) / repeats if repeats else None,
        "repeats": repeats,
        "first_choice": float(first.mean()) if len(kept) else None,
        "first_choice_interval": interval,
        "median_ms": float(np.median([vote.response_ms for vote in kept])) if kept else None,
        "hours": hours,
        "per_hour": len(kept) / hours if hours else None,
        "shrunk": sum(vote.scale < 1 for vote in kept),
    }


def _hours(votes: Sequence[VoteRow]) -> float:
    """Time that participants worked, without long pauses."""
    by_person: dict[int, list[float]] = defaultdict(list)
    for vote in votes:
        by_person[vote.participant].append(vote.received)
    gaps = [np.diff(sorted(times)) for times in by_person.values()]
    return sum(float(gap[gap < PAUSE_SECONDS].sum()) for gap in gaps) / 3600
