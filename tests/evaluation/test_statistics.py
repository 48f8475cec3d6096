from functools import partial

import numpy as np
import pytest
import torch
from scipy.stats import spearmanr, t

from perceptual.evaluation.statistics import (
    bootstrap,
    clusters,
    ends,
    rank_groups,
    within,
)
from perceptual.metrics import SCORES, jnd_average_precision, opinion_correlations

SIMULATIONS, ITEMS = 1000, 500


def bootstrap_kind(kind, distance, answer, subset, cluster, **how):
    score = SCORES[kind]
    of = {"answer": answer, "weighted": score.weighted, "counting": score.counting(answer)}
    return bootstrap(distance, subset, cluster, **of, **how)


bootstrap_precision, bootstrap_correlation = (partial(bootstrap_kind, kind) for kind in ("jnd", "opinion"))


def simulated_judgments(rng, shape):
    """Agreement as 2AFC has it: right with probability .7 or .65, of five votes."""
    judgment = rng.binomial(5, 0.7, shape) / 5
    return np.where(rng.random(shape) < 0.85, judgment, 1 - judgment)


def covered(intervals, truth):
    return np.mean((intervals.low[:, -1] <= truth) & (truth <= intervals.high[:, -1]))


def test_coverage_of_the_interval_of_a_score():
    rng = np.random.default_rng(0)
    agreement = simulated_judgments(rng, (SIMULATIONS, ITEMS))
    one = np.zeros(ITEMS, int)
    intervals = bootstrap(agreement, one, np.arange(ITEMS))
    assert 0.93 <= covered(intervals, 0.85 * 0.7 + 0.15 * 0.3) <= 0.97


@pytest.mark.parametrize("width", [0, 0.5, 2, 10])
def test_an_interval_of_bounds_holds_what_lies_at_either_end_of_them(width):
    """95 % at the ends, where it is hardest to hold; more between them."""
    moved = np.random.default_rng(0).normal(size=40_000)
    low, high = within(0, width, 1)
    for truth in (0, width / 2, width):
        held = np.mean((moved + low <= truth) & (truth <= moved + high))
        assert held > 0.946
        assert held < 0.954 or truth == width / 2
    assert within(0.3, 0.3, 0.1) == pytest.approx((0.3 - 0.196, 0.3 + 0.196), abs=1e-4)
    assert within(0.3, 0.4, 0) == (0.3, 0.4)
    assert np.isnan(within(0.3, 0.4, np.nan)).all()
    times = within(0.3, 0.3, 1, clusters=5)[1] - 0.3
    assert times == pytest.approx(np.sqrt(5 / 4) * t.ppf(0.975, 4), rel=1e-6)


def test_of_few_clusters_the_interval_holds_what_it_says():
    """Means of ten normal numbers, against the interval that knows nothing of how few they are."""
    rng = np.random.default_rng(0)
    samples = rng.normal(size=(3000, 10))
    means = samples[:, rng.integers(10, size=(400, 10))].mean(2).T  # (draws, sets)
    low, high = ends(means, 10)
    held = np.mean((low <= 0) & (high >= 0))
    assert 0.935 < held < 0.965
    low, high = ends(means)
    assert np.mean((low <= 0) & (high >= 0)) < 0.92
    np.testing.assert_allclose(ends(np.arange(1.0, 41)), [1.025, 39.975])


def test_coverage_of_the_interval_of_a_paired_difference():
    rng = np.random.default_rng(1)
    judgment = rng.binomial(5, 0.7, (SIMULATIONS, ITEMS)) / 5
    difficulty = rng.random((SIMULATIONS, ITEMS))
    first = np.where(difficulty < 0.85, judgment, 1 - judgment)
    second = np.where(difficulty * 0.7 + 0.3 * rng.random((SIMULATIONS, ITEMS)) < 0.8, judgment, 1 - judgment)
    # P(0.7 u + 0.3 v < 0.8) = 1 − P(u' + v' small corner): 1 − (0.2)² / (2 · 0.7 · 0.3)
    truth = (0.85 - (1 - 0.2**2 / (2 * 0.7 * 0.3))) * (0.7 - 0.3)
    one, each = np.zeros(ITEMS, int), np.arange(ITEMS)
    both = bootstrap(np.concatenate([first, second]), one, each)
    draws = both.draws[:, :SIMULATIONS, -1] - both.draws[:, SIMULATIONS:, -1]
    low, high = np.quantile(draws, [0.025, 0.975], axis=0)
    assert 0.93 <= np.mean((low <= truth) & (truth <= high)) <= 0.97
    assert np.mean(high - low) < 0.8 * np.mean(both.high[:SIMULATIONS, -1] - both.low[:SIMULATIONS, -1])


