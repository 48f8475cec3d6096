"""Early stopping: the majority of all votes, fewer of them, and judgments without bias."""

from itertools import product

import numpy as np
import pytest
import torch
from studies import vote

from perceptual.collect.quality import summary, tally
from perceptual.collect.stopping import Count, count, wanted
from perceptual.collect.study import Config
from perceptual.metrics.two_afc import majority_accuracy, two_afc_score


def simulate(config, votes):
    """The counts of items whose votes (N, most) come one by one, as the rule asks for them."""
    found = []
    for row in votes.tolist():
        n = 0
        while (more := wanted(config, [n - sum(row[:n]), sum(row[:n])])) > n:
            n = more
        found.append(count(config, [(answer, True) for answer in row[:n]]))
    return found


def rule(most=5, least=1, sure=True):
    return Config(id="x", kind="2afc", votes_per_item=most, least_votes=least, stop_when_sure=sure)


@pytest.mark.parametrize("most", [1, 2, 3, 4, 5, 7])
@pytest.mark.parametrize("least", [1, 2, 4])
@pytest.mark.parametrize("chance", [0.0, 0.1, 0.5, 0.8])
@pytest.mark.parametrize("excluded", [{}, {1: 0}, {0: 1, 3: 0}], ids=["all", "one", "two"])
def test_judgments_and_agreement_are_unbiased(most, least, chance, excluded):
    """Their expectations, over all orders of votes: the chance of a vote for p1, and that of two alike.

    Excluded people, by their place and answer, were asked and counted when the others were asked.
    """
    config, judged, agreed, total = rule(most, min(least, most)), [], [], []
    for number in range(2**most):
        votes = [(number >> i & 1, i not in excluded) for i in range(most)]
        if any(i in excluded and answer != excluded[i] for i, (answer, _) in enumerate(votes)):
            continue
        found = count(config, votes)
        judged.append(found.judgment if found.n else chance)
        agreed.append(found.agreement)
        total.append(np.prod([chance if answer else 1 - chance for answer, kept in votes if kept]))
    assert sum(total) == pytest.approx(1)
    assert np.dot(total, judged) == pytest.approx(chance)
    assert None not in agreed or most < 4
    if None not in agreed:
        assert np.dot(total, agreed) == pytest.approx(chance**2 + (1 - chance) ** 2)


@pytest.mark.parametrize("least", [1, 3])
def test_judgments_of_three_answers_are_unbiased(least):
    chances, most = (0.5, 0.3, 0.2), 5
    config = Config(id="x", kind="odd-one-out", votes_per_item=most, least_votes=least, stop_when_sure=True)
    judged, agreed, total = [], [], []
    for answers in product(range(3), repeat=most):
        found = count(config, [(answer, True) for answer in answers])
        judged.append(found.shares)
        agreed.append(found.agreement)
        total.append(np.prod([chances[answer] for answer in answers]))
    assert np.array(total) @ judged == pytest.approx(chances)
    assert np.dot(total, agreed) == pytest.approx(np.square(chances).sum())
    assert Count((2, 2, 1)).majority == (0.5, 0.5, 0)


@pytest.mark.parametrize("config", [{"sure": True}, {"sure": False}], ids=["sure", "all"])
def test_votes_after_the_one_that_decided_do_not_count(config):
    """Somebody slow, or a rule that was changed later: any votes at all can be counted."""
    for length in range(1, 8):
        for number in range(2**length):
            votes = [(number >> i & 1, True) for i in range(length)]
            found = count(rule(**config), votes)
            assert 0 <= found.judgment <= 1
            stops = [n for n in range(1, length + 1) if count(rule(), votes[:n]).decided is not None]
            assert found.n == (stops[0] if stops and config["sure"] else length)
    assert count(rule(), [(1, True)] * 3 + [(0, True)] * 2) == ((0, 3), 1)


def test_the_majority_is_that_of_all_votes_with_a_quarter_fewer():
    """On people who agree in 71 % of pairs, as on materials; labels and scores are the same."""
    rng = np.random.default_rng(0)
    chance = rng.beta(0.674, 0.674, 20_000)
    votes = (rng.random((20_000, 5)) < chance[:, None]).astype(int)
    stopped = simulate(rule(), votes)
    assert [2 * one.k > one.n for one in stopped] == (votes.sum(1) > 2.5).tolist()
    assert np.mean([one.n for one in stopped]) <= 0.75 * 5  # 3.60
    d0 = torch.from_numpy(rng.normal(chance, 0.4))
    d1 = torch.full_like(d0, 0.5)
    soft = torch.tensor([one.judgment for one in stopped])
    hard = torch.tensor([float(2 * one.k > one.n) for one in stopped])
    assert majority_accuracy(d0, d1, hard) == majority_accuracy(d0, d1, torch.from_numpy(votes.mean(1)))
    truth = two_afc_score(d0, d1, torch.from_numpy(chance))
    assert abs(two_afc_score(d0, d1, soft) - truth) < 0.003
    raw = torch.tensor([one.k / one.n for one in stopped])
    assert two_afc_score(d0, d1, raw) - truth > 0.005  # votes over votes flatter


def test_without_the_option_every_item_gets_all_votes():
    assert wanted(rule(sure=False), [3, 0]) == 5
    assert count(rule(sure=False), [(1, True)] * 3 + [(0, True)]).judgment == 0.75


@pytest.mark.parametrize("shape", [0.2, 0.46, 0.674, 1.0])
@pytest.mark.parametrize(
    ("items", "within"),
    [(2_000, 0.03), pytest.param(40_000, 0.007, marks=pytest.mark.slow)],
    ids=["fast", "slow"],
)
def test_two_people_agree_as_they_do(shape, items, within):
    """With a slow person more at every tenth item, and a tenth of the votes excluded."""
    rng = np.random.default_rng(1)
    chance = rng.beta(shape, shape, items)
    votes, careless = rng.random((items, 6)) < chance[:, None], rng.random((items, 6)) < 0.1
    votes = np.where(careless, rng.random((items, 6)) < 0.5, votes).astype(int)
    rows = []
    for item in range(items):
        n = 0
        while (more := wanted(rule(), [n - votes[item, :n].sum(), votes[item, :n].sum()])) > n:
            n = more
        rows += [
            vote(participant=int(careless[item, i]), item=item, answer=int(votes[item, i]))
            for i in range(n + (item % 10 == 0))
        ]
    truth = 1 - 2 * (chance * (1 - chance)).mean()
    assert abs(summary(rows, rule(), {1})["agreement"] - truth) < within
    judged = np.array([one.judgment for one in tally(rows, rule(), {1}).values()])
    assert abs(judged.mean() - chance.mean()) < within


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
    judged = np.array([one.judgment for one in stopped])
    asked = np.array([one.n for one in stopped]) @ probability.mean(1)
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
