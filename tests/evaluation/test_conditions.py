"""Conditions: every one changes images, a distance that ignores it keeps its score."""

import json
import re
from pathlib import Path

import numpy as np
import pytest
import torch
from app import refusal, run, write_manifest
from judged import pixels
from torch import nn

from perceptual import LPIPS, Backbone
from perceptual.data import ManifestDataModule
from perceptual.evaluation import methods as methods_of
from perceptual.evaluation.robustness import conditions
from perceptual.evaluation.robustness.conditions import CONDITIONS, score_under


@pytest.mark.parametrize("name", CONDITIONS)
def test_a_condition_gives_other_images_in_the_range(name):
    images = torch.rand(2, 3, 40, 40, generator=torch.Generator().manual_seed(0))
    changed = CONDITIONS[name](images)
    assert 0 <= changed.min() <= changed.max() <= 1
    assert changed.shape[:2] == images.shape[:2]
    assert (changed.shape != images.shape or not torch.equal(changed, images)) == (name != "as judged")
    torch.testing.assert_close(CONDITIONS[name](images), changed)  # noise too


@pytest.mark.parametrize(("name", "axis"), [("lit from the left", 3), ("lit from above", 2)])
def test_light_from_a_side(name, axis):
    changed = CONDITIONS[name](torch.full((1, 3, 8, 12), 0.5))
    along = changed.transpose(axis, 3)[0, 0].double()
    expected = 0.5 * np.linspace(1.5, 0.35, changed.shape[axis])
    np.testing.assert_allclose(along, np.broadcast_to(expected, along.shape), atol=1e-6)


class Contrast(nn.Module):
    """Contrast of the difference, blind to a factor on all images."""

    def forward(self, x, y):
        return ((x - y) / x.std((1, 2, 3), keepdim=True)).square().mean((1, 2, 3))


def test_scores_under_conditions(tmp_path):
    data = ManifestDataModule(write_manifest(tmp_path), size=32, num_workers=0, val_fraction=1)
    data.setup("validate")
    scores = score_under({"l2": methods_of.build("l2"), "contrast": Contrast()}, data.val_set)
    for by in scores.values():
        assert list(by) == [*CONDITIONS, "mean"]
        assert by["mean"] == pytest.approx(np.mean(list(by.values())[:-1]))
    assert scores["contrast"]["exposure × 0.5"] == scores["contrast"]["as judged"]
    table = data.val_set.table
    shown = pixels(table)[table.items].double() / 255
    d0, d1 = ((shown[0] - shown[i]).square().mean((1, 2, 3)).numpy() for i in (1, 2))
    expected = np.where(d0 < d1, 1 - table.answer, np.where(d1 < d0, table.answer, 0.5)).mean()
    assert scores["l2"]["as judged"] == pytest.approx(expected, abs=1e-6)


def test_shared_features_give_the_distances_of_pairs(tmp_path, monkeypatch):
    data = ManifestDataModule(write_manifest(tmp_path), size=32, num_workers=0, val_fraction=1)
    data.setup("validate")
    lpips = LPIPS(Backbone("test_resnet", weights=None), lin=None)
    few = {name: CONDITIONS[name] for name in ("as judged", "blur")}
    together = score_under({"x": lpips}, data.val_set, few)
    monkeypatch.setattr(conditions, "FEW", 0)
    assert score_under({"x": lpips}, data.val_set, few) == together


def test_the_application_keeps_scores_with_intervals_under_the_names_of_results(
    alexnet, tmp_path, monkeypatch, capsys
):
    monkeypatch.chdir(tmp_path)
    write_manifest(tmp_path / "data", rows=80)
    words = ["data=manifest", "data.path=data/triplets.csv", "data.size=64", "conditions=true"]
    methods = "methods=[alex,l2,ms_ssim]"
    run("evaluate.py", *words, methods, monkeypatch=monkeypatch)
    said = capsys.readouterr().out
    assert all(name in said for name in CONDITIONS)
    (place,) = Path("results").iterdir()
    folders = sorted(path.name for path in (place / "conditions").iterdir())
    assert folders == ["alexnet-v0.1", "l2"]
    assert re.search(r"alexnet-v0.1 +l2\n", said)
    assert "Failed    ms_ssim: ms_ssim under the condition 'as judged'" in said
    rows = [json.loads((place / "conditions" / name / "row.json").read_text()) for name in folders]
    data = ManifestDataModule("data/triplets.csv", size=64, num_workers=0)
    data.setup("validate")
    for row in rows:
        alone = score_under({"it": methods_of.build(row["method"])}, data.val_set)["it"]
        assert {name: value[0] for name, value in row["conditions"].items()} == pytest.approx(alone)
        assert all(low < value < high for value, low, high in row["conditions"].values())
        cells = [f"{100 * value:.1f}" for value in row["conditions"]["mean"]]
        estimate = "{} ({} – {})".format(*cells)
        assert f"Mean      {row['method']}: {estimate}" in said
        assert estimate in (place / "conditions.md").read_text()

    monkeypatch.setattr(conditions, "agreement_under", None)  # what is there is not computed again
    run("evaluate.py", *words, methods.replace(",ms_ssim", ""), monkeypatch=monkeypatch)
    assert capsys.readouterr().out.count("Mean ") == 2
    words[1] = "data.path=nothing.csv"
    assert "nothing.csv" in refusal("evaluate.py", *words, monkeypatch=monkeypatch, capsys=capsys)
