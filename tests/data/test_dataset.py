"""A dataset gives the pixels of the files, weighted and shared among the items of a batch."""

from collections import Counter
from dataclasses import replace

import numpy as np
import pytest
import torch
from judged import apart
from PIL import Image
from trees import plain, write_manifest, write_pair_subset, write_subset

from perceptual.data import (
    JND,
    TWO_AFC,
    JudgedDataset,
    decode,
    images,
    pack,
    read_folder,
    read_manifest,
    read_store,
)
from perceptual.data.images import Files

HEADER = "ref,p0,p1,judge"
ROWS = [(0, 1, 2, 0.25, 8), (0, 2, 1, 0.75, 4), (3, 1, 2, 1, 12), (3, 0, 2, 0, 8)]


@pytest.fixture
def table(tmp_path):
    return read_manifest(write_manifest(tmp_path / "t.csv", 4, ROWS, HEADER + ",votes"))


def of_files(table, tmp_path):
    """Rows of the manifest, and the file of each role."""
    files = {role: [tmp_path / f"img/{row[i]}.png" for row in ROWS] for i, role in enumerate(TWO_AFC.roles)}
    return JudgedDataset(table.open(16)), files, [row[3] for row in ROWS]


def of_pairs(table, tmp_path):
    write_pair_subset(tmp_path / "cnn", 4)
    files = {role: [tmp_path / f"cnn/{role}/{i:06}.png" for i in range(4)] for role in JND.roles}
    pairs = read_folder(tmp_path, ["cnn"], JND)
    return JudgedDataset(pairs.open(16)), files, pairs.answer.tolist()


def of_a_store(table, tmp_path):
    pack(table, tmp_path / "store", "manifest", 16, workers=1)
    _, files, answers = of_files(table, tmp_path)
    return JudgedDataset(read_store(tmp_path / "store").open(16)), files, answers


@pytest.mark.parametrize(
    ("source", "budget"), [(of_files, 2**30), (of_files, 0), (of_pairs, 2**30), (of_a_store, 2**30)]
)
def test_batch_equals_plain_reading(table, tmp_path, monkeypatch, source, budget):
    monkeypatch.setattr(images, "MEMORY_BUDGET", budget)
    dataset, files, answers = source(table, tmp_path)
    assert isinstance(dataset.images, Files) == (budget == 0)
    batch = dataset.__getitems__([2, 0, 2])
    for role, paths in files.items():
        got = batch.role(role)
        assert got.dtype == torch.float32
        assert got.is_contiguous()
        np.testing.assert_array_equal(got.numpy(), np.stack([plain(paths[i], 16) for i in (2, 0, 2)]))
        np.testing.assert_array_equal(dataset[1].role(role), plain(paths[1], 16)[None])
    np.testing.assert_array_equal(batch.answer, np.float32([answers[i] for i in (2, 0, 2)]))
    assert batch.weight.tolist() == [1, 1, 1]
    assert batch.subset.tolist() == [0, 0, 0]
    assert batch.subset.dtype == torch.int64


def test_votes_weight_with_mean_one(table):
    weight = JudgedDataset(table.open(16), weight_by_votes=True).__getitems__(range(4)).weight
    np.testing.assert_allclose(weight, [1, 0.5, 1.5, 1])
    with pytest.raises(ValueError, match="have none"):
        JudgedDataset(replace(table, votes=None).open(16), weight_by_votes=True)


def test_shared_images_are_decoded_once(table, monkeypatch):
    opened = Counter()
    real = decode.read_rgb
    monkeypatch.setattr(decode, "read_rgb", lambda path: opened.update([path]) or real(path))
    dataset = JudgedDataset(table.open(16))
    dataset.__getitems__([0, 1, 2, 3])
    assert opened == Counter(table.paths)


def test_unusable_images_are_one_error(tmp_path):
    write_subset(tmp_path / "cnn", 4)
    good = (tmp_path / "cnn/ref/000000.png").read_bytes()
    (tmp_path / "cnn/p0/000000.png").write_bytes(good[: len(good) // 2])
    (tmp_path / "cnn/p0/000001.png").write_bytes(b"")
    (tmp_path / "cnn/p0/000002.png").write_text("an essay")
    Image.new("RGB", (1, 1)).save(tmp_path / "cnn/p1/000000.png")
    Image.new("RGB", (100, 15)).save(tmp_path / "cnn/p1/000001.png")
    (tmp_path / "cnn/p1/000002.png").unlink()
    (tmp_path / "cnn/p1/000002.png").symlink_to("nowhere.png")
    with pytest.raises(ValueError, match="6 of 12 images cannot be used") as error:
        read_folder(tmp_path, ["cnn"]).open(64)
    message = str(error.value)
    assert "p0/000000.png (" in message
    assert "p0/000001.png (not an image)" in message
    assert "p0/000002.png (not an image)" in message
    assert "p1/000000.png (1×1, below a quarter of size=64)" in message
    assert "p1/000001.png (100×15, below a quarter of size=64)" in message
    assert message.endswith("and 1 more")


def test_missing_image_is_said_to_be(tmp_path):
    path = write_manifest(tmp_path / "t.csv", 2, [(0, 1, 2, 0.5)], HEADER)
    with pytest.raises(ValueError, match=r"1 of 3 images cannot be used: .*img/2.png \(missing\)"):
        read_manifest(path).open(16)


def test_open_table_keeps_its_size(table):
    opened = table.open(16)
    assert opened.open(16) is opened
    with pytest.raises(ValueError, match="already open at 16"):
        opened.open(32)


# --- batches that hold each image once ---


@pytest.fixture
def both(table):
    """The four triplets in a batch of each kind, of images that differ in all pixels."""
    dataset = JudgedDataset(table.open(16))
    return dataset.sharing(4).__getitems__([2, 0, 1, 3]), dataset.__getitems__([2, 0, 1, 3])


def same(ours, theirs):
    columns = [[*map(batch.role, TWO_AFC.roles), *batch[3:]] for batch in (ours, theirs)]
    for a, b in zip(*columns, strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=1e-6)


def test_a_shared_batch_holds_each_image_once(both):
    shared, batch = both
    assert len(shared.images) == 4  # of twelve
    same(apart(shared), batch)


@pytest.mark.parametrize("first", [0.2, 0.8])
@pytest.mark.parametrize("change", ["flip", "crop", "light", "swap"])
def test_a_shared_batch_is_augmented_as_its_triplets(both, change, first):
    shared, batch = both
    draws = torch.rand(4, 4, generator=torch.Generator().manual_seed(1))
    draws[0, 0] = first
    ours = apart(getattr(shared, change)(draws))
    same(ours, getattr(batch, change)(draws if change == "swap" else draws[:1].expand(4, 4)))
    assert (change == "flip" and first > 0.5) or not torch.equal(ours.role("p0"), batch.role("p0"))


@pytest.mark.parametrize(("batch_size", "recurs"), [(2, False), (3, True), (99, True)])
def test_images_recur_where_a_batch_has_them_twice(tmp_path, batch_size, recurs):
    path = write_manifest(tmp_path / "t.csv", 4, [(0, 1, 2, 1), (1, 2, 3, 0), (2, 3, 0, 1)], HEADER)
    dataset = JudgedDataset(read_manifest(path).open(16))
    assert dataset.sharing(batch_size).shares_images is recurs
