"""Choosing triplets, and triplets of algorithms' outputs."""

import numpy as np
import pytest
from PIL import Image
from studies import make_study, read_rows, write_source

from perceptual.collect.choose import choose, disagreement, pick
from perceptual.collect.create import read_source
from perceptual.data.synthetic.outputs import make_from_outputs


def pixels(path):
    with Image.open(path) as image:
        return np.asarray(image).astype(int)


def l2(x, y):
    return (x - y).square().mean((1, 2, 3)).sqrt()


def against(x, y):
    return -l2(x, y)


def corner(x, y):
    return (x - y)[:, :, :4, :4].square().mean((1, 2, 3)).sqrt()


def test_disagreement(tmp_path):
    table = read_source(write_source(tmp_path / "source", 10)).table
    assert (disagreement(table, {"a": l2, "b": l2}, 16) == 0).all()
    assert (disagreement(table, {"a": l2, "b": against}, 16) > 0).all()
    with pytest.raises(ValueError, match="b: no such luck"):
        disagreement(table, {"a": l2, "b": _fails}, 16)


def _fails(x, y):
    raise RuntimeError("no such luck")


def test_the_random_part_is_random_and_the_rest_is_where_they_disagree():
    rng = np.random.default_rng(0)
    items = np.arange(900).reshape(3, 300)
    score = rng.random(300)
    chosen = pick(items, score, 50, 0.4, 0)
    assert (len(chosen.random), len(chosen.disagreed), chosen.shared) == (20, 30, 0)
    rest = np.setdiff1d(np.arange(300), chosen.random)
    assert set(chosen.disagreed) == set(rest[np.argsort(-score[rest])][:30])
    drawn = np.concatenate([pick(items, score, 50, 0.4, seed).random for seed in range(300)])
    # 6,000 draws do not favour a score: its mean is that of all, within four standard errors
    assert abs(score[drawn].mean() - score.mean()) < 4 * score.std() / np.sqrt(6000)


def test_images_of_the_random_part_are_avoided_while_there_are_others():
    items = np.array([[0, 0, 1, 1], [2, 3, 4, 5], [6, 7, 8, 9]])
    for seed in range(8):
        chosen = pick(items, np.array([4.0, 3, 2, 1]), 2, 0.5, seed)
        assert items[0, chosen.random[0]] != items[0, chosen.disagreed[0]]
    assert pick(items[:, :2], np.ones(2), 2, 0.5, 0).shared == 1


def test_choose_writes_what_a_study_reads_and_training_splits(tmp_path):
    write_source(tmp_path / "source", 30, subset=lambda i: f"s{i % 2}")
    chosen = choose(tmp_path / "source", tmp_path / "chosen", {"l2": l2, "corner": corner}, 10, 0.3, size=16)
    assert (len(chosen.random), len(chosen.disagreed)) == (3, 7)
    rows = read_rows(tmp_path / "chosen/manifest.csv")
    assert [row["split"] for row in rows] == ["val"] * 3 + ["train"] * 7
    table = read_source(tmp_path / "source").table
    for row, number in zip(rows, [*chosen.random, *chosen.disagreed], strict=True):
        assert row["subset"] == f"s{number % 2}"
        np.testing.assert_array_equal(
            pixels(tmp_path / "chosen" / row["p1"]), pixels(table.paths[table.role("p1")[number]])
        )
    study = make_study(tmp_path, source=tmp_path / "chosen")
    assert [study.items[i].split for i in range(10)] == ["val"] * 3 + ["train"] * 7
    for count, methods, says in [(99, [l2, corner], r"\[1, 30\]"), (5, [l2], "two or more")]:
        with pytest.raises(ValueError, match=says):
            choose(tmp_path / "source", tmp_path / "x", {str(i): m for i, m in enumerate(methods)}, count)


@pytest.fixture
def outputs(tmp_path):
    """Originals, and three algorithms that shift all pixels by 1, 2 and 3."""
    rng = np.random.default_rng(0)
    for i in range(4):
        pixels = rng.integers(0, 200, (40, 50 + i, 3), dtype=np.uint8)
        for shift, name in enumerate(("originals", "a", "b", "c")):
            (tmp_path / name).mkdir(exist_ok=True)
            Image.fromarray(pixels + np.uint8(shift)).save(tmp_path / name / f"{i}.png")
    return [tmp_path / name for name in ("originals", "a", "b", "c")]


def test_triplets_of_algorithms(outputs, tmp_path):
    alike = make_from_outputs(outputs[0], outputs[1:], tmp_path / "ask", 12, size=16)
    assert alike == 0
    rows = read_rows(tmp_path / "ask/manifest.csv")
    used = []
    for row in rows:
        ref, p0, p1 = (pixels(tmp_path / "ask" / row[role]) for role in ("ref", "p0", "p1"))
        assert ref.shape == (16, 16, 3)
        shifts = ["", "a", "b", "c"]
        assert (p0 - ref == shifts.index(row["algorithm0"])).all()  # the same place of all three
        assert (p1 - ref == shifts.index(row["algorithm1"])).all()
        used.append(frozenset((row["algorithm0"], row["algorithm1"])))
    assert {pair: used.count(pair) for pair in used} == dict.fromkeys(set(used), 4)
    source = read_source(tmp_path / "ask")
    assert source.algorithms[0] == (rows[0]["algorithm0"], rows[0]["algorithm1"])
    make_from_outputs(outputs[0], outputs[1:], tmp_path / "whole", 4, size=None)
    sizes = {pixels(path).shape[1::-1] for path in (tmp_path / "whole/ref").iterdir()}
    assert sizes == {(50 + i, 40) for i in range(4)}


def test_outputs_that_cannot_be_used(outputs, tmp_path):
    dst = tmp_path / "ask"
    with pytest.raises(ValueError, match="whose names differ, got a, a"):
        make_from_outputs(outputs[0], [outputs[1], outputs[1]], dst, 3)
    with pytest.raises(ValueError, match="patches need 64"):
        make_from_outputs(outputs[0], outputs[1:], dst, 3)
    (outputs[2] / "1.png").unlink()
    with pytest.raises(ValueError, match=r"1 of 4 stems are incomplete \(4 in .*\): 1 \(not in .*/b\)"):
        make_from_outputs(outputs[0], outputs[1:], dst, 3, size=16)
    Image.new("RGB", (9, 9)).save(outputs[2] / "1.png")
    with pytest.raises(ValueError, match="9×9"):
        make_from_outputs(outputs[0], outputs[1:], dst, 40, size=16)
    assert not list(tmp_path.glob("ask*"))
