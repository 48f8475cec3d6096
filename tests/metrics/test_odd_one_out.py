"""Odd one out: agreement with people, and their ceiling, against simulated people whose answers are known."""

import numpy as np
import pytest
import torch

from perceptual.evaluation import people
from perceptual.evaluation.statistics import bootstrap
from perceptual.metrics import (
    OddOneOutScore,
    ceiling,
    ceiling_score,
    human_score,
    odd_one_out_agreement,
    two_people_agreement,
)
from perceptual.metrics.odd_one_out import weighted_odd_one_out_score

PEOPLE = {
    "uniform": lambda rng, n: rng.dirichlet((1, 1, 1), n),
    "decided": lambda rng, n: rng.dirichlet((0.4, 0.4, 0.4), n),
    "undecided": lambda rng, n: rng.dirichlet((5, 5, 5), n),
    "one stands out": lambda rng, n: rng.permuted(rng.dirichlet((6, 1, 1), n), axis=1),
    "two are alike": lambda rng, n: np.where(
        rng.random((n, 1)) < 0.5, rng.dirichlet((8, 1, 1), n), rng.dirichlet((3, 3, 1), n)
    ),
}


def panel(rng, p, votes=5):
    return rng.multinomial(votes, p) / votes


def test_agreement_is_the_share_of_those_who_left_out_the_same():
    odd = np.array([[0.25, 0.75, 0], [0.5, 0.25, 0.25], [0, 0.5, 0.5], [0.2, 0.3, 0.5]])
    distances = np.array([[3, 1, 2], [2, np.inf, 2], [1, 1, 1], [5, 4, 3]], float)
    expected = [0.75, 0.375, 1 / 3, 0.5]
    found = odd_one_out_agreement(torch.from_numpy(distances), torch.from_numpy(odd))
    np.testing.assert_allclose(found, expected)
    metric = OddOneOutScore()
    for rows in (slice(0, 3), slice(3, 4)):
        metric.update(*torch.from_numpy(distances[rows]).T, torch.from_numpy(odd[rows]))
    assert metric.compute() == pytest.approx(np.mean(expected), abs=1e-11)
    weights = np.array([[1, 0, 2, 1], [0, 0, 0, 0.0]])
    scores = weighted_odd_one_out_score(distances.T, odd, weights)
    np.testing.assert_allclose(scores, [(weights[0] @ expected) / 4, np.nan])


@pytest.mark.parametrize(
    ("distances", "odd", "said"),
    [
        (torch.rand(2, 3), torch.rand(3, 3), r"one shape \(N, 3\), got \(2, 3\) and \(3, 3\)"),
        (torch.rand(1, 3), torch.tensor([[0.5, 0.5, 0.5]]), "sum to 1, but those of 1 of 1"),
        (torch.tensor([[0, 0, np.nan]]), torch.tensor([[1.0, 0, 0]]), "not be NaN, but those of 1 of 1"),
    ],
)
def test_what_is_no_trio_is_refused(distances, odd, said):
    with pytest.raises(ValueError, match=said):
        odd_one_out_agreement(distances, odd)


def test_people_are_scored_as_by_hand():
    odd = torch.tensor([[0.5, 0.25, 0.25], [0, 0, 1]], dtype=torch.float64)
    assert human_score(odd) == pytest.approx((0.375 + 1) / 2)
    assert ceiling_score(odd) == pytest.approx((0.5 + 1) / 2)
    assert two_people_agreement(odd, torch.tensor([4, 4])) == pytest.approx((2 / 12 + 1) / 2)


def test_the_ceiling_of_two_choices_is_that_of_a_judgment():
    rng = np.random.default_rng(0)
    judgment, votes = torch.from_numpy(rng.binomial(5, rng.random(400)) / 5), torch.full((400,), 5)
    assert ceiling(torch.stack([1 - judgment, judgment], 1), votes) == ceiling(judgment, votes)


@pytest.mark.parametrize("name", PEOPLE)
def test_the_ceiling_finds_what_is_possible(name):
    rng = np.random.default_rng(1)
    p = PEOPLE[name](rng, 3000)
    odd = torch.from_numpy(panel(rng, p))
    found = ceiling(odd, torch.full((len(p),), 5))
    assert abs(found.estimate - p.max(1).mean()) < 0.02
    assert found.lower <= p.max(1).mean() <= found.upper
    assert ceiling_score(odd) - p.max(1).mean() > 0.01


@pytest.mark.slow
@pytest.mark.timeout(1500)
def test_ceilings_and_intervals_contain_the_truth_as_often_as_they_say():
    """300 sets of known people: bounds of the ceiling, its interval, and that of a distance's score."""
    rng, kinds = np.random.default_rng(0), list(PEOPLE.values())
    reach, bounds, intervals, scores = [of(rng, 400_000).max(1).mean() for of in kinds], [], [], []
    for number in range(300):
        # of each reference three trios, alike in how far people agree
        p = kinds[number % 5](rng, 300)
        p = np.repeat(p, 3, axis=0)
        odd = panel(rng, p, 3 + number % 4)
        votes = np.full(len(p), 3.0 + number % 4)
        found = ceiling(torch.from_numpy(odd), torch.from_numpy(votes))
        bounds.append(found.lower <= p.max(1).mean() <= found.upper)
        # on half of them the distance knows, on the others it guesses
        distances = -np.where(rng.random((len(p), 1)) < 0.5, p, rng.random(p.shape))
        subset, cluster = np.zeros(len(p), np.int64), np.arange(len(p)) // 3
        of = bootstrap(
            distances.T[None], subset, cluster, 400, answer=odd, weighted=weighted_odd_one_out_score
        )
        scores.append(of.low[0, 0] <= (reach[number % 5] + 1 / 3) / 2 <= of.high[0, 0])
        items = {"odd": odd, "votes": votes, "subset": subset}
        limit = people.limit("odd-one-out", items, ["all"], cluster)
        intervals.append(limit.low <= reach[number % 5] <= limit.high)
    print(f"bounds {np.mean(bounds):.3f}, ceiling {np.mean(intervals):.3f}, score {np.mean(scores):.3f}")
    for number in range(5):
        print(list(PEOPLE)[number], *(np.mean(each[number::5]) for each in (bounds, intervals, scores)))
    # a standard error of a coverage of 95 % is 1.3 points
    assert min(np.mean(scores), np.mean(bounds), np.mean(intervals)) >= 0.92
