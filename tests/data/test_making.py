import numpy as np
import pytest
import torch
from judged import pixels
from PIL import Image

from perceptual.data import JND, TWO_AFC, read_store
from perceptual.data.decode import read_rgb
from perceptual.data.synthetic import making
from perceptual.data.synthetic.distortions import GROUPS
from perceptual.data.synthetic.making import Making, make_pairs, make_triplets
from perceptual.data.synthetic.photographs import TRAIN_PHOTOS, VAL_PHOTOS, packaged
from perceptual.data.synthetic.storing import make_store


def test_photographs_are_on_one_side_only():
    assert not set(TRAIN_PHOTOS) & set(VAL_PHOTOS)
    assert {"motorcycle_left.png", "motorcycle_right.png"} <= set(VAL_PHOTOS)
    for path in packaged():
        assert min(read_rgb(path).size) >= 64


@pytest.mark.parametrize("make", [make_triplets, make_pairs])
def test_seed_decides_and_a_longer_set_begins_alike(make):
    photos = packaged(TRAIN_PHOTOS)
    first, longer, other = (make(photos, n, seed, 32) for n, seed in ((20, 0), (30, 0), (20, 1)))
    for ours, theirs in zip(first.items, longer.items, strict=True):
        assert torch.equal(pixels(first)[ours], pixels(longer)[theirs[:20]])
    np.testing.assert_array_equal(first.answer, longer.answer[:20])
    assert not torch.equal(pixels(first), pixels(other))


@pytest.mark.parametrize(("make", "kind"), [(make_triplets, TWO_AFC), (make_pairs, JND)])
def test_workers_give_the_same_bytes(make, kind, two_workers, tmp_path):
    one, two = (make(packaged(), 20, 3, 32, workers) for workers in (1, 2))
    assert torch.equal(pixels(one), pixels(two))
    assert pixels(one).shape == (20 * len(kind.roles), 3, 32, 32)
    for name in ("items", "answer", "subset", "votes"):
        np.testing.assert_array_equal(getattr(one, name), getattr(two, name))
    make_store(Making(kind, packaged(), 20, 3, 32), tmp_path / "store", "photographs", workers=2)
    assert read_store(kind, tmp_path / "store").fingerprint() == one.fingerprint()


def test_does_not_touch_the_threads_or_the_global_generators():
    threads, state = torch.get_num_threads(), torch.get_rng_state()
    make_triplets(packaged(TRAIN_PHOTOS[:1]), 3, 0)
    assert torch.get_num_threads() == threads
    assert torch.equal(torch.get_rng_state(), state)


def test_triplets_are_balanced():
    table = make_triplets(packaged(), 600, 0, 16, design="severity")
    assert pixels(table).shape == (1800, 3, 16, 16)
    assert pixels(table).dtype == torch.uint8
    assert np.isin(table.answer, np.float32(np.arange(6) / 5)).all()
    assert 0.45 < table.answer.mean() < 0.55
    assert table.subsets == list(GROUPS)
    assert np.bincount(table.subset, minlength=5).min() > 80
    ceiling = np.maximum(table.answer, 1 - table.answer).mean()
    assert 0.75 < ceiling < 0.92  # judged neither by a coin nor by an oracle


def test_pairs_are_called_the_same_the_less_the_more_they_differ():
    table = make_pairs(packaged(), 600, 0, 32, design="severity")
    p0, p1 = pixels(table)[table.items].float()
    difference = (p0 - p1).square().mean((1, 2, 3)).sqrt().numpy()
    order = np.argsort(difference)
    assert table.answer[order[:200]].mean() > 0.6
    assert table.answer[order[-200:]].mean() < 0.35
    assert np.isin(table.answer, np.float32(np.arange(4) / 3)).all()


def test_patches_show_something_and_differ():
    table = make_triplets(packaged(), 200, 0)
    ref, p0, p1 = pixels(table)[table.items].float()
    assert ref.flatten(1).std(dim=1).min() > 5
    assert all(not torch.equal(a, b) for a, b in zip(p0, p1, strict=True))


def test_photographs_that_cannot_be_used(tmp_path):
    with pytest.raises(ValueError, match="no photographs"):
        make_triplets([], 3, 0)
    Image.new("RGB", (200, 40)).save(tmp_path / "small.png")
    with pytest.raises(ValueError, match=r"small.png is 200×40, patches need 64 on the smaller side"):
        make_triplets([str(tmp_path / "small.png")], 3, 0, 32)
    (tmp_path / "text.png").write_text("an essay")
    with pytest.raises(OSError, match=r"cannot read the photograph .*text.png"):
        make_triplets([str(tmp_path / "text.png")], 3, 0)


def test_a_small_photograph_is_refused_before_any_is_read(tmp_path, monkeypatch):
    Image.new("RGB", (200, 40)).save(tmp_path / "small.png")
    monkeypatch.setattr(making, "read_photo", lambda *_: pytest.fail("read a photograph"))
    with pytest.raises(ValueError, match=r"small.png is 200×40, patches need 64 on the smaller side"):
        make_triplets([*packaged(), str(tmp_path / "small.png")], 100, seed=0)
