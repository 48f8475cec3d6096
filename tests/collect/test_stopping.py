"""Early stopping: the majority of all votes, fewer of them, and judgments without bias."""

import numpy as np
import pytest
import torch

from perceptual.collect.stopping import unbiased, wanted
from perceptual.collect.study import Config
from perceptual.metrics.two_afc import majority_accuracy, two_afc_score


def simulate(config, votes):
    """(n, k) of items whose votes (N, most) come one by one, as the rule asks for them."""
    found = []
    for row in votes:
        n = 0
        while (more := wanted(config, n - row[:n].sum(), row[:n].sum())) > n:
            n = more
        found.append((n, int(row[:n].sum())))
    return found


def rule(most=5, least=1, sure=True):
    return Config(id="x", kind="2afc", votes_per_item=most, least_votes=least, stop_when_sure=sure)


@pytest.mark.parametrize("most", [1, 2, 3, 4, 5, 7])
@pytest.mark.parametrize("least", [1, 2, 4])
@pytest.mark.parametrize("chance", [0.0, 0.1, 0.5, 0.8])
def test_judgments_are_unbiased(most, least, chance):
    """The expected judgment, over all orders of votes, is the chance of a vote for p1."""
    config, expected, total = rule(most, min(least, most)), 0.0, 0.0
    for number in range(2**most):
        votes = np.array([number >> i & 1 for i in range(most)])
        ((n, k),) = simulate(config, votes[None])
        probability = np.prod(np.where(votes, chance, 1 - chance))
        expected, total = expected + probability * unbiased(config, n, k), total + probability
    assert total == pytest.approx(1)
    assert expected == pytest.approx(chance)


def test_the_majority_is_that_of_all_votes_with_a_quarter_fewer():
    """On people who agree in 71 % of pairs, as on materials; labels and scores are the same."""
    rng = np.random.default_rng(0)
    chance = rng.beta(0.674, 0.674, 20_000)
    votes = (rng.random((20_000, 5)) < chance[:, None]).astype(int)
    stopped = simulate(rule(), votes)
    assert [2 * k > n for n, k in stopped] == (votes.sum(1) > 2.5).tolist()
    assert np.mean([n for n, _ in stopped]) <= 0.75 * 5  # 3.60
    d0 = torch.from_numpy(rng.normal(chance, 0.4))
    d1 = torch.full_like(d0, 0.5)
    soft = torch.tensor([unbiased(rule(), n, k) for n, k in stopped])
    hard = torch.tensor([float(2 * k > n) for n, k in stopped])
    assert majority_accuracy(d0, d1, hard) == majority_accuracy(d0, d1, torch.from_numpy(votes.mean(1)))
    truth = two_afc_score(d0, d1, torch.from_numpy(chance))
    assert abs(two_afc_score(d0, d1, soft) - truth) < 0.003
    raw = torch.tensor([k / n for n, k in stopped])
    assert two_afc_score(d0, d1, raw) - truth > 0.005  # votes over votes flatter


def test_without_the_option_every_item_gets_all_votes():
    assert wanted(rule(sure=False), 3, 0) == 5
    assert unbiased(rule(sure=False), 4, 3) == 0.75


@pytest.mark.parametrize(
    ("shape", "agree", "fewer", "larger", "cheaper", "ideal"),
    [  # two people agree on; fewer votes; larger error on the same items; fewer at equal error; at best
        (1.0, 0.667, 0.26, 1.085, 0.13, 0.075),  # as on all of BAPPS
        (0.674, 0.713, 0.28, 1.067, 0.18, 0.13),  # materials
        (0.46, 0.76, 0.30, 1.052, 0.23, 0.21),  # BAPPS's traditional distortions
    ],
)
def test_the_figures_of_the_documentation(shape, agree, fewer, larger, cheaper, ideal):
    """Exactly, over all orders of five votes and a beta distribution of how people divide on an item."""
    from scipy.stats import beta

    chance = beta.ppf((np.arange(2000) + 0.5) / 2000, shape, shape)
    votes = np.array([[number >> i & 1 for i in range(5)] for number in range(32)])
    stopped = simulate(rule(), votes)
    probability = np.where(votes[:, None], chance[:, None], 1 - chance[:, None]).prod(-1)  # (32, items)
    judged = np.array([unbiased(rule(), n, k) for n, k in stopped])
    asked = np.array([n for n, _ in stopped]) @ probability.mean(1)
    error = (probability * np.square(judged[:, None] - chance)).sum(0).mean()
    spread = chance * (1 - chance)
    assert 1 - 2 * spread.mean() == pytest.approx(agree, abs=0.005)
    assert 1 - asked / 5 == pytest.approx(fewer, abs=0.005)
    # of a distance that gets 60 % of the way from chance to the ceiling
    score = 0.5 + 0.6 * (np.maximum(chance, 1 - chance).mean() - 0.5)
    items = 0.25 - spread.mean() - (score - 0.5) ** 2
    stopping, all_votes = items + error, items + spread.mean() / 5
    assert np.sqrt(stopping / all_votes) == pytest.approx(larger, abs=0.005)
    assert 1 - stopping * asked / (all_votes * 5) == pytest.approx(cheaper, abs=0.005)
    assert 1 - np.sqrt(spread).mean() ** 2 / spread.mean() == pytest.approx(ideal, abs=0.005)
