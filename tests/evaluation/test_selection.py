"""The best of many: its luck, and seeds of one setting."""

import numpy as np
import pytest

from perceptual.evaluation.results import Result
from perceptual.evaluation.selection import average_seeds, corrected
from perceptual.evaluation.statistics import Intervals, bootstrap


def sweep(rng, settings=24, items=400, shared=0.5, lead=0.0):
    """Agreement (settings, items) of settings whose errors partly coincide, and the true score of each."""
    judgment = rng.binomial(5, 0.7, items) / 5
    right = np.full(settings, 0.85)
    right[0] += lead
    alone = rng.random((settings, items)) < shared
    luck = np.where(alone, rng.random(items), rng.random((settings, items)))
    agreement = np.where(luck < right[:, None], judgment, 1 - judgment)
    return agreement, right * 0.7 + (1 - right) * 0.3


def covered(sweeps, items, draws, **kind):
    rng, fixed, naive = np.random.default_rng(0), [], []
    for _ in range(sweeps):
        agreement, true = sweep(rng, items=items, **kind)
        found = bootstrap(
            agreement, np.zeros(items, int), np.arange(items), draws, seed=int(rng.integers(1e9))
        )
        best = found.score[:, 0].argmax()
        picked = corrected(found.score[:, 0], found.draws[:, :, 0])
        fixed.append(picked.low <= true[best] <= picked.high)
        naive.append(found.low[best, 0] <= true[best] <= found.high[best, 0])
    return np.mean(fixed), np.mean(naive)


def test_the_corrected_interval_covers_where_the_other_does_not():
    fixed, naive = covered(100, 300, 200)
    assert fixed >= 0.9
    assert naive < fixed - 0.05


@pytest.mark.slow
@pytest.mark.timeout(1500)
@pytest.mark.parametrize("shared", [0.0, 0.5, 0.8])
def test_coverage_of_five_hundred_sweeps(shared):
    fixed, naive = covered(500, 500, 400, shared=shared)
    assert 0.93 <= fixed <= 0.97
    assert naive < 0.93


def test_a_clear_winner_is_hardly_corrected():
    agreement, _ = sweep(np.random.default_rng(0), lead=0.14)
    found = bootstrap(agreement, np.zeros(400, int), np.arange(400))
    picked = corrected(found.score[:, 0], found.draws[:, :, 0])
    assert picked.score == pytest.approx(found.score[0, 0], abs=0.006)
    assert picked.low == pytest.approx(found.low[0, 0], abs=0.012)


def test_seeds_of_one_setting_are_averaged():
    rows = [
        Result(f"/runs/{n}", settings={"seed": seed, "model.lr": lr})
        for n, (seed, lr) in enumerate([(0, 0.1), (1, 0.1), (0, 0.2), (1, 0.2)])
    ] + [Result("l2")]
    rng = np.random.default_rng(0)
    score, draws = rng.random((5, 3)), rng.random((7, 5, 3))
    averaged, intervals = average_seeds(rows, Intervals(score, draws))
    assert [row.method for row in averaged] == ["/runs/0", "/runs/2", "l2"]
    assert averaged[0].settings == {"model.lr": 0.1}
    assert averaged[0].seeds == 2
    np.testing.assert_allclose(intervals.score, [score[:2].mean(0), score[2:4].mean(0), score[4]])
    np.testing.assert_allclose(intervals.draws[:, 1], draws[:, 2:4].mean(1))


def test_different_settings_stay_apart():
    rows = [Result(str(n), settings={"seed": n, "model.lr": n}) for n in range(2)]
    both = Intervals(np.zeros((2, 3)), np.zeros((4, 2, 3)))
    assert average_seeds(rows, both) == (rows, both)
