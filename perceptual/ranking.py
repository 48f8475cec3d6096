"""Ranking network: from the pair of distances (d0, d1) to the logit that people prefer p1.

Of three distances or more, to the logits that people find each the smallest: a softmax over −d.

Zhang et al. 2018, section 3 and appendix: a small network on the two distances, their difference and their
ratios, trained with binary cross-entropy against the fraction of people who preferred p1.
"""

from collections.abc import Mapping
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

Ranking = Literal["paper", "antisymmetric", "bounded", "ratio"]


class PaperRanking(nn.Module):
    """The paper's 5→32→32→1 network of 1,281 parameters.

    It is neither antisymmetric nor monotone, so a metric may be learned inverted.
    """

    name: Ranking = "paper"

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Linear(5, 32), nn.LeakyReLU(0.2), nn.Linear(32, 32), nn.LeakyReLU(0.2), nn.Linear(32, 1)
        )

    def forward(self, d0: Tensor, d1: Tensor) -> Tensor:
        """Logit (N,) that p1 is preferred, from d0 = distance(ref, p0) and d1 = distance(ref, p1), (N,)."""
        eps = 0.1
        inputs = torch.stack([d0, d1, d0 - d1, d0 / (d1 + eps), d1 / (d0 + eps)], dim=1)
        logit: Tensor = self.layers(inputs)
        return logit.squeeze(1)


class AntisymmetricRanking(nn.Module):
    """logit = exp(a)·(d0 − d1) with the one parameter a: exchanging p0 and p1 changes its sign.

    The smaller distance is always the preferred one, so the metric cannot be learned inverted. Of K distances
    the logits are −exp(a)·d, whose softmax is the same where K is 2.
    """

    name: Ranking = "antisymmetric"

    def __init__(self) -> None:
        super().__init__()
        self.log_slope = nn.Parameter(torch.zeros(()))

    def forward(self, *distances: Tensor) -> Tensor:
        """Logit (N,) that p1 is preferred, from d0 and d1, (N,) each; logits (N, K) from K > 2 distances."""
        if len(distances) > 2:
            return -self.log_slope.exp() * torch.stack(distances, 1)
        d0, d1 = distances
        return self.log_slope.exp() * (d0 - d1)


class BoundedRanking(AntisymmetricRanking):
    """logit = exp(a)·(d0 − d1) / (d0 + d1): antisymmetric, and the same for distances of any scale.

    It is exp(a)·tanh(½ log(d0 / d1)), so that no triplet costs more than exp(a), however wrong the distance.
    """

    name: Ranking = "bounded"

    def forward(self, *distances: Tensor) -> Tensor:
        """Logit (N,), or logits (N, K), as of `AntisymmetricRanking`, over the sum of the distances."""
        logits, total = super().forward(*distances), sum(distances[1:], distances[0]) + 1e-6
        return logits / (total if logits.ndim == 1 else total[:, None])


class RatioRanking(AntisymmetricRanking):
    """logit = exp(a)·(log d0 − log d1): antisymmetric, and the same for distances of any scale.

    Unlike the bounded one it grows with the ratio, so that a triplet of which the distance is wrongly sure
    costs more.
    """

    name: Ranking = "ratio"

    def forward(self, *distances: Tensor) -> Tensor:
        """Logit (N,), or logits (N, K), as of `AntisymmetricRanking`, from the logarithms of distances."""
        # lin that starts at random may be negative, until the first step projects it
        return super().forward(*((d.clamp(min=0) + 1e-8).log() for d in distances))


RANKINGS: dict[str, type[PaperRanking | AntisymmetricRanking]] = {
    kind.name: kind for kind in (PaperRanking, AntisymmetricRanking, BoundedRanking, RatioRanking)
}


def ranking_loss(logit: Tensor, judgment: Tensor, weight: Tensor | None = None) -> Tensor:
    """Mean cross-entropy of the preference against the soft judgment, a scalar.

    Args:
        logit: (N,) logit that p1 is preferred, or (N, K) logits of K choices.
        judgment: fraction of people who preferred p1, (N,), or who chose each, (N, K), in [0, 1].
        weight: (N,) weight of each item; None: all 1.
    """
    if logit.ndim == 2:
        losses = F.cross_entropy(logit, judgment, reduction="none")
        return (losses if weight is None else losses * weight).mean()
    return F.binary_cross_entropy_with_logits(logit, judgment, weight)


def hinge_loss(
    d0: Tensor, d1: Tensor, judgment: Tensor, margin: float, weight: Tensor | None = None
) -> Tensor:
    """Mean of max(0, margin − (d0 − d1)·s) with s = 1 where most people preferred p1, else −1, a scalar.

    Fu et al. 2023, "DreamSim", https://arxiv.org/abs/2306.09344, section 4.2; there d is 1 − cos.

    Args:
        d0, d1: (N,) distances of p0 and p1 from the reference.
        judgment: (N,) fraction of people who preferred p1, in [0, 1].
        margin: by how much the preferred one is to be nearer.
        weight: (N,) weight of each triplet; None: all 1.
    """
    losses = (margin - (d0 - d1) * (2 * judgment.round() - 1)).clamp(min=0)
    return (losses if weight is None else losses * weight).mean()


def restore(name: str, state: Mapping[str, Tensor], what: str) -> nn.Module:
    """A trained ranking network, in eval mode and frozen.

    Args:
        name: `paper`, `antisymmetric`, `bounded` or `ratio`.
        state: its weights.
        what: the file that they are from, for the error.

    Raises:
        ValueError: an unknown kind, or weights that do not fit it.
    """
    if name not in RANKINGS:
        raise ValueError(f"ranking of {what} must be one of {', '.join(RANKINGS)}, got {name!r}")
    ranking = RANKINGS[name]()
    try:
        ranking.load_state_dict(state)
    except RuntimeError as error:
        raise ValueError(f"weights of {what} do not fit the ranking {name!r}") from error
    return ranking.eval().requires_grad_(False)
