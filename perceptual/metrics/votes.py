"""Votes behind a judgment: how many people were asked, and how many of them chose what is counted."""

import torch
from torch import Tensor


def counted(judgment: Tensor, votes: Tensor) -> tuple[Tensor, Tensor]:
    """(k, n), float64 whole numbers (N, K) and (N,) on the CPU: people who chose each, and people asked.

    Args:
        judgment: (N,) fraction of people who preferred p1 (of JND pairs: who said "same"), in [0, 1], so that
            K is 2; or (N, K) fraction who chose each.
        votes: (N,) number of people asked.

    Raises:
        ValueError: shapes differ, votes or judgment · votes are no whole numbers of people for some item, or
            a judgment is outside [0, 1].
    """
    if judgment.ndim not in (1, 2) or judgment.shape[:1] != votes.shape:
        given = f"{tuple(judgment.shape)} and {tuple(votes.shape)}"
        raise ValueError(f"judgment and votes must have one shape (N,), got {given}")
    if (outside := int((~((judgment >= 0) & (judgment <= 1))).sum())) > 0:
        raise ValueError(f"judgment must lie in [0, 1], but {outside} of {len(judgment)} do not")
    n = votes.cpu().double()
    if (odd := int((~((n >= 0) & (n == n.round()))).sum())) > 0:
        raise ValueError(f"votes must be whole numbers of people, but {odd} item(s) are not")
    share = shares(judgment) * n[:, None]
    k = share.round()
    # files print the judgment with a few decimals
    fits = ((share - k).abs() <= 0.05).all(1) & (k.sum(1) == n)
    if (fractional := int((~fits).sum())) > 0:
        raise ValueError(
            f"judgment · votes must be whole numbers of people, but {fractional} item(s) are not"
        )
    return k, n


def shares(judgment: Tensor) -> Tensor:
    """Fractions (N, K) of people who chose each, float64 on the CPU; 1 − j and j of judgments (N,)."""
    judgment = judgment.cpu().double()
    return judgment if judgment.ndim == 2 else torch.stack([1 - judgment, judgment], 1)
