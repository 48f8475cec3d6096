"""The ceiling against simulated people, whose true preferences are known."""

import csv
import time

import numpy as np
import pytest
import torch
from scipy.stats import beta

from perceptual.metrics import ceiling, ceiling_score, jnd_average_precision, jnd_ceiling
from perceptual.metrics.ceiling import ceiling_draws

PEOPLE = {
    "uniform": lambda rng, n: rng.random(n),
    "decided": lambda rng, n: rng.beta(0.5, 0.5, n),
    "undecided": lambda rng, n: rng.beta(5, 5, n),
    "skewed": lambda rng, n: rng.beta(2, 6, n),
    "two kinds": lambda rng, n: np.where(rng.random(n) < 0.5, rng.beta(8, 2, n), rng.beta(2, 2, n)),
    "a few easy": lambda rng, n: np.where(rng.random(n) < 0.2, rng.beta(30, 1, n), rng.beta(3, 3, n)),
}


def panel(rng, p, votes):
    n = np.full(len(p), votes) if votes else rng.integers(2, 9, len(p))
    return torch.from_numpy(rng.binomial(n, p) / n), torch.from_numpy(n)


@pytest.mark.parametrize("people", PEOPLE)
def test_it_finds_what_is_possible(people):
    rng = np.random.default_rng(1)
    p = PEOPLE[people](rng, 5000)
    true = np.maximum(p, 1 - p).mean()
    judgment, votes = panel(rng, p, 5)
    found = ceiling(judgment, votes)
    assert abs(found.estimate - true) < 0.015
    assert found.lower <= true <= found.upper
    assert ceiling_score(judgment) - true > 0.01  # the raw one is inflated


def test_the_formula_for_a_known_distribution():
    # p of a beta distribution symmetric about ½: E max(p, 1−p) = 2 ∫ p f(p) over the upper half
    true = 2 * beta(2, 2).expect(lambda p: p, lb=0.5, ub=1)
    rng = np.random.default_rng(0)
    judgment, votes = panel(rng, rng.beta(2, 2, 40_000), 8)
    assert abs(ceiling(judgment, votes).estimate - true) < 0.005


@pytest.mark.slow
def test_two_hundred_simulated_sets():
    rng = np.random.default_rng(0)
    errors, contained = [], []
    for i in range(200):
        p = list(PEOPLE.values())[i % 6](rng, 5000)
        true = np.maximum(p, 1 - p).mean()
        votes = (2, 3, 4, 5, 6, 7, 8, None)[i // 6 % 8]
        found = ceiling(*panel(rng, p, votes))
        contained.append(found.lower <= true <= found.upper)
        five = ceiling(*panel(rng, p, 5))
        errors.append(abs(five.estimate - true))
    assert np.mean(errors) < 0.01
    assert np.mean(contained) >= 0.95


def test_bounds_shrink_with_votes_and_hold_the_estimate():
    rng = np.random.default_rng(2)
    p = rng.beta(2, 2, 3000)
    widths = []
    for votes in (2, 4, 8):
        found = ceiling(*panel(rng, p, votes))
        assert found.lower <= found.estimate <= found.upper
        widths.append(found.upper - found.lower)
    assert widths[0] > 1.5 * widths[1] > 1.5 * widths[2]


def test_of_many_items_in_seconds():
    rng = np.random.default_rng(0)
    judgment, votes = panel(rng, rng.random(36_000), None)
    start = time.perf_counter()
    ceiling(judgment, votes)
    assert time.perf_counter() - start < 5


def test_unanimous_people_leave_all_possible():
    found = ceiling(torch.tensor([0.0, 1.0] * 50), torch.full((100,), 5))
    assert found.estimate > 0.99
    assert found.upper == pytest.approx(1, abs=0.01)


def test_items_that_nobody_saw_do_not_count():
    judgment, votes = torch.tensor([0.0, 1, 0.5, 0.2]), torch.tensor([3, 3, 2, 0])
    assert ceiling(judgment, votes) == ceiling(judgment[:3], votes[:3])
    assert np.isnan(ceiling(judgment[3:], votes[3:])).all()


def test_what_is_no_count_is_refused():
    with pytest.raises(ValueError, match="whole numbers of people, but 1 item"):
        ceiling(torch.tensor([0.3]), torch.tensor([2]))
    with pytest.raises(ValueError, match=r"one shape \(N,\), got \(2,\) and \(1,\)"):
        ceiling(torch.tensor([0.5, 0.5]), torch.tensor([2]))
    with pytest.raises(ValueError, match="votes must be whole"):
        ceiling(torch.tensor([1.0]), torch.tensor([-2.0]))


def test_draws_count_items():
    judgment, votes = torch.tensor([0.0, 0.5, 0.25, 1]), torch.tensor([4, 4, 4, 2])
    twice = ceiling(judgment[[0, 0, 1, 3]], votes[[0, 0, 1, 3]]).estimate
    assert ceiling_draws(judgment, votes, np.array([[2.0, 1, 0, 1]])) == pytest.approx([twice], abs=0.01)


def test_jnd_is_that_of_sorting_by_the_truth():
    rng = np.random.default_rng(0)
    p = rng.beta(1, 3, 6000)
    same, votes = panel(rng, p, 5)
    true = jnd_average_precision(torch.from_numpy(1 - p), same)
    assert abs(jnd_ceiling(same, votes) - true) < 0.02
    assert jnd_ceiling(same, votes) == jnd_ceiling(same, votes)


def test_materials(assets):
    with (assets / "material/triplets.csv").open() as file:
        rows = list(csv.DictReader(file))
    judgment = torch.tensor([float(row["judge"]) for row in rows])
    found = ceiling(judgment, torch.tensor([float(row["votes"]) for row in rows]))
    assert found == pytest.approx((0.800, 0.776, 0.814), abs=0.003)


@pytest.mark.parametrize(("several", "known"), [(99, False), (100, True)])
def test_single_votes_do_not_say_how_people_differ(several, known):
    rng = np.random.default_rng(0)
    votes = np.repeat([2, 1], [several, 3000 - several])
    said = torch.from_numpy(rng.binomial(votes, 0.8) / votes)
    estimate, lower, upper = ceiling(said, torch.from_numpy(votes))
    assert np.isnan(estimate) != known
    assert lower < 0.85
    assert upper == pytest.approx(1, abs=0.01)  # everybody may agree on each item
    assert np.isnan(jnd_ceiling(said, torch.from_numpy(votes))) != known