def test_items_that_share_a_reference_are_drawn_together():
    rng = np.random.default_rng(2)
    references, each = 200, 10
    effect = rng.normal(0, 0.15, (SIMULATIONS, references, 1))
    agreement = np.clip(0.6 + effect + rng.normal(0, 0.1, (SIMULATIONS, references, each)), 0, 1)
    agreement = agreement.reshape(SIMULATIONS, -1)
    one = np.zeros(references * each, int)
    by_reference, recur = clusters(np.repeat(np.arange(references) + 7, each))
    assert recur
    clustered = bootstrap(agreement, one, by_reference)
    naive = bootstrap(agreement, one, np.arange(references * each))
    assert 0.93 <= covered(clustered, 0.6) <= 0.97
    assert covered(naive, 0.6) < 0.8


def test_scores_are_means_by_subset_macro_and_micro():
    rng = np.random.default_rng(3)
    agreement, subset = rng.random((3, 60)), rng.permutation(np.repeat([0, 1], [20, 40]))
    result = bootstrap(agreement, subset, rng.integers(0, 15, 60), draws=7)
    by_subset = np.stack([agreement[:, subset == s].mean(1) for s in (0, 1)], axis=1)
    expected = np.column_stack([by_subset, by_subset.mean(1), agreement.mean(1)])
    np.testing.assert_allclose(result.score, expected, atol=1e-12)
    assert result.draws.shape == (7, 3, 4)


def test_a_draw_is_the_mean_over_resampled_clusters():
    agreement, subset = np.arange(18.0)[None], np.zeros(18, int)
    cluster = np.repeat(np.arange(6), 3)
    draws = bootstrap(agreement, subset, cluster, draws=200, seed=5).draws[:, 0, -1]
    # each cluster's mean is 1, 4, 7, 10, 13 or 16, so a mean of six of them is 1 + k/2
    steps = (draws - 1) * 2
    np.testing.assert_allclose(steps, steps.round(), atol=1e-9)
    assert 1 < draws.min() < 8.5 < draws.max() < 16


def test_subsets_that_share_no_reference_are_drawn_apart():
    rng = np.random.default_rng(0)
    subset = np.repeat([0, 1, 2], [40, 12, 12])
    cluster = np.concatenate([np.arange(40), 40 + np.arange(12), 40 + np.arange(12)])  # 1 and 2 share theirs
    ones = bootstrap(np.stack([subset == s for s in range(3)]).astype(float), subset, cluster, draws=50)
    np.testing.assert_allclose(ones.draws[:, 0, -1], 40 / 64)  # each draw has 40 items of subset 0
    np.testing.assert_array_equal(ones.draws[:, 1, -1], ones.draws[:, 2, -1])
    alone = bootstrap(rng.random((2, 40)), np.zeros(40, int), np.arange(40), draws=9, seed=3)
    assert np.ptp(alone.draws, axis=0).min() > 0


def few(kind, rng, references, items, answer):
    """Intervals of three methods on a large subset and a small one, which share no reference."""
    subset = np.repeat([0, 1], [60, items])
    cluster = np.concatenate([np.arange(60), 60 + np.arange(items) % references])
    answers = np.concatenate([rng.integers(0, 5, 60) / 4, answer(items)])
    distance = rng.random((3, 60 + items))
    if kind == "2afc":
        return bootstrap(distance, subset, cluster, draws=200)
    function = bootstrap_precision if kind == "jnd" else bootstrap_correlation
    return function(distance, answers, subset, cluster, draws=200)


ODD = {
    "one item": ("2afc", 1, 1, np.zeros),
    "one reference": ("2afc", 1, 30, np.zeros),
    "four references": ("2afc", 4, 30, np.zeros),
    "nobody said same": ("jnd", 20, 20, np.zeros),
    "same is rare": ("jnd", 20, 20, lambda n: np.eye(1, n, 3)[0]),
    "one pair": ("jnd", 1, 1, np.ones),
    "constant opinions": ("opinion", 20, 20, np.ones),
    "four opinions": ("opinion", 4, 4, np.arange),
    "one reference of opinions": ("opinion", 1, 20, np.arange),
}


