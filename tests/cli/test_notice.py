"""How many people notice a distance, beside SciPy and simulated people."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from scipy.optimize import minimize
from scipy.stats import binom

from perceptual.distance.noticed import Noticed
from perceptual.evaluation.notice import fit

TRUTH = {"threshold": 0.15, "slope": 1.8, "floor": 0.05, "ceiling": 0.95}


def share(d, threshold, slope, floor, ceiling):
    return floor + (ceiling - floor) / (1 + (threshold / d) ** slope)


def people(seed, pairs=400, votes=3):
    """Distances, shares of "same" and votes of simulated people; ten pairs of each reference."""
    rng = np.random.default_rng(seed)
    d, votes = np.exp(rng.normal(-2, 1.2, pairs)), np.full(pairs, votes)
    return d, 1 - rng.binomial(votes, share(d, **TRUTH)) / votes, votes, np.arange(pairs) // 10


def test_the_curve_is_the_likeliest_one():
    d, same, votes, _ = people(1, pairs=200)  # fewer than bins: no pair is moved
    found = fit(d, same, votes, draws=2).noticed
    noticed = np.round(votes * (1 - same))

    def loss(theta):
        threshold, slope = np.exp(theta[:2])
        return -binom.logpmf(noticed, votes, share(d, threshold, slope, *theta[2:])).sum()

    bounds = [(None, None), (-3, 4), (1e-4, 0.5), (0.5, 1 - 1e-4)]
    theirs = minimize(loss, [-2, 0.5, 0.1, 0.9], method="L-BFGS-B", bounds=bounds)
    ours = [found.threshold, found.slope, found.floor, found.ceiling]
    np.testing.assert_allclose(ours, [*np.exp(theirs.x[:2]), *theirs.x[2:]], rtol=2e-3)
    wanted = share(d, *ours)
    np.testing.assert_allclose(found.share(torch.from_numpy(d)), wanted, rtol=1e-9)
    assert found.share(0.0) == found.floor
    assert found.distance(float(share(0.3, *ours))) == pytest.approx(0.3)
    with pytest.raises(
        ValueError, match=r"must lie between .*, the floor and the ceiling of the fit, got 0\.1%"
    ):
        found.distance(0.001)


def test_equal_images_count_for_the_floor_and_pairs_without_votes_count_once():
    d, same, _, _ = people(2, pairs=500)
    d[:200], same[:200] = 0, np.arange(200) % 4 != 0  # a quarter notice nothing
    found = fit(d, same, draws=2).noticed
    assert found.floor == pytest.approx(0.2, abs=0.05)  # small distances are noticed by 5 %
    assert (found.pairs, found.low is not None) == (500, True)
    assert fit(*people(2)[:3], np.zeros(400, int), draws=2).noticed.low is None  # of one reference


@pytest.mark.parametrize(
    ("change", "error"),
    [
        (lambda d, same: (d, same * 0 + 1), "everybody called every pair the same: no fit"),
        (lambda d, same: (d, same * 0), "everybody called every pair different: no fit"),
        (lambda d, same: (d * 0 + 0.3, same), "all pairs have one distance: no fit"),
        (lambda d, same: (d * 0, same), "all pairs have one distance: no fit"),
        (lambda d, same: (d, same[::-1] * 0 + np.arange(400) % 2), "does not depend on the distance"),
        (lambda d, same: (1 / d, same), "does not depend on the distance"),
        (lambda d, same: (-d, same), "some are negative or not finite"),
        (lambda d, same: (d * np.nan, same), "some are negative or not finite"),
    ],
)
def test_where_the_pairs_say_nothing_there_is_no_fit(change, error):
    d, same, votes, references = people(0)
    with pytest.raises(ValueError, match=error):
        fit(*change(d, same), np.ones(400) if "depend" in error else votes, references)


@pytest.mark.slow
@pytest.mark.timeout(1500)
def test_intervals_cover_simulated_people():
    """500 sets; the standard error of a coverage of 95 % is one point."""
    covered, middle = [], []
    for seed in range(500):
        found = fit(*people(seed), draws=200)
        truth = share(found.distances, **TRUTH)
        inside = (found.low <= truth) & (truth <= found.high)
        curve = found.noticed
        covered.append([curve.low <= TRUTH["threshold"] <= curve.high, *inside[[20, 40, 50, 60, 80]]])
        middle.append(curve.threshold)
    print("threshold, then shares along the curve:", np.mean(covered, axis=0))
    assert (np.mean(covered, axis=0) > 0.92).all()
    assert np.median(middle) == pytest.approx(TRUTH["threshold"], rel=0.03)


def test_the_command_keeps_the_fit_and_others_say_it(shell, folder, draw, weights):
    """From the votes to the card, and the gate by the share of people."""
    from perceptual import LPIPS

    rng, rows = np.random.default_rng(0), ["p0,p1,same,votes"]
    metric = LPIPS("alexnet")
    for i in range(40):
        x = draw(f"x{i}.png", i).astype(float)
        y = np.clip(x + rng.normal(0, np.exp(rng.uniform(0, 4.5)), x.shape), 0, 255).astype(np.uint8)
        Image.fromarray(y).save(f"y{i}.png")
        images = (torch.from_numpy(image.astype(np.uint8)).permute(2, 0, 1)[None] for image in (x, y))
        p = share(metric(*images).item(), **TRUTH | {"threshold": 0.05})
        rows.append(f"x{i}.png,y{i}.png,{1 - rng.binomial(20, p) / 20},20")
    Path("people.csv").write_text("\n".join(rows))
    assert shell("export", "alexnet", "mine")[0] == 0
    words = ("notice", "./mine", "data.root=people.csv", "data.size=null")
    code, out, err = shell(*words)
    assert (code, err) == (0, "")
    assert out.endswith("notice.png · kept in mine\n")
    saved = LPIPS.from_pretrained("mine", outside="fill")
    assert saved.outside == "fill"
    curve = saved.curve
    assert curve == Noticed(**json.loads(Path("mine/config.json").read_text())["record"]["noticed"])
    assert 0.02 < curve.threshold < 0.12
    assert curve.sentence(curve.threshold) in Path("mine/README.md").read_text()
    assert saved.noticed(torch.tensor([0.0, 1e9])).tolist() == pytest.approx([curve.floor, curve.ceiling])
    with pytest.raises(ValueError, match="no fit is saved with this distance"):
        metric.noticed(0.1)
    _, out, _ = shell("distance", "x0.png", "y0.png", "-m", "./mine")
    assert out == f"{out.split(',')[0]}, which {curve.sentence(float(out.split(',')[0]))}\n"
    for i in range(3):
        for side in "ab":
            draw(f"{side}/{i}.png", i)
    draw("b/1.png", 9)
    _, out, _ = shell("dirs", "a", "b", "-m", "./mine")
    said = out.splitlines()[-1]
    greatest = float(said.split()[1].rstrip(","))
    assert said == f"greatest {greatest:.4g}, which {curve.sentence(greatest)}"
    assert "people notice" not in shell("dirs", "a", "b", "-m", "l2")[1]
    code, _, err = shell("dirs", "a", "b", "-m", "./mine", "--fail-above-noticed", "20%")
    assert (code, err.split()[2:3]) == (3, ["1.png"])
    assert float(err.split()[1].rstrip(":")) == pytest.approx(curve.distance(0.2), rel=1e-5)
    for words, error in (
        (["dirs", "a", "b", "--fail-above-noticed", "0.2"], "it is not known how many people notice"),
        (["dirs", "a", "b", "-m", "./mine", "--fail-above-noticed", "x"], "must be a share such as 20%"),
        (["dirs", "a", "b", "--fail-above-noticed", "0.2", "--fail-above", "1"], "two limits: give one"),
        (["notice", "./mine", "root=x"], "by data.KEY=VALUE"),
        (["notice", "./mine", "data.root=people.csv", "data.sise=3"], "sise"),
        (["notice", "./mine", "data.root=nowhere"], "no manifest nowhere"),
    ):
        code, _, err = shell(*words)
        assert code == 1
        assert error in err
