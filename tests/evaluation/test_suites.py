import csv
import re
import time

import app
import numpy as np
import pytest
from PIL import Image

from perceptual.data import JNDDataModule, ManifestDataModule, OpinionDataModule
from perceptual.evaluation import suites
from perceptual.evaluation.runs import settings
from perceptual.evaluation.suite_tables import table, write
from perceptual.evaluation.tables import html_page, markdown
from perceptual.files.records import read_yaml
from perceptual.names import Method


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
        suites.grammar, "build", lambda method, **speed: built.append(str(method)) or build(method, **speed)
    )
    suite = suites.evaluate(sets, ["l2", "psnr", "vif"], str(tmp_path / "results"), "cpu")
    assert built == ["l2", "psnr", "vif"]  # each once for all sets
    assert suite.columns == ["squares", "native", "pairs", "rated", "mean 2afc"]
    assert suite.summaries == ["mean 2afc", "pairs", "rated"]  # of two kinds there is no mean
    assert list(suite.absent) == ["missing"]
    assert "nowhere.csv" in suite.absent["missing"]
    assert suite.methods[-1] == "vif"  # needs 41 pixels, so it has no score
    assert len(suite.failed) == 4
    assert np.isnan([*suite.score[-1], suite.place[-1]]).all()
    np.testing.assert_allclose(suite.score[:2, 4], suite.score[:2, :2].mean(1))
    for one, other in ((0, 1), (1, 0)):
        ranks = [1 + (suite.score[other, c] > suite.score[one, c]) for c in (4, 2, 3)]
        assert suite.place[one] == pytest.approx(np.mean(ranks))
    assert suite.place[0] <= suite.place[1]
    assert (suite.low[:2] <= suite.high[:2]).all()
    best = suite.score[:2][:, [4, 2, 3]].argmax(0)
    assert (suite.behind[best, range(3)] == 0).all()

    built.clear()
    again = suites.evaluate(sets, ["l2", "psnr"], str(tmp_path / "results"), "cpu")
    assert built == []  # all was there
    np.testing.assert_array_equal(again.score, suite.score[:2])

    text, page = markdown(table(suite)), html_page(table(suite))
    for shown in (text, page):
        assert "absent" in shown
        assert "nowhere.csv" in shown
        assert f"{100 * suite.score[0, 4]:.1f}" in shown
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

    shared = suites._shared(opened, {"it@0": Method.parse(str(path))}, training)
    assert set(shared) == {("it@0", "native"), ("it@0", "rated")}
    images = training({**described, "size": None}, str(path)).train_set.table.items
    assert shared["it@0", "native"] == len(np.unique(images))


ANCHORS = "a0: &a0 [x, x]\n" + "".join(
    f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 10)}]\n" for i in range(1, 10)
)
ODD = {
    "brackets": (b"[" * 5000, "nested at most 20 deep"),
    "mappings": (b"{a: " * 5000, "nested at most 20 deep"),
    "recursive": (
        b"a: &a {data: photos, more: *a}",
        "the alias \\*a is not defined above it, or contains itself",
    ),
    "anchors": (ANCHORS.encode(), "at most 10,000 values"),
    "UTF-16": ("a: {data: photos}".encode("utf-16"), "must be text in UTF-8"),
    "UTF-16 without a mark": ("a: {data: photos}".encode("utf-16-le"), "cannot be read as YAML"),
    "large": (b"a: {data: photos}\n" + b"#" * 2**17, "must have at most 131,072 bytes"),
    "no YAML": (b"a: {data: photos}\nb: {data: [}", "cannot be read as YAML, line 2"),
    "twice": (
        b"a: {data: photos}\na: {data: photos}",
        "cannot be read as YAML, line 2: found duplicate key a",
    ),
    "date": (b"a: {data: photos, seed: !!timestamp 2026-13-45}", "cannot be read as YAML"),
    "nothing": (b"", "must list sets by name"),
    "list": (b"- data: photos", "must list sets by name"),
    "text": (b"a: photos", "'a' must have data:, a word, and its settings, got photos"),
    "overrides": (b"a: {data: 'photos +x=1'}", "'a' must have data:, a word"),
    "target": (b"a: {data: photos, _target_: os.system}", "'a' must have plain settings, got _target_"),
    "environment": (b"a: {data: manifest, path: '${oc.env:HOME}'}", "'a' must have plain settings"),
}


@pytest.mark.parametrize(("content", "said"), ODD.values(), ids=ODD)
def test_an_odd_suite_is_refused_in_one_line_that_names_it(content, said, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "odd.yaml").write_bytes(content)
    start = time.monotonic()
    message = app.refusal(
        "evaluate.py", "suite=odd.yaml", "methods=[l2]", monkeypatch=monkeypatch, capsys=capsys
    )
    assert re.search(f"odd.yaml.*{said}", message)
    assert len(message.splitlines()) == 1
    assert time.monotonic() - start < 20


def test_a_suite_may_share_settings_by_an_alias(tmp_path):
    path = tmp_path / "suite.yaml"
    path.write_text(
        "\ufeffa: &a {data: manifest, path: a.csv, size: 64}\nb: {<<: *a, path: ü.csv}\n", "utf-8"
    )
    shared = {"data": "manifest", "size": 64}
    assert read_yaml(path) == {"a": shared | {"path": "a.csv"}, "b": shared | {"path": "ü.csv"}}


def test_an_odd_configuration_of_a_run_is_named(tmp_path):
    (tmp_path / ".hydra").mkdir()
    path = tmp_path / ".hydra/config.yaml"
    for content in (b"[" * 5000, ANCHORS.encode(), b"- 1"):
        path.write_bytes(content)
        with pytest.raises(ValueError, match=r"config\.yaml"):
            settings(tmp_path)
