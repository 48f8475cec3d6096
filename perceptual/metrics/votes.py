"""Votes behind a judgment: how many people were asked, and how many of them chose what is counted."""

from torch import Tensor


def counted(judgment: Tensor, votes: Tensor) -> tuple[Tensor, Tensor]:
    """(k, n), float64 whole numbers (N,) on the CPU: people who preferred p1, and people asked.

    Args:
        judgment: (N,) fraction of people who preferred p1 (of JND pairs: who said "same"), in [0, 1].
        votes: (N,) number of people asked.

    Raises:
        ValueError: shapes differ, votes or judgment · votes are no whole numbers of people for some item, or
            a judgment is outside [0, 1].
    """
    if judgment.ndim != 1 or judgment.shape != votes.shape:
        shapes = f"{tuple(judgment.shape)} and {tuple(votes.shape)}"
        raise ValueError(f"judgment and votes must have one shape (N,), got {shapes}")
    if (outside := int((~((judgment >= 0) & (judgment <= 1))).sum())) > 0:
        raise ValueError(f"judgment must lie in [0, 1], but {outside} of {len(judgment)} do not")
    n = votes.cpu().double()
    if (odd := int((~((n >= 0) & (n == n.round()))).sum())) > 0:
        raise ValueError(f"votes must be whole numbers of people, but {odd} item(s) are not")
    share = judgment.cpu().double() * n
    k = share.round()
    # files print the judgment with a few decimals
    if (fractional := int(((share - k).abs() > 0.05).sum())) > 0:
        raise ValueError(
            f"judgment · votes must be whole numbers of people, but {fractional} item(s) are not"
        )
    return k, n
