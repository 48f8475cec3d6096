"""Trust reports: each number against a distance for which it is known."""

from functools import partial
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from app import refusal, run, write_manifest
from torch import nn
from typer.testing import CliRunner

from perceptual import LPIPS
from perceptual.cli import app as cli
from perceptual.data import ManifestDataModule
from perceptual.distance.attacks import STRENGTHS, Ball, ascend, auto_ascend
from perceptual.evaluation.evaluate import evaluate
from perceptual.evaluation.results import DataResults
from perceptual.evaluation.robustness import trust
from perceptual.evaluation.robustness.report import Robustness, kept, summary


class Distance(nn.Module):
    """(x, y) → (N,) by a function."""

    def __init__(self, function):
        super().__init__()
        self.function = function

    def forward(self, x, y):
        return self.function(x, y)


L2 = Distance(lambda x, y: (x - y).square().mean((1, 2, 3)))
POOLED = Distance(lambda x, y: (x.mean((2, 3)) - y.mean((2, 3))).square().sum(1))


def drawn(count=12, size=24, seed=0):
    generator = torch.Generator().manual_seed(seed)
    ref, p0, p1 = (0.2 + 0.6 * torch.rand(3, count, 3, size, size, generator=generator)).unbind()
    return trust.Triplets(ref, p0, p1)


def test_a_shift_is_nothing_to_pooled_features_and_much_to_pixels():
    """Of textures that people judged by their lightness."""
    ref = drawn(size=64).ref
    judged = trust.Triplets(ref, 0.9 * ref, 0.7 * ref)
    values = {
        name: trust.shifts(distance, judged, torch.Generator().manual_seed(0))
        for name, distance in (("l2", L2), ("pooled", POOLED))
    }
    for pixels in (1, 2, 3):
        # by L2 farther than the images that were judged
        assert values["l2"][f"shift {pixels}: distance"].mean() > 1
        assert values["pooled"][f"shift {pixels}: distance"].mean() < 0.01
        assert values["l2"][f"shift {pixels}: flips"].mean() > 0.1
        assert values["pooled"][f"shift {pixels}: flips"].mean() == 0


def test_a_shift_of_noise_is_as_far_as_another_image():
    values = trust.shifts(L2, drawn(), torch.Generator().manual_seed(0))
    assert values["shift 1: distance"].mean() > 0.9
    assert values["shift 3: distance"].mean() >= values["shift 1: distance"].mean() * 0.9


def test_shifted_windows_have_what_was_beside_them():
    image = torch.arange(24 * 24.0).view(1, 1, 24, 24).expand(2, 3, -1, -1)
    moved = trust._window(image, torch.tensor([(1, 0), (0, -2)]))
    assert moved.shape == (2, 3, 18, 18)
    torch.testing.assert_close(moved[0], image[0, :, 4:22, 3:21])
    torch.testing.assert_close(moved[1], image[1, :, 3:21, 1:19])


@pytest.mark.parametrize("strength", STRENGTHS)
def test_the_attack_on_a_linear_distance_is_its_closed_form(strength):
    """The most that ±ε can add to Σ w (y − x) is ε Σ |w|, in the l2 ball ε ‖w‖, where none leaves [0, 1]."""
    batch = drawn()
    weight = torch.randn(3, 24, 24, generator=torch.Generator().manual_seed(1))
    linear = Distance(lambda x, y: (weight * (y - x)).sum((1, 2, 3)))
    found = trust.attacked(linear, batch, seed=0)
    d0, d1 = trust.decide(linear, batch)
    prefers = (d1 < d0).numpy()
    answers = np.where(np.arange(12) < 6, prefers, ~prefers).astype(np.float32)  # half of them are right
    judged = SimpleNamespace(confident=batch, answers=answers)
    values = trust.attack(linear, judged, STRENGTHS[strength], 0, found)
    np.testing.assert_array_equal(values["clean"], np.arange(12) < 6)
    assert ("attack l2 2/255" in values) == (strength != "fast")
    for ball, (norm, radius) in trust.BALLS.items():
        if f"attack {ball}" not in values:
            continue
        most = weight.abs().sum() if norm == "max" else weight.norm() * weight.numel() ** 0.5
        flips = (torch.minimum(d0, d1) + radius / 255 * most > torch.maximum(d0, d1)).numpy()
        np.testing.assert_array_equal(values[f"attack {ball}"], flips)
        np.testing.assert_array_equal(values[f"right {ball}"], values["clean"] * ~flips)
    assert 0 < values["attack 2/255"].mean() <= values["attack 4/255"].mean()


