import numpy as np
import pytest
from scipy import stats
from scipy.optimize import curve_fit

from perceptual.evaluation.opinion_protocol import STATISTICS, logistic_fit_5, opinion_protocol


def ratings(seed: int = 0) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Distances, scores that follow them, on another level for each of twelve references, and these."""
    rng = np.random.default_rng(seed)
    reference = np.repeat(np.arange(12), 8)
    distance = rng.random(96)
    score = 60 / (1 + np.exp(-8 * (distance - 0.5))) + 4 * reference + rng.normal(0, 3, 96)
    return distance, score, reference


def five(x, b1, b2, b3, b4, b5):
    return b1 * (0.5 - 1 / (1 + np.exp(b2 * (x - b3)))) + b4 * x + b5


def test_correlations_are_those_of_scipy():
    distance, score, reference = ratings()
    got = opinion_protocol(distance, score, reference, draws=5)
    assert tuple(got) == STATISTICS
    parts = [(distance[reference == i], score[reference == i]) for i in range(12)]
    for name, scipy in (("srcc", stats.spearmanr), ("krcc", stats.kendalltau)):
        assert got[name]["all"].value == pytest.approx(scipy(distance, score).statistic, abs=1e-9)
        within = np.mean([scipy(d, s).statistic for d, s in parts])
        assert got[name]["within"].value == pytest.approx(within, abs=1e-9)
    assert got["srcc"]["within"].value > got["srcc"]["all"].value  # levels differ between references
    fit = logistic_fit_5(distance, score)
    assert got["plcc5"]["all"].value == pytest.approx(stats.pearsonr(fit, score).statistic, abs=1e-9)
    assert got["rmse5"]["all"].value == pytest.approx(np.sqrt(np.mean((fit - score) ** 2)), abs=1e-9)


def test_fit_of_five_parameters_is_that_of_curve_fit():
    distance, score, _ = ratings(1)
    start = [np.ptp(score), 8, 0.5, 0, score.mean()]
    expected = five(distance, *curve_fit(five, distance, score, start, maxfev=20000)[0])
    found = logistic_fit_5(distance, score)
    assert np.sum((found - score) ** 2) <= np.sum((expected - score) ** 2) * (1 + 1e-6)
    exact = five(distance, 40, 9, 0.4, 5, 2)
    np.testing.assert_allclose(logistic_fit_5(1e3 * distance, exact), exact, atol=1e-4)


def test_turned_scores_turn_the_ranks_and_nothing_else():
    distance, score, reference = ratings(2)
    got = opinion_protocol(distance, score, reference, draws=5)
    turned = opinion_protocol(distance, -score, reference, draws=5)
    for name in ("srcc", "krcc"):
        assert turned[name]["all"].value == pytest.approx(-got[name]["all"].value, abs=1e-9)
    for name in ("plcc4", "plcc5", "rmse4", "rmse5"):
        assert turned[name]["all"].value == pytest.approx(got[name]["all"].value, rel=1e-4)


def test_intervals_draw_references():
    distance, score, reference = ratings(3)
    by_reference = opinion_protocol(distance, score, reference, draws=200)["srcc"]["all"]
    by_image = opinion_protocol(distance, score, np.arange(96), draws=200)["srcc"]
    assert by_reference.low < by_reference.value < by_reference.high
    assert np.isnan(by_image["within"].value)
    assert by_image["all"].low != by_reference.low


def test_what_does_not_vary_has_no_correlation():
    got = opinion_protocol(np.ones(20), np.arange(20.0), np.arange(20))
    assert all(np.isnan(estimate.value) for by in got.values() for estimate in by.values())


def test_draws_that_leave_a_distance_constant_are_drawn_again():
    """A tenth of the draws lack the one reference whose distances differ; they have no correlation."""
    rng, reference = np.random.default_rng(0), np.repeat(np.arange(12), 3)
    distance = np.where(reference < 2, rng.random(36), 0.5)
    got = opinion_protocol(distance, distance + rng.normal(0, 0.05, 36), reference, draws=100)
    assert np.isfinite(np.array([by["all"] for by in got.values()])).all()
    assert got["srcc"]["all"].low > 0  # none of them counts as 0


def test_few_references_have_no_interval():
    distance, score, _ = ratings(3)
    got = opinion_protocol(distance, score, np.arange(96) % 4, draws=20)
    for by in got.values():
        for estimate in by.values():
            assert np.isfinite(estimate.value)
            assert np.isnan([estimate.low, estimate.high]).all()
