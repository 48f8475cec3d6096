"""Early stopping: when an item has enough votes, and what its votes say if they decided that.

Votes over votes are biased where the votes decide when to stop: an item stops the sooner, the clearer its
first votes happen to be. The share of orders of the votes that begin with a vote for p1, among all orders
that end where an item ended, is unbiased under any such rule, and of smallest variance; so is the share that
begins with two votes alike (Girshick, Mosteller, Savage, "Unbiased estimates for certain binomial sampling
problems", Annals of Mathematical Statistics 1946). Under the rule here all orders are possible, but for the
vote that decided: it was for the majority. Without that one, votes over votes are unbiased.
"""

from collections.abc import Iterable
from typing import NamedTuple

from perceptual.collect.study import Config


class Count(NamedTuple):
    """Votes of an item: n, of which k are for p1 (or "same"), and the answer that decided, if one did."""

    n: int
    k: int
    decided: int | None = None

    @property
    def judgment(self) -> float:
        """Unbiased share of people who prefer p1 (or say "same"), in [0, 1]; n is at least 1."""
        n, k = self._in_any_order(1)
        return k / n

    @property
    def agreement(self) -> float | None:
        """Unbiased chance that two people agree; None with fewer than two votes."""
        n, k = self._in_any_order(2)
        return 1 - 2 * k * (n - k) / (n * (n - 1)) if n > 1 else None

    def _in_any_order(self, least: int) -> tuple[int, int]:
        if self.decided is None or self.n <= least:
            return self.n, self.k
        return self.n - 1, self.k - self.decided


def count(config: Config, votes: Iterable[tuple[int, bool]]) -> Count:
    """Count the votes of an item.

    Args:
        config: of the study; where it stops when sure, votes after the one that decided do not count.
        votes: answer, 0 or 1, and whether it counts (False: its participant is excluded, but was asked), in
            order of arrival.
    """
    asked, n, k, decided = [0, 0], 0, 0, None
    for answer, counts in votes:
        if config.stop_when_sure and _stops(config, *asked):
            break
        asked[answer] += 1
        n, k = n + counts, k + counts * answer
        sure = sum(asked) > config.least_votes and 2 * max(asked) > config.votes_per_item
        decided = answer if counts and config.stop_when_sure and sure else None
    return Count(n, k, decided)


def wanted(config: Config, first: int, second: int) -> int:
    """Return how many votes to ask for, given the votes for the two answers so far."""
    if not config.stop_when_sure:
        return config.votes_per_item
    asked = first + second
    return asked if _stops(config, first, second) else max(config.least_votes, asked + 1)


def _stops(config: Config, first: int, second: int) -> bool:
    """Return whether the remaining votes cannot change the majority."""
    least, most = config.least_votes, config.votes_per_item
    return first + second >= most or (first + second >= least and 2 * max(first, second) > most)