def test_an_attack_stays_within_its_radius_and_repeats_to_the_bit():
    batch = drawn()
    batch = batch._replace(p0=batch.p0.round(), p1=batch.p1.round())  # at the ends of the range
    first, second = (trust.attacked(L2, batch, seed=3) for _ in range(2))
    nearer, _ = trust._sides(L2, batch)
    for radius in trust.RADII:
        assert torch.equal(first[radius], second[radius])
        assert (first[radius] - nearer).abs().max() <= radius / 255 + 1e-6
        assert 0 <= first[radius].min() <= first[radius].max() <= 1
    starts = [Ball(batch.ref, 0.1).draw(torch.Generator().manual_seed(n)) for n in (3, 4)]
    assert not torch.equal(*starts)


@pytest.mark.slow
def test_apgd_finds_at_least_what_pgd_finds(assets, monkeypatch):
    monkeypatch.setattr(trust, "ATTACKED", 200)
    monkeypatch.setenv("PERCEPTUAL_WEIGHTS", str(assets / "weights"))
    data = ManifestDataModule(str(assets / "material/triplets.csv"), num_workers=0)
    data.setup("validate")
    batch, distance = trust.choose(data.val_set).confident, LPIPS("alexnet")
    nearer, _ = trust._sides(distance, batch)
    found = []
    for attack in (ascend, auto_ascend):
        parts = zip(batch.ref.split(50), nearer.split(50), strict=True)
        moved = [
            attack(partial(distance, ref), Ball(x, 2 / 255), torch.Generator().manual_seed(0), 20)
            for ref, x in parts
        ]
        found.append(trust.apart(distance, batch.ref, torch.cat(moved)))
    assert found[1].mean() > found[0].mean()
    assert (found[1] >= found[0]).float().mean() > 0.9


def test_what_has_no_gradient_is_not_attacked():
    with pytest.raises(TypeError, match="no gradient"):
        trust.attacked(Distance(lambda x, y: L2(x, y).detach()), drawn(), seed=0)


def test_symmetry_and_triangle():
    batch = drawn()
    squared = trust.axioms(L2, batch)
    assert squared["asymmetry"].max() == 0
    rooted = trust.axioms(Distance(lambda x, y: L2(x, y).sqrt()), batch)
    assert rooted["triangle violations"].max() == 0
    between = batch._replace(p0=(batch.ref + batch.p1) / 2)  # a square is more than the sum of its parts'
    assert trust.axioms(L2, between)["triangle violations"].min() == 1
    one_sided = Distance(lambda x, y: (x - y).clamp(min=0).sum((1, 2, 3)))
    assert trust.axioms(one_sided, batch)["asymmetry"].mean() > 0


