"""Images in their own sizes: the same items from files and stores, in batches of one size."""

import numpy as np
import pytest
import torch
from judged import ready
from PIL import Image

from perceptual.data import JudgedDataset, ManifestDataModule, OpinionDataModule, pack, read_manifest
from perceptual.data import images as opened
from perceptual.data.batch import chunks_of_pairs
from perceptual.data.images import Files, Pixels, as_floats
from perceptual.data.loading import Batches, EpochBatches
from perceptual.distance.differences import mean_differences, weigh
from perceptual.distance.lpips import LPIPS
from perceptual.evaluation.evaluate import _measure

SIZES = [(20, 30), (30, 20), (24, 24), (40, 26)]  # height and width


@pytest.fixture
def manifest(tmp_path):
    """24 triplets of six sizes of references, turning; each with images of its own."""
    rng = np.random.default_rng(0)
    lines = ["ref,p0,p1,judge,split"]
    for item in range(24):
        names = []
        for role in ("ref", "p0", "p1"):
            pixels = rng.integers(0, 256, (*SIZES[item % 4], 3), dtype=np.uint8)
            names.append(f"{item}-{role}.png")
            Image.fromarray(pixels).save(tmp_path / names[-1])
        lines.append(",".join([*names, str(item % 3 / 2), "train" if item < 16 else "val"]))
    (tmp_path / "set.csv").write_text("\n".join(lines) + "\n")
    return tmp_path / "set.csv"


def data_of(path, **options):
    data = ready(ManifestDataModule(str(path), **{"size": None, "batch_size": 3, "seed": 1, **options}), None)
    return data


def test_pixels_are_those_of_the_files_from_files_memory_and_store(manifest, tmp_path, monkeypatch):
    memory = data_of(manifest)
    assert isinstance(memory.val_set.images, Pixels)
    pack(read_manifest(manifest), tmp_path / "store", str(manifest), size=None, workers=1)
    store = data_of(tmp_path / "store")
    monkeypatch.setattr(opened, "MEMORY_BUDGET", 1000)
    files = data_of(manifest)
    assert isinstance(files.val_set.images, Files)
    for data in (memory, files, store):
        assert data.fingerprint() == memory.fingerprint()
        assert data.fingerprint("train") == memory.fingerprint("train")
        item = data.train_set[5]
        expected = np.asarray(Image.open(manifest.parent / "5-p1.png"), np.float32).transpose(2, 0, 1) / 255
        np.testing.assert_array_equal(item.role("p1")[0].numpy(), expected)
    for batches in zip(*(data.train_dataloader() for data in (memory, files, store)), strict=True):
        assert all(torch.equal(batch.role("ref"), batches[0].role("ref")) for batch in batches)


def test_shape_counts_in_the_fingerprint(tmp_path):
    marks = []
    for shape in ((16, 24), (24, 16)):
        for role in "abc":
            Image.new("RGB", shape, "red").save(tmp_path / f"{role}.png")
        (tmp_path / "set.csv").write_text("ref,p0,p1,judge\na.png,b.png,c.png,1\n")
        data = ready(ManifestDataModule(str(tmp_path / "set.csv"), val_fraction=1, size=None), "validate")
        marks.append(data.fingerprint())
    assert marks[0] != marks[1]


def test_batches_hold_one_size_and_every_item_once_in_another_order_each_epoch(manifest):
    data = data_of(manifest)
    seen = []
    loader = data.train_dataloader()
    for epoch in range(2):
        loader.sampler.set_epoch(epoch)
        batches = list(loader)
        assert len(batches) == len(loader)
        assert all(len(batch.images) == 3 * len(batch.answer) for batch in batches)
        seen.append([tuple(row.item() for row in batch.role("ref")[:, 0, 0, 0]) for batch in batches])
    assert seen[0] != seen[1]
    assert sorted(sum(seen[0], ())) == sorted(sum(seen[1], ()))
    assert len(sum(seen[0], ())) == 16


@pytest.mark.parametrize("epoch", [0, 3])
@pytest.mark.parametrize("processes", [2, 3])
def test_processes_share_each_batch_of_one_size(epoch, processes):
    sizes = np.array([SIZES[i % 4] for i in range(31)])
    samplers = [EpochBatches(31, 4, 5, rank, processes, sizes=sizes, images=3) for rank in range(processes)]
    whole = EpochBatches(31, 4, 5, sizes=sizes, images=3)
    for sampler in (*samplers, whole):
        sampler.set_epoch(epoch)
    for number, (expected, *shares) in enumerate(zip(whole, *samplers, strict=True)):
        weights = [sampler.weight(number) for sampler in samplers]
        given = np.concatenate([share for share, weight in zip(shares, weights, strict=True) if weight])
        np.testing.assert_array_equal(given, expected)
        mean = np.mean([w * sum(share) / len(share) for w, share in zip(weights, shares, strict=True)])
        assert mean == pytest.approx(expected.mean())


def test_a_stopped_epoch_is_resumed_with_the_same_crops(manifest):
    data = data_of(manifest, crop=16)
    stopped, resumed = data.train_dataloader(), data.train_dataloader()
    for loader in (stopped, resumed):
        loader.sampler.set_epoch(4)
    reading = iter(stopped)
    for _ in range(2):
        next(reading)
    resumed.load_state_dict(stopped.state_dict())
    rest = list(reading)
    assert len(rest) == len(stopped) - 2
    for expected, got in zip(rest, resumed, strict=True):
        assert torch.equal(expected.role("p1"), got.role("p1"))
        assert got.role("ref").shape[2:] == (16, 16)


