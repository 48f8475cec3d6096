import csv

import numpy as np
import pytest
from PIL import Image

from perceptual.data import JNDDataModule, ManifestDataModule, OpinionDataModule
from perceptual.evaluation import suites
from perceptual.evaluation.suite_tables import html_page, markdown, write


@pytest.fixture
def sets(tmp_path):
    """Two sets of triplets, one at native resolution, a set of pairs, and one of opinions."""
    rng = np.random.default_rng(0)
    for i in range(12):
        height = 24 + 8 * (i // 6)
        Image.fromarray(rng.integers(0, 256, (height, 32, 3), dtype=np.uint8)).save(tmp_path / f"{i}.png")
    tables = {
        "a": [
            ("ref", "p0", "p1", "judge"),
            *((f"{i}.png", f"{i + 1}.png", f"{i + 2}.png", i % 2) for i in (0, 1, 2, 3, 6, 7, 8, 9)),
        ],
        "b": [
            ("p0", "p1", "same"),
            *((f"{i}.png", f"{i + 1}.png", 0.25 + i % 2 / 2) for i in range(11) if i != 5),
        ],
        "c": [
            ("ref", "dist", "mos"),
            *((f"{i}.png", f"{j}.png", i * j % 7) for i in range(6) for j in range(6) if i != j),
        ],
    }
    for name, rows in tables.items():
        with (tmp_path / f"{name}.csv").open("w", newline="") as file:
            csv.writer(file).writerows(rows)
    path = str(tmp_path / "a.csv")
    return {
        "squares": lambda: ManifestDataModule(path, val_fraction=1, size=32),
        "native": lambda: ManifestDataModule(path, val_fraction=1, size=None),
        "pairs": lambda: JNDDataModule(str(tmp_path / "b.csv"), size=32),
        "rated": lambda: OpinionDataModule(str(tmp_path / "c.csv")),
        "missing": lambda: JNDDataModule(str(tmp_path / "nowhere.csv")),
    }


def test_columns_are_the_scores_of_each_set_and_their_means(sets, tmp_path, monkeypatch):
    built = []
    build = suites.grammar.build
    monkeypatch.setattr(
        suites.grammar, "build", lambda name, **speed: built.append(name) or build(name, **speed)
    )
    suite = suites.evaluate(sets, ["l2", "psnr", "vif"], str(tmp_path / "results"), "cpu")
    assert built == ["l2", "psnr", "vif"]  # each once for all sets
    assert suite.columns == ["squares", "native", "pairs", "rated", "mean 2afc", "all"]
    assert list(suite.absent) == ["missing"]
    assert "nowhere.csv" in suite.absent["missing"]
    assert suite.methods[-1] == "vif"  # needs 41 pixels, so it has no score
    assert len(suite.failed) == 4
    assert np.isnan(suite.score[-1]).all()
    np.testing.assert_allclose(suite.score[:2, 4], suite.score[:2, :2].mean(1))
    np.testing.assert_allclose(suite.score[:2, 5], suite.score[:2, :4].mean(1))
    assert suite.score[0, 5] >= suite.score[1, 5]
    assert (suite.low[:2] <= suite.high[:2]).all()
    assert suite.behind[0].tolist() == [0, 0]

    built.clear()
    again = suites.evaluate(sets, ["l2", "psnr"], str(tmp_path / "results"), "cpu")
    assert built == []  # all was there
    np.testing.assert_array_equal(again.score, suite.score[:2])

    text, page = markdown(suite), html_page(suite)
    for shown in (text, page):
        assert "absent" in shown
        assert "nowhere.csv" in shown
        assert f"{100 * suite.score[0, 5]:.1f}" in shown
    assert [path.suffix for path in write(suite, tmp_path, "x")] == [".md", ".html", ".png"]


def test_images_of_training_are_marked(sets, tmp_path, monkeypatch):
    path = tmp_path / "it.ckpt"
    path.write_bytes(b"")
    described = {"path": str(tmp_path / "a.csv"), "size": 64, "val_fraction": 0.3}
    monkeypatch.setattr(suites, "read_checkpoint", lambda _: {"datamodule_hyper_parameters": described})
    opened = {name: sets[name]() for name in ("native", "rated")}
    for data in opened.values():
        data.setup("validate")

    def training(options, source):
        assert source == str(path)
        data = ManifestDataModule(**{**options, "split_by": "triplet"})
        data.setup("fit")
        return data

    shared = suites._shared(opened, {"it@0": str(path)}, training)
    assert set(shared) == {("it@0", "native"), ("it@0", "rated")}
    images = training({**described, "size": None}, str(path)).train_set.table.items()
    assert shared["it@0", "native"] == len(np.unique(images))
