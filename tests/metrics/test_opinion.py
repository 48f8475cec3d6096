import numpy as np
import pytest
import torch
from torchmetrics.functional import kendall_rank_corrcoef, pearson_corrcoef, spearman_corrcoef

from perceptual.metrics import opinion_correlations
from perceptual.metrics.opinion import logistic_fit


def ratings(seed: int, n: int = 80) -> tuple[torch.Tensor, torch.Tensor]:
    """Distances with ties, and scores on 0 … 100 that follow them along an S with noise."""
    rng = np.random.default_rng(seed)
    distance = rng.integers(0, 30, n) / 30
    score = 100 / (1 + np.exp(-10 * (distance - 0.5))) + rng.normal(0, 10, n)
    return torch.from_numpy(distance), torch.from_numpy(score.round())


@pytest.mark.parametrize("seed", range(4))
def test_rank_correlations_equal_those_of_torchmetrics(seed):
    distance, score = ratings(seed)
    got = opinion_correlations(distance, score)
    assert got.srcc == pytest.approx(float(spearman_corrcoef(distance, score)), abs=1e-6)
    assert got.krcc == pytest.approx(float(kendall_rank_corrcoef(distance, score)), abs=1e-6)


@pytest.mark.parametrize("seed", range(4))
def test_fit_is_at_least_as_good_as_a_line(seed):
    distance, score = ratings(seed)
    assert opinion_correlations(distance, score).plcc > float(pearson_corrcoef(distance, score))


@pytest.mark.parametrize("scale", [1e-4, 1.0, 1e4])
@pytest.mark.parametrize("sign", [1, -1])
def test_exact_logistic_is_recovered(scale, sign):
    distance = np.linspace(0, 1, 50)
    score = 20 + 60 / (1 + np.exp(-sign * 12 * (distance - 0.3)))
    np.testing.assert_allclose(logistic_fit(distance * scale, score), score, atol=1e-3)
    assert opinion_correlations(torch.tensor(distance), torch.tensor(score)).plcc == pytest.approx(
        1, abs=1e-6
    )


def test_any_rising_change_of_units_leaves_the_ranks():
    distance, score = ratings(0)
    got, changed = opinion_correlations(distance, score), opinion_correlations(distance.exp(), 3 * score - 7)
    assert changed[:2] == pytest.approx(got[:2], abs=1e-12)


def test_scores_where_larger_is_better_turn_the_sign_of_the_ranks():
    distance, score = ratings(1)
    got, turned = opinion_correlations(distance, score), opinion_correlations(distance, -score)
    assert turned == pytest.approx((-got.srcc, -got.krcc, got.plcc), abs=1e-6)


def test_constant_distance_is_undefined():
    _, score = ratings(0)
    assert all(np.isnan(opinion_correlations(torch.ones_like(score), score)))


def test_bad_items_are_refused():
    distance, score = ratings(0)
    with pytest.raises(ValueError, match=r"at least 5 items, got 4"):
        opinion_correlations(distance[:4], score[:4])
    with pytest.raises(ValueError, match=r"got \(80,\) and \(79,\)"):
        opinion_correlations(distance, score[1:])
    distance[3] = torch.inf
    with pytest.raises(ValueError, match="finite, but 1 of 80"):
        opinion_correlations(distance, score)