def test_crops_lie_at_the_same_place_of_all_images(tmp_path):
    columns = np.tile(np.arange(40, dtype=np.uint8), (30, 1))
    rows = np.tile(np.arange(30, dtype=np.uint8)[:, None], (1, 40))
    for name, shift in (("a", 0), ("b", 100), ("c", 200)):
        Image.fromarray(np.stack([columns + shift, rows, rows], 2).astype(np.uint8)).save(
            tmp_path / f"{name}.png"
        )
    (tmp_path / "set.csv").write_text("ref,p0,p1,judge\n" + "a.png,b.png,c.png,1\n" * 40)
    table = JudgedDataset(read_manifest(tmp_path / "set.csv").open(None), crop=12)
    places = set()
    for batch in Batches(table, 8, seed=0):
        shifted = (batch.role("p1") - batch.role("ref"))[:, 0] * 255
        torch.testing.assert_close(shifted, torch.full_like(shifted, 200))
        places |= {tuple(place) for place in (batch.role("ref")[:, :2, 0, 0] * 255).round().int().tolist()}
    assert len(places) > 20
    assert max(x for x, _ in places) > 22
    assert max(y for _, y in places) > 13


def test_distances_are_those_of_one_image_at_a_time(manifest, monkeypatch):
    data = data_of(manifest)
    lpips = LPIPS("squeezenet1_1-random")
    expected = [
        [float(lpips(item.role("ref"), other)) for other in (item.role("p0"), item.role("p1"))]
        for item in (data.val_set[i] for i in range(len(data.val_set)))
    ]
    measured = _measure({"it": lpips}, data.val_set, data.val_dataloader())["it"]
    np.testing.assert_allclose(np.stack(measured.columns, 1), expected, atol=1e-6)
    monkeypatch.setattr(opened, "MEMORY_BUDGET", 1000)
    files = data_of(manifest)
    measured = _measure({"it": lpips}, files.val_set, files.val_dataloader())["it"]
    np.testing.assert_allclose(np.stack(measured.columns, 1), expected, atol=1e-6)
    pairs, which = data.val_set.pairs(), data.val_set.table.distinct_pairs[1]
    read = mean_differences(lpips, chunks_of_pairs(pairs), lambda rows: as_floats(pairs.images.checked(rows)))
    distance = weigh(lpips, torch.cat(list(read))).numpy()
    np.testing.assert_allclose(distance[which].T, expected, atol=1e-5)


def test_shorter_side_keeps_the_shape(manifest):
    data = data_of(manifest, shorter_side=12)
    shapes = {tuple(batch.role("ref").shape[2:]) for batch in data.val_dataloader()}
    assert shapes == {(12, 18), (18, 12), (12, 12), (18, 12)}
    assert data.fingerprint() != data_of(manifest).fingerprint()


def test_what_cannot_be_used_is_one_line(manifest, tmp_path):
    with pytest.raises(ValueError, match=r"shorter_side=12 keeps the shape .* size must be null"):
        data_of(manifest, shorter_side=12, size=64)
    with pytest.raises(ValueError, match=r"crop=22 needs images of at least 22×22 pixels; 24 are smaller"):
        data_of(manifest, crop=22)
    Image.new("RGB", (30, 21)).save(tmp_path / "20-p1.png")
    with pytest.raises(
        ValueError, match=r"1 of 24 items .* item 21 \(.*20-p1.png 30×21\); data.shorter_side"
    ):
        data_of(manifest)
    Image.new("RGB", (8, 1)).save(tmp_path / "20-p1.png")
    with pytest.raises(ValueError, match=r"20-p1.png \(8×1, a side below 8 pixels\)"):
        data_of(manifest)


def test_a_bomb_among_opinions_is_refused(tmp_path, monkeypatch):
    Image.new("L", (200, 100)).save(tmp_path / "a.png")
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 1000)
    (tmp_path / "set.csv").write_text("ref,dist,mos\na.png,a.png,1\n")
    with pytest.raises(ValueError, match=r"a.png .*20000 pixels"):
        OpinionDataModule(str(tmp_path / "set.csv")).setup()


def test_what_larger_scores_mean_is_never_guessed(tmp_path):
    for name in "ab":
        Image.new("RGB", (16, 16)).save(tmp_path / f"{name}.png")
    path = tmp_path / "set.csv"
    scores = {}
    for column, larger in (("mos", None), ("dmos", None), ("score", "worse"), ("score", "better")):
        path.write_text(f"ref,dist,{column}\na.png,b.png,3.5\n")
        data = ready(OpinionDataModule(str(path), larger=larger), None)
        scores[column, larger] = float(data.val_set.table.answer[0])
    assert list(scores.values()) == [-3.5, 3.5, 3.5, -3.5]
    with pytest.raises(ValueError, match="a column score does not say whether larger is better or worse"):
        OpinionDataModule(str(path)).setup()
    path.write_text("ref,dist,mos\na.png,b.png,3.5\n")
    with pytest.raises(ValueError, match="larger mos are better by definition"):
        OpinionDataModule(str(path), larger="worse").setup()
