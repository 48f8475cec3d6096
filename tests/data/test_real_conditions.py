"""A column `condition`: to score by, to split by, and kept wherever a table is."""

import csv

import numpy as np
import pytest
from judged import ready
from trees import write_manifest

from perceptual.data import ManifestDataModule, pack
from perceptual.data.readers.manifests import read_manifest
from perceptual.data.readers.stores import read_store

HEADER = "ref,p0,p1,judge,subset,condition"
LIGHTS = ["day", "dusk", "lamp", "noon"]


@pytest.fixture
def manifest(tmp_path):
    """120 triplets over 16 images, each in all lights."""
    rng = np.random.default_rng(0)
    rows = [(*rng.permutation(16)[:3], 1, "ab"[i % 2], LIGHTS[i % 4]) for i in range(120)]
    return write_manifest(tmp_path / "t.csv", 16, rows, HEADER)


def without(path, name):
    """The same CSV without one column."""
    with path.open() as file:
        rows = [{key: value for key, value in row.items() if key != name} for row in csv.DictReader(file)]
    with path.with_stem(f"without-{name}").open("w", newline="") as file:
        written = csv.DictWriter(file, rows[0])
        written.writeheader()
        written.writerows(rows)
    return path.with_stem(f"without-{name}")


def test_items_are_scored_by_condition(manifest):
    assert read_manifest(without(manifest, "subset")).subsets == LIGHTS
    table = read_manifest(manifest)
    assert table.subsets == ["day, a", "dusk, b", "lamp, a", "noon, b"]
    assert table.condition.tolist() == LIGHTS * 30
    assert table.take(np.array([2, 4])).condition.tolist() == ["lamp", "day"]
    plain = read_manifest(without(manifest, "condition"))
    assert (plain.subsets, plain.condition) == (["a", "b"], None)


def test_a_store_keeps_conditions_and_is_refused_with_others(manifest, tmp_path):
    table = read_manifest(manifest)
    info = pack(table, tmp_path / "store", str(manifest), 16, workers=1)
    kept = read_store(tmp_path / "store")
    assert kept.condition.tolist() == table.condition.tolist()
    assert kept.fingerprint() == table.open(16).fingerprint() == info.fingerprint
    np.save(tmp_path / "store/condition.npy", table.condition[::-1])
    with pytest.raises(ValueError, match="it has not the beside that is recorded"):
        read_store(tmp_path / "store")


@pytest.mark.parametrize("by", ["condition", "condition+image"])
@pytest.mark.parametrize(
    ("named", "fraction", "count"), [(["dusk"], 0.3, 1), (None, 0.5, 2), (None, 0.01, 1)]
)
def test_judged_conditions_are_not_trained_on(manifest, by, named, fraction, count):
    settings = {
        "val_conditions": named,
        "val_fraction": fraction if by == "condition" else max(fraction, 0.3),
    }
    data = ready(ManifestDataModule(str(manifest), by, size=16, split_seed=1, **settings))
    train, val = (one.table for one in (data.train_set, data.val_set))
    if named or by == "condition":
        assert len(set(val.condition)) == count
    assert not set(val.condition) & set(train.condition)
    if named:
        assert set(val.condition) == set(named)
    shared = set(val.items.ravel()) & set(train.items.ravel())
    if by == "condition":
        assert len(train) + len(val) == 120
        assert shared
    else:
        assert not shared
    assert (
        f"split by {by.replace('+', ' and ')}, judged on {', '.join(sorted(set(val.condition)))} ("
        in data.describe()
    )
    assert val.subsets == [
        name for name in ("day, a", "dusk, b", "lamp, a", "noon, b") if name[:-3] in set(val.condition)
    ]


def test_seeds_leave_out_different_conditions(manifest):
    judged = {
        tuple(
            ready(
                ManifestDataModule(str(manifest), "condition", size=16, split_seed=seed)
            ).val_set.table.subsets
        )
        for seed in range(8)
    }
    assert len(judged) > 1


@pytest.mark.parametrize(
    ("column", "settings", "message"),
    [
        (
            None,
            {"val_conditions": ["night"]},
            "val_conditions must be some of day, dusk, lamp, noon, got 'night'",
        ),
        (None, {"val_conditions": LIGHTS}, "leaves 0 training and 120 validation triplets of 120"),
        ("condition", {}, "split_by=condition needs a column condition"),
        (None, {"split_by": "image", "val_conditions": ["day"]}, "val_conditions needs split_by=condition"),
    ],
)
def test_what_cannot_be_split_is_refused(manifest, column, settings, message):
    path = without(manifest, column) if column else manifest
    with pytest.raises(ValueError, match=message):
        ready(ManifestDataModule(str(path), **{"split_by": "condition", "size": 16, **settings}))


def test_a_split_column_and_an_empty_condition_are_refused(tmp_path):
    rows = [(0, 1, 2, 1, "day", "train"), (0, 1, 2, 1, "dusk", "val")]
    path = write_manifest(tmp_path / "t.csv", 3, rows, "ref,p0,p1,judge,condition,split")
    with pytest.raises(ValueError, match="has a split column, which split_by=condition would overrule"):
        ready(ManifestDataModule(str(path), "condition", size=16))
    path.write_text(path.read_text().replace("dusk", ""))
    with pytest.raises(ValueError, match=r"condition must be a name; 1 of 2 are not: line 3 has ''"):
        read_manifest(path)
