"""Two methods on the same items: the difference, its interval, and what would decide it."""

import math

import numpy as np
import pytest
from typer.testing import CliRunner

from perceptual.cli import app as cli
from perceptual.evaluation.compare import compare, difference, sentences
from perceptual.evaluation.results import DataResults, Items, Result
from perceptual.evaluation.statistics import bootstrap

GOOD, BAD = 0.8, 0.7  # share of the items on which a method is right


def write(folder, items=400, seed=0, methods=None, references=None):
    """Results of methods on simulated items: (d0, d1) = (0, 1) where a method prefers p0."""
    rng = np.random.default_rng(seed)
    place = DataResults(folder)
    cluster = np.arange(items) if references is None else np.arange(items) % references
    judgment = np.zeros(items)
    arrays = {"judgment": judgment, "subset": np.zeros(items, int), "cluster": cluster}
    place.write_items(Items("2afc", "2afc-x", str(folder), "simulated", 8, ["all"], [items], arrays=arrays))
    draw = rng.random(items)
    for name, share in (methods or {"ssim": GOOD, "l2": BAD}).items():
        right = draw < share
        place.write(Result(name, arrays={"d0": (~right).astype(float), "d1": right.astype(float)}))
    return place


def test_difference_interval_and_verdict(tmp_path):
    found = compare(write(tmp_path / "x"), "ssim", "l2")
    assert found.difference == pytest.approx(GOOD - BAD, abs=0.04)
    assert found.low < found.difference < found.high
    assert found.decided
    assert found.superiority == 1
    assert "ssim is better" in sentences(found)[-1]
    back = compare(write(tmp_path / "x"), "l2", "ssim")
    assert back.difference == -found.difference
    assert back.superiority == 0
    assert "ssim is better" in sentences(back)[-1]


def test_how_many_more_items_would_decide():
    """As many as it says make the interval end at about 0, of a difference that stays."""
    rng = np.random.default_rng(0)
    # independent errors: equal on most items, one ahead by little
    gain = rng.permutation(np.repeat([1.0, -1.0, 0.0], [60, 50, 890]))
    both = np.stack([0.5 + gain / 2, 0.5 - gain / 2])
    small = bootstrap(both, np.zeros(1000, int), np.arange(1000))
    gap, low, high, superiority, items, needed = difference(small.score[:, 1], small.draws[:, :, 1], 1000)
    assert gap == pytest.approx(0.01)
    assert low < 0 < high
    assert 0.5 < superiority < 0.975
    assert items == 1000
    times = math.ceil(needed / 1000)
    many = np.tile(both, times)
    large = bootstrap(many, np.zeros(1000 * times, int), np.arange(1000 * times))
    _, low, *_ = difference(large.score[:, 1], large.draws[:, :, 1], 1000 * times)
    assert low == pytest.approx(0, abs=0.003)


def test_equal_methods_are_never_decided(tmp_path):
    found = compare(write(tmp_path / "x", methods={"ssim": 0.7, "l2": 0.7}), "ssim", "l2")
    assert found.difference == 0
    assert found.superiority == 0.5
    assert "the scores are equal" in sentences(found)[-1]


@pytest.mark.slow
def test_the_interval_covers_the_true_difference(tmp_path):
    """Items of 100 references, whose difficulty the items share."""
    rng, covers = np.random.default_rng(1), []
    cluster = np.repeat(np.arange(100), 5)
    for _ in range(1000):
        hard = np.repeat(rng.normal(0, 0.08, 100), 5)
        first, second = (rng.random(500) < share + hard for share in (0.75, 0.7))
        both = bootstrap(np.stack([first, second]).astype(float), np.zeros(500, int), cluster, 500)
        _, low, high, *_ = difference(both.score[:, 1], both.draws[:, :, 1], 500)
        covers.append(low <= 0.05 <= high)
    assert 0.93 <= np.mean(covers) <= 0.97


def run(*words):
    return CliRunner().invoke(cli, ["compare", *map(str, words)])


def test_the_command_says_it(tmp_path):
    write(tmp_path / "results/x")
    done = run("ssim", "l2", tmp_path / "results")
    assert done.exit_code == 0, done.output
    first, second, third = done.output.strip().splitlines()
    assert "400 items" in first
    assert "95 % interval" in second
    assert "probability" in second
    assert "ssim is better" in third


def test_a_method_of_several_names(tmp_path):
    place = write(tmp_path / "x", methods={"alexnet-v0.1": 0.8, "runs/last.ckpt@0123abcd": 0.7})
    assert compare(place, "alex", "runs/last.ckpt").names == ("alexnet-v0.1", "runs/last.ckpt@0123abcd")


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("ssim", "fsim"), "no result of 'fsim'; there are l2, ssim"),
        (("ssim", "ssim"), "two different methods are needed"),
    ],
)
def test_what_cannot_be_compared_is_first_line(tmp_path, words, said):
    write(tmp_path / "results/x")
    done = run(*words, tmp_path / "results")
    assert done.exit_code != 0
    assert said in str(done.exception)
    assert "no results in" in str(run(*words, tmp_path / "nowhere").exception)