@pytest.mark.parametrize("odd", ODD)
def test_of_too_few_nothing_is_said(odd):
    kind, references, items, answer = ODD[odd]
    result = few(kind, np.random.default_rng(1), references, items, answer)
    assert np.isfinite(result.score[:, [0, 3]]).all()
    said = np.isfinite(result.low) & np.isfinite(result.high)
    assert said.tolist() == [[True, False, False, True]] * 3  # the large subset, and all items together
    assert (result.high - result.low)[:, 0].min() > 0
    assert rank_groups(result.score[:, 2], result.draws[:, :, 2]) == [0, 0, 0]
    assert 0 not in rank_groups(result.score[:, 3], result.draws[:, :, 3])


def test_a_subset_that_few_draws_have_is_in_all_that_count():
    subset, cluster = np.repeat([0, 1], [200, 5]), np.concatenate([np.arange(200), np.arange(5)])
    result = bootstrap(np.random.default_rng(2).random((2, 205)), subset, cluster)
    assert np.isfinite(result.draws).all()
    same = np.concatenate([np.ones(200), np.eye(1, 5)[0]])
    assert np.isnan(
        bootstrap_precision(np.random.default_rng(3).random((2, 205)), same, subset, cluster).low[:, 1]
    ).all()


def test_rank_groups_put_together_what_cannot_be_told_apart():
    rng = np.random.default_rng(4)
    noise = rng.normal(0, 0.01, (1000, 1))
    own = rng.normal(0, 0.002, (1000, 4))
    score = np.array([0.60, 0.70, 0.699, 0.601])
    assert rank_groups(score, score + noise + own) == [2, 1, 1, 2]


def test_groups_never_fall_down_the_table():
    """The second is significantly worse than the first; the third, whose draws scatter more, is not."""
    rng = np.random.default_rng(4)
    score = np.array([0.70, 0.69, 0.68])
    draws = score + rng.normal(0, 1, (1000, 3)) * [0, 0.001, 0.05]
    assert rank_groups(score, draws) == [1, 2, 2]


@pytest.mark.parametrize("draws", [1, 999])
def test_the_same_seed_draws_the_same_items(draws):
    agreement, subset = np.random.default_rng(5).random((2, 30)), np.repeat([0, 1], 15)
    first, second = (bootstrap(agreement, subset, np.arange(30), draws, seed=9) for _ in range(2))
    np.testing.assert_array_equal(first.draws, second.draws)


def test_weighted_average_precision_is_that_of_repeated_pairs():
    rng = np.random.default_rng(6)
    distance, same = rng.integers(0, 9, (2, 40)).astype(float), rng.integers(0, 4, 40) / 3
    distance[distance == 0] = -np.inf  # PSNR of equal images, turned round
    subset, cluster = np.repeat([0, 1], 20), np.tile(np.arange(20), 2)
    result = bootstrap_precision(distance, same, subset, cluster, draws=3, seed=7)
    drawn = np.random.default_rng(7).integers(20, size=(3, 20))
    for method in range(2):
        whole = jnd_average_precision(torch.tensor(distance[method]), torch.tensor(same)).item()
        assert result.score[method, -1] == pytest.approx(whole, abs=1e-12)
        for draw in range(3):
            rows = np.concatenate([[i] * np.sum(drawn[draw] == cluster[i]) for i in range(40)]).astype(int)
            expected = jnd_average_precision(torch.tensor(distance[method][rows]), torch.tensor(same[rows]))
            assert result.draws[draw, method, -1] == pytest.approx(expected.item(), abs=1e-12)
    np.testing.assert_allclose(result.score[:, 2], result.score[:, :2].mean(1))


