"""When an item has votes enough, and its unbiased judgment where that depended on the votes.

Votes over votes are biased where the votes decide when to stop: an item stops the sooner, the clearer its
first votes happen to be. The share of first votes for p1, among all orders of votes that end where an item
ended, is unbiased under any such rule, and of smallest variance (Girshick, Mosteller, Savage, "Unbiased
estimates for certain binomial sampling problems", Annals of Mathematical Statistics 1946).
"""

from functools import lru_cache

from perceptual.collect.study import Config


def wanted(config: Config, first: int, second: int) -> int:
    """Votes that an item with `first` and `second` votes for its two answers shall have."""
    if not config.stop_when_sure:
        return config.votes_per_item
    asked = first + second
    if _stops(config.least_votes, config.votes_per_item, first, second):
        return asked
    return max(config.least_votes, asked + 1)


def unbiased(config: Config, n: int, k: int) -> float:
    """Judgment of an item with n votes, of which k are for p1 (or "same"), in [0, 1]; n is at least 1.

    k / n, but where votes stopped by `stop_when_sure` it is the unbiased estimate. An item that has another
    number of votes than the rule gives, as when a participant is excluded, keeps k / n.
    """
    if not config.stop_when_sure or wanted(config, n - k, k) != n:
        return k / n
    rule = config.least_votes, config.votes_per_item
    return _paths(*rule, n - k, k, True) / _paths(*rule, n - k, k, False)


@lru_cache(maxsize=4096)
def _paths(least: int, most: int, first: int, second: int, from_second: bool) -> int:
    """Orders of votes that lead to these counts without stopping before; all, or those that begin with p1."""
    if first < 0 or second < 0:
        return 0
    if first + second == 1:
        return int(second == 1) if from_second else 1
    return sum(
        _paths(least, most, *before, from_second)
        for before in ((first - 1, second), (first, second - 1))
        if min(before) >= 0 and not _stops(least, most, *before)
    )


def _stops(least: int, most: int, first: int, second: int) -> bool:
    """Whether the votes that are left up to the most cannot change what the majority says."""
    return first + second >= most or (first + second >= least and 2 * max(first, second) > most)
