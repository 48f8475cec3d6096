"""What a run leaves to look at: each report against numbers that were computed otherwise."""

import csv
import itertools
import json
from collections import Counter
from pathlib import Path

import app
import numpy as np
import pytest
import pytorch_lightning as pl
import torch
from PIL import Image
from scipy.stats import binom

from callbacks.disagreements import GAP, MARGIN, ROLES, TILE, most_contrary, vote_deviance
from callbacks.preference import calibration_error, preference_curve
from callbacks.report import Judged, Report, make_reports
from perceptual.data import JudgedDataset, ManifestDataModule
from perceptual.evaluation import methods
from perceptual.training import run as training
from perceptual.training.cache import CachedDataset

RUN = (
    "data=manifest",
    "data.size=32",
    "data.batch_size=20",
    "backbone.name=test_resnet",
    "backbone.weights=null",
    "trainer.max_epochs=2",
    "trainer.accelerator=cpu",
    "trainer.log_every_n_steps=1",
    "model.lr=0.01",
)


PAIRS = 7


def write_pairs(folder: Path) -> Path:
    """JND pairs of the images of a manifest."""
    rows = [f"{i}.png,{i + 1}.png,{i % 2}" for i in range(PAIRS)]
    (folder / "pairs.csv").write_text("\n".join(["p0,p1,same", *rows]) + "\n")
    return folder / "pairs.csv"


@pytest.fixture(scope="module", params=["lin", "lin uncached", "tune"])
def run(request, tmp_path_factory):
    """A run's folder, its validation triplets, and which items were read after training.

    With cached differences and with images; JND pairs are validated beside the triplets.
    """
    folder = tmp_path_factory.mktemp("run")
    model, *uncached = request.param.split()
    manifest = app.write_manifest(folder / "set", rows=120)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.setattr("callbacks.throughput._now", itertools.count().__next__)
        read = spy_on_readings(patch)
        words = (*RUN, f"data.path={manifest}", f"model={model}", *(["data.cache=off"] if uncached else []))
        words += (f"data.jnd={write_pairs(manifest.parent)}",)
        app.run("train.py", *words, monkeypatch=patch)
    data = ManifestDataModule(path=str(manifest), size=32)
    data.setup("validate")
    return next(folder.glob("runs/*/*")), data.val_set, read


def spy_on_readings(patch: pytest.MonkeyPatch) -> Counter:
    """Count items by kind and row that are read once training has ended, with images or means."""
    read, ended, fit = Counter(), [], training.fit

    def fitting(*arguments):
        fit(*arguments)
        ended.append(True)

    def counting(dataset):
        get = dataset.__getitems__

        def reading(self, rows):
            if ended:
                read.update((self.table.kind.name, int(row)) for row in np.asarray(rows))
            return get(self, rows)

        return reading

    patch.setattr(training, "fit", fitting)
    for dataset in (JudgedDataset, CachedDataset):
        patch.setattr(dataset, "__getitems__", counting(dataset))
    return read


def test_the_final_weights_pass_over_the_validation_items_once(run):
    """Scores, the kept result and all reports come from one reading."""
    _, triplets, read = run
    items = [("2afc", row) for row in range(len(triplets))] + [("jnd", row) for row in range(PAIRS)]
    assert read == dict.fromkeys(items, 1)


def rows(path: Path) -> list[dict[str, str]]:
    with path.open() as file:
        return list(csv.DictReader(file))


def test_a_run_leaves_its_distances_for_leaderboards(run):
    folder, triplets, _ = run
    (place,) = folder.glob("results/*/scored/*")
    distance = methods.build(str(folder / "checkpoints/last.ckpt"))
    batch = triplets.__getitems__(range(len(triplets)))
    with torch.no_grad():
        expected = {
            "d0": distance(batch.role("ref"), batch.role("p0")),
            "d1": distance(batch.role("ref"), batch.role("p1")),
        }
    for name, column in expected.items():
        np.testing.assert_allclose(np.load(place / f"{name}.npy"), column, rtol=1e-4, atol=1e-6)
    row = json.loads((place / "row.json").read_text())
    scores = json.loads((folder / "scores.json").read_text())
    of_triplets = {name: value for name, value in scores["trained"].items() if not name.startswith("jnd/")}
    assert row["scores"] == pytest.approx(of_triplets, abs=1e-12)
    assert "jnd/mean" in scores["uncalibrated"]
    assert row["settings"]["model.lr"] == 0.01
    assert row["settings"]["data.seed"] == "${seed}"
    assert "model.lr=0.01" in row["command"]
    assert (row["epochs"], row["steps"]) == (2, 10)


