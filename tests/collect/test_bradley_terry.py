"""Rankings of algorithms: the likeliest strengths, without bias, in intervals that cover the truth."""

import numpy as np
import pytest
from scipy.special import expit

from perceptual.collect.bradley_terry import rank, strengths
from perceptual.collect.stopping import count
from perceptual.collect.study import Config


def simulate(rng, algorithms, references, each, sure, most=5):
    """Strengths, and what `rank` takes, of a study with `each` items for every reference."""
    true = rng.normal(0, 1, algorithms)
    pairs = rng.permutation(np.argwhere(~np.eye(algorithms, dtype=bool)))
    a, b = rng.permutation(np.resize(pairs, (references * each, 2))).T
    votes = rng.random((len(a), most)) < expit(true[b] - true[a])[:, None]
    config = Config(id="x", kind="2afc", votes_per_item=most, stop_when_sure=sure)
    counts = [count(config, [(int(vote), True) for vote in row]) for row in votes]
    names = [f"{i:02}" for i in range(algorithms)]
    cluster = np.repeat(np.arange(references), each)
    return true - true.mean(), ([names[i] for i in a], [names[i] for i in b], counts, cluster)


def check(algorithms, references, each, sure, studies, most=5):
    """Slope of the strengths on the truth, and the share of intervals that cover it."""
    rng = np.random.default_rng(algorithms)
    truth, found, covered = [], [], []
    for _ in range(studies):
        true, items = simulate(rng, algorithms, references, each, sure, most)
        ranked = sorted(rank(*items), key=lambda one: one.name)
        truth.append(true)
        found.append([one.strength for one in ranked])
        covered += [one.low <= t <= one.high for one, t in zip(ranked, true, strict=True)]
    truth, found = np.array(truth), np.array(found)
    return (truth * found).sum() / (truth * truth).sum(), np.mean(covered)


@pytest.mark.parametrize("sure", [False, True], ids=["all", "sure"])
@pytest.mark.parametrize(("algorithms", "references", "each"), [(10, 60, 1), (20, 100, 1), (4, 8, 6)])
def test_strengths_are_those_that_made_the_votes(algorithms, references, each, sure):
    """With fewer votes than pairs, too; the slow test below says how well the intervals cover."""
    slope, covered = check(algorithms, references, each, sure, 400 // algorithms)
    assert slope == pytest.approx(1, abs=0.07)
    assert 0.92 <= covered <= 0.985


@pytest.mark.slow
@pytest.mark.timeout(590)
@pytest.mark.parametrize("sure", [False, True], ids=["all", "sure"])
@pytest.mark.parametrize(
    ("algorithms", "references", "each"),
    [(3, 60, 1), (3, 12, 5), (5, 60, 1), (10, 60, 1), (10, 20, 5), (20, 100, 1), (20, 25, 8)],
)
def test_intervals_cover_the_truth(algorithms, references, each, sure):
    slope, covered = check(algorithms, references, each, sure, 6000 // algorithms)
    assert slope == pytest.approx(1, abs=0.04)
    assert 0.93 <= covered <= 0.97


def wins_of(rng, true, games):
    wins = np.zeros((len(true), len(true)))
    for _ in range(games):
        a, b = rng.choice(len(true), 2, replace=False)
        wins[(a, b) if rng.random() < expit(true[a] - true[b]) else (b, a)] += 1
    return wins


def test_strengths_are_the_likeliest():
    """Against SciPy's optimiser on the likelihood times Jeffreys' prior."""
    from scipy.optimize import minimize

    rng = np.random.default_rng(0)
    true = np.array([1.0, 0.2, -0.4, -0.8])
    wins = wins_of(rng, true, 60)

    def unlikely(s):
        chance = expit(s[:, None] - s)
        weight = (wins + wins.T) * chance * chance.T
        information = np.diag(weight.sum(1)) - weight
        return -(wins * np.log(chance)).sum() - np.linalg.slogdet(information[1:, 1:])[1] / 2

    best = minimize(unlikely, np.zeros(4), tol=1e-10).x
    np.testing.assert_allclose(strengths(wins), best - best.mean(), atol=1e-4)
    assert np.isfinite(strengths(np.array([[0.0, 9], [0, 0]]))).all()


def test_many_votes_are_fitted_as_by_choix():
    choix = pytest.importorskip("choix", reason="choix is not installed")
    wins = wins_of(np.random.default_rng(1), np.linspace(-1, 1, 6), 20_000)
    np.testing.assert_allclose(strengths(wins), choix.ilsr_pairwise_dense(wins), atol=2e-3)


def test_items_weigh_and_not_their_votes():
    """Nine clear items, decided by three votes each, are not outvoted by three unclear ones of five."""
    config = Config(id="x", kind="2afc", votes_per_item=5, stop_when_sure=True)
    clear = [count(config, [(1, True)] * 3)] * 9
    unclear = [count(config, [(answer, True) for answer in (0, 1, 0, 1, 0)])] * 3
    cluster = np.arange(12)
    b, a = rank(["a"] * 12, ["b"] * 12, clear + unclear, cluster)
    votes = np.mean([3] * 9 + [5] * 3)
    share = (9 * votes + 3 * votes / 2 + 0.5) / (12 * votes + 1)  # the deciding vote left out, and the prior
    assert (b.name, b.won, b.asked) == ("b", 33, 42)
    assert b.strength - a.strength == pytest.approx(np.log(share / (1 - share)), rel=1e-6)


@pytest.mark.parametrize("references", [1, 4, 5])
def test_algorithms_on_few_references_have_no_intervals(references):
    votes = [count(Config(id="x", kind="2afc"), [(1, True), (1, True), (1, True), (0, True)])] * 20
    found = rank(["a"] * 20, ["b"] * 20, votes, np.arange(20) % references)
    assert [one.name for one in found] == ["b", "a"]
    assert np.isfinite(found[0].strength)
    assert np.isnan(found[0].low) == np.isnan(found[1].high) == (references < 5)


def test_algorithms_that_were_never_compared_are_ranked_apart():
    vote = [count(Config(id="x", kind="2afc"), [(1, True), (0, True), (1, True)])]
    found = rank(["a", "c"] * 8, ["b", "d"] * 8, vote * 16, np.arange(16))
    assert [(one.name, one.group) for one in found] == [("b", 0), ("a", 0), ("d", 1), ("c", 1)]
    assert found[0].strength == pytest.approx(found[2].strength)
    lone = rank(["a"] * 9 + ["c"], ["b"] * 10, vote * 10, np.arange(10))  # c is in one item only
    assert all(np.isnan(one.low) for one in lone)