def test_resampled_correlations_are_those_of_repeated_images():
    rng = np.random.default_rng(8)
    distance, score = rng.integers(0, 9, (2, 40)).astype(float), rng.normal(size=40)
    subset, cluster = np.repeat([0, 1], 20), np.tile(np.arange(10), 4)
    result = bootstrap_correlation(distance, score, subset, cluster, draws=3, seed=9)
    drawn = np.random.default_rng(9)
    for draw in range(3):
        references = drawn.integers(10, size=10)
        rows = np.concatenate([np.flatnonzero(cluster == reference) for reference in references])
        for method in range(2):
            expected = spearmanr(distance[method][rows], score[rows]).statistic
            assert result.draws[draw, method, -1] == pytest.approx(expected, abs=1e-12)
            first = rows[subset[rows] == 0]
            expected = spearmanr(distance[method][first], score[first]).statistic
            assert result.draws[draw, method, 0] == pytest.approx(expected, abs=1e-12)


def test_a_constant_distance_has_no_rank_correlation_and_leaves_the_groups_of_the_others():
    rng = np.random.default_rng(8)
    score, subset, cluster = rng.normal(size=40), np.repeat([0, 1], 20), np.arange(40)
    in_one = np.where(subset == 0, 0.5, score)
    distance = np.stack([np.ones(40), in_one, score, -score])
    result = bootstrap_correlation(distance, score, subset, cluster, draws=50)
    for method, silent in enumerate(([0, 1, 2, 3], [0, 2], [], [])):
        for numbers in (result.score, result.low, result.high):
            assert np.flatnonzero(np.isnan(numbers[method])).tolist() == silent
    assert rank_groups(result.score[:, 2], result.draws[:, :, 2]) == [0, 0, 1, 2]
    for column, rows in enumerate((subset == 0, subset == 1)):
        ours = opinion_correlations(torch.from_numpy(in_one[rows]), torch.from_numpy(score[rows])).srcc
        np.testing.assert_allclose(result.score[1, column], ours, atol=1e-12)  # NaN is NaN


def correlated(rng, simulations, items):
    """Normal distances and opinions with Pearson's ρ = .8, hence a known Spearman correlation."""
    distance = rng.normal(size=(simulations, items))
    score = 0.8 * distance + 0.6 * rng.normal(size=(simulations, items))
    return distance, score, 6 / np.pi * np.arcsin(0.8 / 2)


@pytest.mark.slow
@pytest.mark.timeout(1500)
def test_coverage_of_the_interval_of_a_correlation():
    rng = np.random.default_rng(10)
    distance, score, truth = correlated(rng, SIMULATIONS, 150)
    one, each = np.zeros(150, int), np.arange(150)
    covers = []
    for i in range(SIMULATIONS):
        found = bootstrap_correlation(distance[i : i + 1], score[i], one, each, draws=300, seed=i)
        covers.append(found.low[0, -1] <= truth <= found.high[0, -1])
    assert 0.93 <= np.mean(covers) <= 0.97


@pytest.mark.slow
@pytest.mark.timeout(1500)
def test_coverage_of_the_interval_of_average_precision():
    rng = np.random.default_rng(11)

    def pairs(count):
        p = rng.beta(1, 2, count)
        return -p + rng.normal(0, 0.25, count), rng.binomial(3, p) / 3

    distance, same = pairs(400_000)
    truth = jnd_average_precision(torch.from_numpy(distance), torch.from_numpy(same)).item()
    one, each, covers = np.zeros(1000, int), np.arange(1000), []
    for i in range(SIMULATIONS):
        distance, same = pairs(1000)
        found = bootstrap_precision(distance[None], same, one, each, draws=300, seed=i)
        covers.append(found.low[0, -1] <= truth <= found.high[0, -1])
    assert 0.93 <= np.mean(covers) <= 0.97


@pytest.mark.parametrize("subsets", [1, 30])
def test_opinions_that_hardly_differ(subsets):
    """In each subset one image has another opinion, and a third of the draws of that subset lack it."""
    subset, cluster = np.repeat(np.arange(subsets), 20), np.arange(20 * subsets)
    score = np.tile(np.eye(1, 20)[0], subsets)
    result = bootstrap_correlation(
        np.random.default_rng(0).random((2, len(score))), score, subset, cluster, draws=100
    )
    assert np.isfinite(result.score).all()
    # of one subset there are other draws to take, of thirty none in which all say something
    assert np.isfinite(result.low).all() == (subsets == 1)
    assert (0 in rank_groups(result.score[:, -2], result.draws[:, :, -2])) == (subsets == 30)
