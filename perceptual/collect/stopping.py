"""Early stopping: when an item has enough votes, and what its votes say if they decided that.

Votes over votes are biased where the votes decide when to stop: an item stops the sooner, the clearer its
first votes happen to be. The share of orders of the votes that begin with a vote for p1, among all orders
that end where an item ended, is unbiased under any such rule, and of smallest variance; so is the share that
begins with two votes alike (Girshick, Mosteller, Savage, "Unbiased estimates for certain binomial sampling
problems", Annals of Mathematical Statistics 1946). Under the rule here all orders are possible, but for the
vote that decided: it was for the majority. Without that one, votes over votes are unbiased. With three
answers it is the same: an item stops where one of them has more than half of all votes that there can be.
"""

from collections.abc import Iterable, Sequence
from typing import NamedTuple

from perceptual.collect.study import Config


class Count(NamedTuple):
    """Votes of an item for each answer, and the answer that decided, if one did."""

    votes: tuple[int, ...]
    decided: int | None = None

    @property
    def n(self) -> int:
        """Number of votes."""
        return sum(self.votes)

    @property
    def k(self) -> int:
        """Votes for p1, or "same"."""
        return self.votes[1]

    @property
    def shares(self) -> tuple[float, ...]:
        """Unbiased shares of people who give each answer; n is at least 1."""
        votes = self._in_any_order(1)
        return tuple(each / sum(votes) for each in votes)

    @property
    def judgment(self) -> float:
        """Unbiased share of people who prefer p1 (or say "same"), in [0, 1]; n is at least 1."""
        return self.shares[1]

    @property
    def majority(self) -> tuple[float, ...]:
        """Shares if all had given the commonest answer; several answers that are as common share alike."""
        most = [each == max(self.votes) for each in self.votes]
        return tuple(each / sum(most) for each in most)

    @property
    def agreement(self) -> float | None:
        """Unbiased chance that two people agree; None with fewer than two votes."""
        votes = self._in_any_order(2)
        n = sum(votes)
        return sum(each * (each - 1) for each in votes) / (n * (n - 1)) if n > 1 else None

    def _in_any_order(self, least: int) -> Sequence[int]:
        if self.decided is None or self.n <= least:
            return self.votes
        return [each - (answer == self.decided) for answer, each in enumerate(self.votes)]


def count(config: Config, votes: Iterable[tuple[int, bool]]) -> Count:
    """Count the votes of an item.

    Args:
        config: of the study; where it stops when sure, votes after the one that decided do not count.
        votes: answer, 0, 1 …, and whether it counts (False: its participant is excluded, but was asked), in
            order of arrival.
    """
    answers = len(config.asked.answers)
    asked, counted, decided = [0] * answers, [0] * answers, None
    for answer, counts in votes:
        if config.stop_when_sure and _stops(config, asked):
            break
        asked[answer] += 1
        counted[answer] += counts
        sure = sum(asked) > config.least_votes and 2 * max(asked) > config.votes_per_item
        decided = answer if counts and config.stop_when_sure and sure else None
    return Count(tuple(counted), decided)


def wanted(config: Config, votes: Sequence[int]) -> int:
    """Return how many votes to ask for, given the votes for each answer so far."""
    if not config.stop_when_sure:
        return config.votes_per_item
    asked = sum(votes)
    return asked if _stops(config, votes) else max(config.least_votes, asked + 1)


def _stops(config: Config, votes: Sequence[int]) -> bool:
    """Return whether the remaining votes cannot change the majority."""
    least, most, asked = config.least_votes, config.votes_per_item, sum(votes)
    return asked >= most or (asked >= least and 2 * max(votes, default=0) > most)
