import lpips
import numpy as np
import pytest
import reference
import torch

from perceptual.metrics import JNDAveragePrecision, jnd_average_precision


def pairs(seed: int, n: int = 200, grid: int = 12) -> tuple[torch.Tensor, torch.Tensor]:
    """Distances on a coarse grid, so that many are tied, and the votes of three people."""
    generator = torch.Generator().manual_seed(seed)
    distance = torch.randint(0, grid, (n,), generator=generator).double() / 7
    return distance, torch.randint(0, 4, (n,), generator=generator).double() / 3


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("grid", [2, 12, 10**9])
def test_equals_the_definition(seed, grid):
    distance, same = pairs(seed, grid=grid)
    expected = reference.jnd_average_precision(distance.numpy(), same.numpy())
    assert float(jnd_average_precision(distance, same)) == pytest.approx(expected, abs=1e-12)


def test_equals_the_average_precision_of_the_lpips_package_without_ties():
    distance, same = torch.rand(500, generator=torch.Generator().manual_seed(0)).double(), pairs(1, n=500)[1]
    sorted_same = same[distance.argsort()].numpy()
    tp, fp = sorted_same.cumsum(), (1 - sorted_same).cumsum()
    expected = lpips.voc_ap(tp / tp[-1], tp / (tp + fp))
    assert float(jnd_average_precision(distance, same)) == pytest.approx(expected, abs=1e-12)


def test_order_does_not_change_a_bit():
    distance, same = pairs(2, n=500, grid=5)
    order = torch.from_numpy(np.random.default_rng(0).permutation(500))
    assert jnd_average_precision(distance, same) == jnd_average_precision(distance[order], same[order])


def test_constant_distance_scores_the_base_rate():
    _, same = pairs(3)
    score = jnd_average_precision(torch.full_like(same, 0.7), same)
    torch.testing.assert_close(score, same.mean(), rtol=0, atol=1e-12)


def test_perfect_ranking_of_hard_labels_scores_one_and_worst_the_least():
    same = torch.tensor([1.0, 1.0, 0.0, 0.0])
    rank = torch.arange(4.0)
    assert jnd_average_precision(rank, same) == 1
    assert jnd_average_precision(-rank, same) == 0.5


def test_no_pair_called_the_same_is_undefined():
    assert jnd_average_precision(torch.rand(3), torch.zeros(3)).isnan()
    assert jnd_average_precision(torch.zeros(0), torch.zeros(0)).isnan()


def test_metric_over_batches_equals_the_whole():
    distance, same = pairs(4)
    metric = JNDAveragePrecision()
    for batch in (slice(0, 3), slice(3, 3), slice(3, 150), slice(150, 200)):
        value = metric(distance[batch], same[batch])
        torch.testing.assert_close(value, jnd_average_precision(distance[batch], same[batch]), equal_nan=True)
    assert metric.compute() == jnd_average_precision(distance, same)
    metric.reset()
    assert metric(distance, same) == metric.compute()


def test_infinite_distances_are_ranked():
    distance = torch.tensor([-torch.inf, 0.0, torch.inf])
    assert jnd_average_precision(distance, torch.tensor([1.0, 0.0, 0.0])) == 1


@pytest.mark.parametrize("call", [jnd_average_precision, lambda *batch: JNDAveragePrecision()(*batch)])
def test_bad_pairs_are_refused(call):
    same = torch.tensor([0.0, 0.5, 1.0])
    with pytest.raises(ValueError, match=r"one shape \(N,\), got \(3, 1, 1, 1\) and \(3,\)"):
        call(same.view(3, 1, 1, 1), same)
    with pytest.raises(ValueError, match="NaN, but 1 of 3"):
        call(torch.tensor([0.0, torch.nan, 1.0]), same)
    with pytest.raises(ValueError, match=r"same must lie in \[0, 1\], but 1 of 3"):
        call(same, same * 2)
