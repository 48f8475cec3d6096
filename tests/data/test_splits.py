from pathlib import Path

import numpy as np
import pytest
from judged import make_table, ready
from PIL import Image

from perceptual.data import TWO_AFC, ManifestDataModule, Table
from perceptual.data.splits import split_by_image, split_by_triplet
from perceptual.evaluation.evaluate import evaluate


def table_of(ref, p0, p1) -> Table:
    count = len(ref)
    images = [f"{i}.png" for i in range(max(*ref, *p0, *p1) + 1)]
    return make_table(
        TWO_AFC,
        images=images,
        ref=np.asarray(ref),
        p0=np.asarray(p0),
        p1=np.asarray(p1),
        judgment=np.zeros(count, np.float32),
        subset=np.zeros(count, int),
        subsets=["all"],
    )


@pytest.fixture
def dense() -> Table:
    """500 triplets over 20 images, so that all of them hang together."""
    rng = np.random.default_rng(0)
    return table_of(*np.stack([rng.permutation(20)[:3] for _ in range(500)], axis=1))


@pytest.fixture
def groups() -> Table:
    """40 references, each with five distorted versions of its own in ten pairs."""
    rows = [(6 * r, 6 * r + i, 6 * r + j) for r in range(40) for i in range(1, 6) for j in range(1, i)]
    return table_of(*zip(*rows, strict=True))


def seen(table: Table, rows: np.ndarray) -> set[int]:
    return {int(i) for column in table.items for i in column[rows]}


@pytest.mark.parametrize("name", ["dense", "groups"])
@pytest.mark.parametrize("seed", range(3))
def test_by_image_shares_no_image(name, seed, request):
    table = request.getfixturevalue(name)
    train, val = split_by_image(table, 0.3, seed)
    assert not seen(table, train) & seen(table, val)
    assert not (train & val).any()


def test_by_image_leaves_out_just_what_straddles(dense):
    train, val = split_by_image(dense, 0.3, 0)
    held_out = seen(dense, val)
    assert len(held_out) == 6
    for row in range(len(dense)):
        inside = len({*dense.items[:, row].tolist()} & held_out)
        assert (val[row], train[row]) == (inside == 3, inside == 0)


def test_by_image_keeps_separate_groups_whole(groups):
    train, val = split_by_image(groups, 0.25, 0)
    assert (train.sum(), val.sum()) == (300, 100)


@pytest.mark.parametrize("split", [split_by_image, split_by_triplet])
def test_seed_decides(split, dense):
    first, again, other = (split(dense, 0.3, seed)[1] for seed in (0, 0, 1))
    assert (first == again).all()
    assert (first != other).any()


def test_by_triplet_keeps_repeats_together():
    rng = np.random.default_rng(0)
    ref, p0, p1 = rng.integers(0, 6, (3, 1000))
    _, val = split_by_triplet(table_of(ref, p0, p1), 0.3, 0)
    sides: dict[tuple, set] = {}
    for row in range(1000):
        sides.setdefault((ref[row], *sorted((p0[row], p1[row]))), set()).add(bool(val[row]))
    assert all(len(side) == 1 for side in sides.values())
    assert sum(side == {True} for side in sides.values()) == round(0.3 * len(sides))


@pytest.mark.parametrize("split", [split_by_image, split_by_triplet])
def test_empty_side_is_refused(split):
    with pytest.raises(ValueError, match=r"leaves .* training and .* validation triplets of 1; both sides"):
        split(table_of([0], [1], [2]), 0.3, 0)


@pytest.mark.parametrize("split_by", ["image", "triplet"])
def test_the_same_pixels_under_two_names_are_on_one_side(split_by, tmp_path):
    """Each image is there twice, and triplets choose among the names at random."""
    rng = np.random.default_rng(0)
    for i in range(20):
        pixels = Image.fromarray(rng.integers(0, 256, (16, 16, 3), dtype=np.uint8))
        pixels.save(tmp_path / f"a{i}.png")
        pixels.save(tmp_path / f"b{i}.bmp")  # another file with the same pixels
    names = [(f"a{i}.png", f"b{i}.bmp") for i in range(20)]
    content = {name: i for i, both in enumerate(names) for name in both}
    chosen = [rng.permutation(20)[:3] for _ in range(300)]
    rows = [",".join(names[i][rng.integers(2)] for i in three) + ",1" for three in chosen * 2]
    (tmp_path / "t.csv").write_text("\n".join(["ref,p0,p1,judge", *rows]))
    data = ready(ManifestDataModule(str(tmp_path / "t.csv"), split_by, size=16))
    sides = []
    for side in (data.train_set.table, data.val_set.table):
        images = np.array([content[Path(path).name] for path in ManifestDataModule._table(data).paths])
        sides.append(images[side.items])
    if split_by == "image":
        assert not set(sides[0].ravel()) & set(sides[1].ravel())
    else:
        assert not set(map(tuple, sides[0].T)) & set(map(tuple, sides[1].T))


@pytest.mark.parametrize("size", [16, None])
def test_references_of_the_same_pixels_are_one_cluster(size, tmp_path):
    rng = np.random.default_rng(0)
    for name, seed in (("a", 0), ("b", 0), ("c", 1), ("d", 2), ("e", 3)):
        pixels = np.random.default_rng(seed).integers(0, 256, (16, 16, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(tmp_path / f"{name}.png")
    rows = [f"{ref},d.png,e.png,{rng.integers(2)}" for ref in ("a.png", "b.png", "c.png") * 4]
    (tmp_path / "t.csv").write_text("\n".join(["ref,p0,p1,judge", *rows]))
    data = ready(ManifestDataModule(str(tmp_path / "t.csv"), size=size, val_fraction=1), "validate")
    place, *_ = evaluate(["l2"], data, str(tmp_path / "results"))
    cluster = place.items().arrays["cluster"]
    assert cluster[0] == cluster[1] != cluster[2]
    assert len(np.unique(data.val_set.table.role("ref"))) == 3  # the table itself stays as it was
