"""When an item has votes enough, and its unbiased judgment where that depended on the votes."""

from perceptual.collect.study import Config


def wanted(config: Config, first: int, second: int) -> int:
    """Votes that an item with `first` and `second` votes for its two answers shall have."""
    if not config.stop_when_sure:
        return config.votes_per_item
    asked = first + second
    if asked < config.least_votes:
        return config.least_votes
    if abs(first - second) >= config.least_votes:
        return asked
    return min(config.votes_per_item, asked + 1)