def test_pictures_are_drawn(run):
    folder, *_ = run
    for name in ("lin", "preference", "disagreements"):
        with Image.open(folder / f"reports/{name}.png") as image:
            assert min(image.size) > 100
            assert len(image.convert("RGB").getcolors(1 << 24)) > 20  # more than a blank page


def test_disagreements_are_what_they_say(run):
    folder, triplets, _ = run
    table = rows(folder / "reports/disagreements.csv")
    assert table
    sheet = Image.open(folder / "reports/disagreements.png").convert("RGB")
    for place, row in enumerate(table):
        assert (float(row["d0"]) - float(row["d1"])) * (float(row["judgment"]) - 0.5) < 0
        item = triplets[int(row["triplet"])]
        assert float(row["judgment"]) == pytest.approx(item.answer.item(), abs=1e-4)
        if place < 3:  # the first line of the sheet
            for column, role in enumerate(ROLES):
                x = MARGIN + place * (3 * (TILE + GAP) - GAP + MARGIN) + column * (TILE + GAP)
                shown = np.asarray(sheet.crop((x, MARGIN, x + TILE, MARGIN + TILE)))[2::4, 2::4]
                pixels = (item.role(role)[0] * 255).round().byte().permute(1, 2, 0)
                np.testing.assert_array_equal(shown, pixels)
    deviance = [float(row["deviance"]) for row in table]
    assert deviance == sorted(deviance, reverse=True)


def test_throughput_is_logged_for_each_epoch(run):
    folder, *_ = run
    logged = [row["train/triplets_per_second"] for row in rows(folder / "logs/metrics.csv")]
    # 90 triplets between two looks at a clock that counts them, with the two of validation between
    assert [float(value) for value in logged if value] == [45, 45]


def judged(seed: int = 0, items: int = 500) -> Judged:
    rng = np.random.default_rng(seed)
    votes = rng.integers(1, 9, items)
    d0, d1, preference = rng.random((3, items))
    return Judged(d0, d1, preference, rng.binomial(votes, 0.6) / votes, votes)


def test_deviance_is_that_of_a_binomial():
    given = judged()
    said = (given.judgment * given.votes).round()
    best = binom.logpmf(said, given.votes, given.judgment)
    ours = binom.logpmf(said, given.votes, given.preference)
    np.testing.assert_allclose(vote_deviance(given), 2 * (best - ours), atol=1e-9)


def test_only_triplets_ordered_against_people_are_contrary():
    given = judged()
    worst = most_contrary(given, 20)
    assert len(worst) == 20
    people, metric = np.sign(given.judgment - 0.5), np.sign(given.d0 - given.d1)  # 1: p1 is nearer
    wrong = people * metric == -1
    assert wrong[worst].all()
    assert vote_deviance(given)[worst].min() >= np.sort(vote_deviance(given)[wrong])[-20]


def test_preference_curve_counts_votes():
    given = judged(items=2000)
    curve = preference_curve(given, bins=4)
    for i in range(4):
        inside = [n for n in range(2000) if i / 4 <= given.preference[n] < (i + 1) / 4]
        votes = sum(given.votes[n] for n in inside)
        said = sum(given.votes[n] * given.judgment[n] for n in inside)
        assert curve.triplets[i] == len(inside)
        assert curve.judged[i] == pytest.approx(said / votes)
        assert curve.predicted[i] == pytest.approx(np.mean([given.preference[n] for n in inside]))
    perfect = given._replace(judgment=given.preference)
    assert calibration_error(preference_curve(perfect, bins=500)) < 0.01
    assert calibration_error(curve) > 0.2


def test_standard_error_covers_what_it_should():
    inside = 0
    for seed in range(200):
        curve = preference_curve(judged(seed, 400), bins=1)
        inside += abs(curve.judged[0] - 0.6) < 1.96 * curve.error[0]
    assert 180 <= inside <= 200


class Broken(Report):
    def make(self, trained):
        raise OSError("No space left on device\nand more")


def test_a_report_that_fails_is_first_line(tmp_path, capsys):
    make_reports([pl.Callback(), Broken(str(tmp_path))], None)
    assert capsys.readouterr().out == "Report Broken was not made: No space left on device\n"
