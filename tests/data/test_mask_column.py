"""A column `mask` in manifests: what counts of each item, in evaluation and in training."""

import csv
from pathlib import Path

import app
import numpy as np
import pytest
import torch
from PIL import Image

from perceptual import LPIPS
from perceptual.data import ManifestDataModule, pack, read_manifest
from perceptual.distance.baselines import BASELINES
from perceptual.evaluation import evaluate as evaluation
from perceptual.training.cache import CachedDataModule


@pytest.fixture
def manifest(tmp_path) -> Path:
    """Triplets that share images, each with one of three masks."""
    path = app.write_manifest(tmp_path / "set", rows=24, size=64)
    rng = np.random.default_rng(1)
    for number in range(3):
        ink = 255 * (rng.random((64, 64)) < 0.3).astype(np.uint8)
        ink[:, :32] = 0
        Image.fromarray(ink).save(tmp_path / f"set/m{number}.png")
    Image.new("L", (64, 64)).save(tmp_path / "set/black.png")
    Image.new("L", (32, 64), 255).save(tmp_path / "set/small.png")
    return path


def with_masks(path, masks):
    with path.open() as file:
        rows = list(csv.DictReader(file))
    for number, row in enumerate(rows):
        row["mask"] = masks[number % len(masks)]
    with (written := path.with_name("masked.csv")).open("w", newline="") as file:
        rows_of = csv.DictWriter(file, [*rows[0]])
        rows_of.writeheader()
        rows_of.writerows(rows)
    return written


THREE = ("m0.png", "m1.png", "m2.png")


@pytest.mark.parametrize("size", [64, 40, None])
def test_distances_are_of_what_the_mask_covers(manifest, size):
    path = with_masks(manifest, THREE)
    data = ManifestDataModule(str(path), size=size, val_fraction=1, batch_size=5)
    plain = ManifestDataModule(str(manifest), size=size, val_fraction=1, batch_size=5)
    for one in (data, plain):
        one.setup("validate")
    torch.manual_seed(0)
    lpips, l2 = LPIPS("test_resnet-random"), BASELINES["l2"]()
    with torch.no_grad():
        for batch, whole in zip(data.val_dataloader(), plain.val_dataloader(), strict=True):
            assert torch.equal(
                batch.images,
                whole.images
                if whole.items is None
                else torch.cat([whole.role(role) for role in whole.kind.roles]),
            )
            assert batch.mask.shape == (len(batch.answer), 1, *batch.images.shape[2:])
            for distance in (lpips, l2):
                expected = [distance(batch.role("ref"), batch.role(p), mask=batch.mask) for p in ("p0", "p1")]
                for ours, theirs in zip(batch.distances(distance), expected, strict=True):
                    torch.testing.assert_close(ours, theirs)
                assert not torch.allclose(batch.distances(distance)[0], whole.distances(distance)[0])
    assert data.fingerprint() != plain.fingerprint()
    if size == 64:  # the file itself
        ink = np.asarray(Image.open(manifest.with_name("m0.png"))) / 255
        first = data.val_set[0].mask[0, 0].numpy()
        assert any(np.array_equal(first, np.asarray(Image.open(manifest.with_name(m))) / 255) for m in THREE)
        assert ink.max() == 1


def test_masks_move_with_their_images(manifest):
    data = ManifestDataModule(str(with_masks(manifest, THREE)), size=None, crop=16, batch_size=4)
    data.setup("fit")
    batch = next(iter(data.train_dataloader()))
    assert batch.mask.shape == (4, 1, 16, 16)
    few = batch._replace(images=batch.mask.repeat(3, 3, 1, 1))  # each image is its mask
    draws = torch.rand(4, 4, generator=torch.Generator().manual_seed(0))
    for change in ("flip", "crop", "swap"):
        few = getattr(few, change)(draws)
        for role in few.kind.roles:
            torch.testing.assert_close(few.role(role)[:, :1], few.mask)
    parts = batch.pieces(3 * 16 * 16)
    assert torch.equal(torch.cat([part.mask for part in parts]), batch.mask)


def test_items_of_enough_votes_keep_their_masks(manifest):
    table = read_manifest(with_masks(manifest, THREE))
    kept = table.take(np.arange(24) % 3 == 2).of_votes(2)
    assert {Path(kept.paths[i]).name for i in kept.mask} == {"m2.png"}


@pytest.mark.parametrize(
    ("masks", "said"),
    [
        (("m0.png", "black.png"), "1 masks are black: nothing of their items would count: .*black.png"),
        (("m0.png", "", "m1.png"), "mask must name an image: what is white there counts; 8 of 24"),
        (("gone.png",), "gone.png"),
        (("m0.png", "small.png"), r"12 of 24 items have images that differ in size: .*small\.png 32×64"),
    ],
)
def test_masks_that_cannot_be_used_are_one_line(manifest, masks, said):
    with pytest.raises((ValueError, OSError), match=said) as raised:
        read_manifest(with_masks(manifest, masks)).open(None)
    assert "\n" not in str(raised.value)


def test_stores_and_cached_features_have_no_masks(manifest, tmp_path):
    path = with_masks(manifest, THREE)
    with pytest.raises(ValueError, match="has masks, which stores do not hold"):
        pack(read_manifest(path), tmp_path / "store", str(path), size=16)
    data = ManifestDataModule(str(path), size=16)
    data.setup("fit")
    with pytest.raises(ValueError, match=r"these items have masks: data\.cache=off"):
        CachedDataModule(data, LPIPS("test_resnet-random"), tmp_path / "cache")


def test_evaluation_and_training_use_them(manifest, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    path = with_masks(manifest, THREE)
    data = ManifestDataModule(str(path), size=64, val_fraction=1)
    data.setup("validate")
    place, _, found, lost = evaluation.evaluate(["l2", "test_resnet-random", "gmsd"], data, "results")
    assert {result.method for result in found} == {"l2", "test_resnet-random"}
    assert "takes no mask" in lost["gmsd"]
    kept = {result.method: result.arrays["d0"] for result in place.all()}["l2"]
    table = data.val_set.table
    shown = table.images.batch(torch.from_numpy(table.read.ravel())).view(4, len(table), 3, 64, 64) / 255
    apart = (shown[0] - shown[1]).square().mean(1) * shown[3].amax(1)
    by_hand = apart.sum((1, 2)) / shown[3].amax(1).sum((1, 2))
    np.testing.assert_allclose(kept, by_hand, rtol=1e-5)
    small = (
        "backbone.name=test_resnet",
        "backbone.weights=null",
        "trainer=smoke",
        "data.size=64",
        "callbacks.guard.floor=0",
    )
    app.run("train.py", "data=manifest", f"data.path={path}", *small, monkeypatch=monkeypatch)
    assert "Masks     honoured: images are read anew, features are not cached" in capsys.readouterr().out
