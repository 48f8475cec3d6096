"""Odd one out: does a distance leave out the image of three that people leave out?

Hebart et al., "Revealing the multidimensional mental representations of natural objects underlying human
similarity judgements", Nature Human Behaviour 2020, https://doi.org/10.1038/s41562-020-00951-3. The two
images at the smallest distance belong together, and the third is the odd one.
"""

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from perceptual.metrics.two_afc import MeanAgreement, weighted_mean


def odd_one_out_agreement(distances: Tensor, odd: Tensor) -> Tensor:
    """Share of people who chose, on each item, the image that the smallest distance leaves out.

    Args:
        distances: (N, 3) distances of the two images that are left without the first, the second and the
            third; infinite is allowed, NaN is not.
        odd: (N, 3) shares of people who chose each as the odd one, which sum to 1.

    Returns:
        (N,) float64 in [0, 1], on the CPU. Of equally small distances, the mean share.

    Raises:
        ValueError: shapes differ or are not (N, 3), a distance is NaN, or shares are not in [0, 1] or do not
            sum to 1.
    """
    distances, odd = distances.cpu(), odd.cpu().double()
    if distances.ndim != 2 or distances.shape[1] != 3 or distances.shape != odd.shape:
        shapes = f"{tuple(distances.shape)} and {tuple(odd.shape)}"
        raise ValueError(f"distances and odd must have one shape (N, 3), got {shapes}")
    if (missing := int(distances.isnan().any(1).sum())) > 0:
        raise ValueError(f"distances must not be NaN, but those of {missing} of {len(odd)} items are")
    wrong = ~((odd >= 0) & (odd <= 1)).all(1) | ((odd.sum(1) - 1).abs() > 0.01)
    if wrong.any():
        raise ValueError(
            f"odd must be shares in [0, 1] that sum to 1, but those of {int(wrong.sum())} of {len(odd)} "
            "items are not"
        )
    smallest = (distances == distances.amin(1, keepdim=True)).double()
    return (smallest * odd).sum(1) / smallest.sum(1)


def weighted_odd_one_out_score(
    distances: NDArray[np.floating], odd: NDArray[np.floating], weights: NDArray[np.float64]
) -> NDArray[np.float64]:
    """Mean agreement (B,) of distances (3, N) with items counted by their weights (B, N), NaN without."""
    agreement = odd_one_out_agreement(torch.from_numpy(distances.T), torch.from_numpy(odd)).numpy()
    return weighted_mean(agreement[None], odd, weights)


class OddOneOutScore(MeanAgreement):
    """Odd-one-out score over all items seen: see `odd_one_out_agreement`; NaN without items.

    `update(bc, ac, ab, odd)`: distances (N,) of images b and c, a and c, a and b, and the shares (N, 3) of
    people who chose a, b and c.

    Examples:
        >>> import torch
        >>> metric = OddOneOutScore()
        >>> metric.update(*torch.tensor([[0.9], [0.7], [0.2]]), torch.tensor([[0.0, 0.25, 0.75]]))
        >>> metric.compute()
        tensor(0.7500, dtype=torch.float64)

    Args:
        kwargs: of `torchmetrics.Metric`, such as `dist_sync_on_step`.
    """

    def update(self, bc: Tensor, ac: Tensor, ab: Tensor, odd: Tensor) -> None:
        """Add N items: three distances (N,) each, and shares (N, 3)."""
        self.add(odd_one_out_agreement(torch.stack([bc, ac, ab], 1), odd))