def test_order_is_the_rank_correlation_with_severity():
    images = torch.rand(2, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    worse = {"darker": [images * (1 - severity / 2) for severity in trust.SEVERITIES]}
    judged = SimpleNamespace(references=images, worse=worse)
    assert trust.order(L2, judged)["order darker"].tolist() == pytest.approx([1, 1])
    assert trust.order(Distance(lambda x, y: -L2(x, y)), judged)["order darker"].tolist() == pytest.approx(
        [-1, -1]
    )
    assert np.isnan(trust.order(Distance(lambda x, y: 0 * L2(x, y)), judged)["order darker"]).all()


@pytest.fixture
def few(monkeypatch):
    for name, count in {"ITEMS": 12, "ATTACKED": 6, "ORDERED": 2, "SEVERITIES": (0.3, 1.0)}.items():
        monkeypatch.setattr(trust, name, count)


def test_reports_are_kept_and_repeat(tmp_path, few, monkeypatch):
    data = ManifestDataModule(write_manifest(tmp_path / "data"), num_workers=0, size=32)
    data.setup("validate")

    def report(methods, folder):
        return evaluate(methods, data, tmp_path / folder, study=Robustness(data))

    _, _, found, lost = report(["l2", "ssim", "nothing"], "one")
    assert [one.method for one in found] == ["l2", "ssim"]
    assert "unknown method" in lost["nothing"]
    again = report(["ssim", "l2"], "two").found
    np.testing.assert_equal(
        {one.method: one.trust for one in found}, {one.method: one.trust for one in again}
    )
    for one in found:
        assert {"shift 1", "JPEG 95", "attack 2/255", "order", "triangle"} <= set(one.trust)
        for column, (value, low, high) in one.trust.items():
            assert low <= value <= high or column == "order"
        assert np.isnan(one.trust["order"][1:]).all()  # two references say nothing about others
    monkeypatch.setattr(trust, "examine", None)  # what is there is not made again
    assert repr(report(["l2"], "one").found) == repr(found[:1])
    (place,) = (tmp_path / "one").iterdir()
    (place / "trust/l2-standard").rename(place / "trust/psnr-standard")
    for ask in (lambda: report(["psnr"], "one"), lambda: kept(DataResults(place))):
        with pytest.raises(ValueError, match="trust/psnr-standard holds the result of another method, 'l2'"):
            ask()


def test_the_applications(tmp_path, few, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    write_manifest(tmp_path / "data")
    words = ["data=manifest", "data.path=data/triplets.csv", "data.size=32", "robustness=true"]
    run("evaluate.py", *words, "methods=[l2,psnr]", monkeypatch=monkeypatch)
    said = capsys.readouterr().out
    assert "Trust     l2: flips by shift 1" in said
    (place,) = Path("results").iterdir()
    text = (place / "trust.md").read_text()
    assert "| l2 |" in text
    assert "(too few)" in text
    assert "nan" not in text + said
    assert (place / "trust.png").stat().st_size > 10_000
    run("evaluate.py", *words[:3], "methods=[l2]", monkeypatch=monkeypatch)
    done = CliRunner().invoke(
        cli, ["leaderboard", "results", "-o", "all.md", "--trust", "--plots", "pictures"]
    )
    assert done.exit_code == 0, done.output
    assert "### Trust" in Path("all.md").read_text()
    assert list(Path("pictures").glob("trust-*.png"))
    refused = CliRunner().invoke(cli, ["leaderboard", "results", "-o", "all.html", "--trust"])
    assert "must end in .md" in str(refused.exception)


def test_what_is_refused(tmp_path, few, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    write_manifest(tmp_path / "data")
    words = ["data=manifest", "data.path=data/triplets.csv", "data.size=8", "robustness=true", "methods=[l2]"]
    assert "too small to be shifted" in refusal("evaluate.py", *words, monkeypatch=monkeypatch, capsys=capsys)
    assert kept(DataResults(tmp_path)) == []


def test_references_of_which_a_distance_is_constant_have_no_part_in_its_order():
    judged = SimpleNamespace(clusters=np.arange(3), confident_clusters=np.arange(3))
    values = {"order darker": np.array([1, np.nan, 0.5]), "order blur": np.array([0.5, np.nan, np.nan])}
    row = summary({**values, "order none": np.full(3, np.nan)}, judged)
    assert row["trust"]["order"][0] == pytest.approx((0.75 + 0.5) / 2)
    np.testing.assert_equal(row["order"], {"darker": 0.75, "blur": 0.5, "none": np.nan})
