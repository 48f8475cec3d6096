"""Photographs at native resolution: the scores of plain loops with scikit-image and the `lpips` package."""

import csv
import os
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from skimage.metrics import mean_squared_error

from perceptual import LPIPS
from perceptual.data import ManifestDataModule
from perceptual.data.loading import Batches
from perceptual.distance.baselines import BASELINES
from perceptual.evaluation.evaluate import _measure, evaluate

JPEG = Path(os.environ.get("PERCEPTUAL_ASSETS", "."), "jpeg")
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not JPEG.is_dir(), reason="needs PERCEPTUAL_ASSETS with jpeg"),
]


COUNT = 200  # triplets


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    path = tmp_path_factory.mktemp("jpeg") / "manifest.csv"
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, rows()[0].keys())
        writer.writeheader()
        writer.writerows({**row, **{k: JPEG / row[k] for k in ("ref", "p0", "p1")}} for row in rows())
    data = ManifestDataModule(str(path), val_fraction=1, size=None)
    data.setup("validate")
    return data


def pixels(name):
    return np.asarray(Image.open(JPEG / name).convert("RGB"))


def rows():
    with (JPEG / "manifest.csv").open() as file:
        return list(csv.DictReader(file))[:COUNT]


def two_afc(d0, d1, judgment):
    return np.where(d0 < d1, 1 - judgment, np.where(d1 < d0, judgment, 0.5)).mean()


def test_l2_is_that_of_scikit_image_in_one_process_and_two(data, tmp_path):
    place, *_ = evaluate(["l2"], data, tmp_path)
    images = {name: pixels(name) for row in rows() for name in (row["ref"], row["p0"], row["p1"])}
    d0, d1 = (
        np.array([mean_squared_error(images[row["ref"]], images[row[p]]) for row in rows()])
        for p in ("p0", "p1")
    )
    judgment = np.array([float(row["judge"]) for row in rows()])
    expected = two_afc(d0, d1, judgment)
    assert place.all()[0].scores["micro"] == pytest.approx(expected, abs=1e-6)
    shares, l2 = [], BASELINES["l2"]()
    for rank in range(2):  # as two processes share the batches
        batches = Batches(data.val_set, data.batch_size)
        batches.sampler.rank, batches.sampler.processes = rank, 2
        for batch in batches:
            shares.append([*batch.distances(l2), batch.answer])
    both = [torch.cat(column).numpy() for column in zip(*shares, strict=True)]
    assert len(both[0]) == COUNT
    assert two_afc(*both) == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize(("name", "short"), [("alexnet", "alex"), ("squeezenet1_1", "squeeze")])
def test_distances_are_those_of_the_lpips_package(data, name, short, monkeypatch):
    lpips = pytest.importorskip("lpips")
    monkeypatch.setenv("PERCEPTUAL_WEIGHTS", str(JPEG.parent / "weights"))
    ours = LPIPS(name)
    theirs = lpips.LPIPS(net=short, pnet_rand=True, verbose=False).eval()
    weights = dict(ours.backbone.net.named_parameters())
    for key, parameter in theirs.net.named_parameters():
        layer = key.split(".", 1)[1]
        parameter.data = next(value for ours_key, value in weights.items() if ours_key.endswith(layer)).data
    table = data.val_set.table
    few = data.val_set.__class__(table.take(np.arange(20)), None)
    measured = _measure({"it": ours}, few, Batches(few, 5))["it"]
    with torch.no_grad():
        for row, *distances in zip(rows()[:20], *measured.columns, strict=True):
            ref, *others = (
                torch.from_numpy(pixels(row[k]).transpose(2, 0, 1)[None].copy()).float() / 127.5 - 1
                for k in ("ref", "p0", "p1")
            )
            expected = [theirs(ref, other).item() for other in others]
            assert distances == pytest.approx(expected, abs=1e-5)
