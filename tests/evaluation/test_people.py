"""Rows about the people: how far they agree, and what that leaves to reach."""

from types import SimpleNamespace

import numpy as np
import pytest
from judged import make_table

from perceptual.data import TWO_AFC
from perceptual.evaluation import people
from perceptual.metrics import ceiling_score


def items(count=3000, subsets=2, seed=0, votes=5):
    rng = np.random.default_rng(seed)
    subset = np.arange(count) % subsets
    p = rng.beta(2, 2 + 4 * subset)  # the second is easier
    judgment = rng.binomial(votes, p) / votes
    arrays = {"judgment": judgment, "votes": np.full(count, float(votes)), "subset": subset}
    return arrays, [np.maximum(p, 1 - p)[subset == i].mean() for i in range(subsets)]


def test_rows_by_subset_with_both_means():
    arrays, true = items()
    found = people.rows("2afc", arrays, ["hard", "easy"])
    estimated, raw = found["ceiling, estimated"], found["ceiling, raw"]
    assert estimated == pytest.approx([*true, np.mean(true), np.mean(true)], abs=0.02)
    assert min(np.subtract(raw, estimated)) > 0.01
    assert list(found) == [
        "a person, own vote included",
        "two people, unbiased",
        "ceiling, raw",
        "ceiling, estimated",
    ]


def test_without_votes_only_what_needs_none():
    arrays, _ = items()
    del arrays["votes"]
    assert list(people.rows("2afc", arrays, ["hard", "easy"])) == [
        "a person, own vote included",
        "ceiling, raw",
    ]
    assert people.limit("2afc", arrays, ["hard", "easy"], np.arange(3000)) is None
    assert people.rows("opinion", {"subset": np.zeros(1)}, ["a"]) == {}


def test_the_interval_of_the_ceiling_is_wider_over_references():
    arrays, true = items(900)
    single = people.limit("2afc", arrays, ["hard", "easy"], np.arange(900))
    assert single.low < np.mean(true) < single.high
    assert 0.002 < single.high - single.low < 0.07
    assert single.low < single.value.lower  # few votes and few references both widen it
    assert single.high > single.value.upper
    # ten copies of every item are no more people
    copied = {name: np.repeat(column, 10) for name, column in arrays.items()}
    clustered = people.limit("2afc", copied, ["hard", "easy"], np.repeat(np.arange(900), 10))
    assert (clustered.low, clustered.high) == pytest.approx((single.low, single.high), abs=1e-6)
    apart = people.limit("2afc", copied, ["hard", "easy"], np.arange(9000))
    assert apart.high - apart.low < 0.8 * (single.high - single.low)


def test_a_subset_of_few_references_leaves_the_ceiling_without_an_interval():
    arrays, _ = items(900)
    cluster = np.where(arrays["subset"] == 1, 0, np.arange(900))
    found = people.limit("2afc", arrays, ["hard", "easy"], cluster)
    assert np.isfinite(found.value.estimate)
    assert np.isnan([found.low, found.high]).all()
    # references that nobody was asked about say nothing
    arrays["votes"][np.flatnonzero(arrays["subset"] == 1)[4:]] = 0
    found = people.limit("2afc", arrays, ["hard", "easy"], np.arange(900))
    assert np.isnan([found.low, found.high]).all()


def module(arrays):
    count = len(arrays["judgment"])
    roles = dict.fromkeys(TWO_AFC.roles, np.zeros(count))
    table = make_table(TWO_AFC, ["a.png"], subsets=["hard", "easy"], **roles, **arrays)
    judged = SimpleNamespace(table=table)
    return SimpleNamespace(val_set=judged, val_sets=[judged])


def test_the_last_line_of_training():
    arrays, true = items()
    said = people.sentence(0.7, module(arrays))
    assert said.startswith("70.0 of at most about ")
    assert float(said.split()[5]) == pytest.approx(100 * np.mean(true), abs=1.5)
    assert people.sentence(0.7, module({**arrays, "votes": None})) is None


def test_the_row_of_a_table():
    arrays, _ = items()
    scores = {"l2": dict.fromkeys(["hard", "easy", "mean", "micro"], 0.6)}
    shown = people.with_ceiling(scores, module(arrays))
    assert list(shown) == ["l2", "ceiling, estimated"]
    assert shown["ceiling, estimated"]["mean"] < ceiling_score_of(arrays)
    assert people.with_ceiling(scores, module({**arrays, "votes": None})) == scores


def ceiling_score_of(arrays):
    import torch

    return ceiling_score(torch.from_numpy(arrays["judgment"])).item()


def test_pairs_have_one_by_simulation():
    rng = np.random.default_rng(0)
    same = rng.binomial(3, rng.beta(1, 3, 2000)) / 3
    arrays = {"same": same, "votes": np.full(2000, 3.0), "subset": np.zeros(2000, int)}
    found = people.rows("jnd", arrays, ["all"])
    assert same.mean() < found["ceiling, estimated"][0] < 1
