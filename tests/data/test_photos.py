import numpy as np
import torch

from perceptual.data.photos import TRAIN_PHOTOS, VAL_PHOTOS, make_triplets, read_photos


def test_photographs_are_on_one_side_only():
    assert not set(TRAIN_PHOTOS) & set(VAL_PHOTOS)
    pair = {"motorcycle_left.png", "motorcycle_right.png"}
    assert pair <= set(VAL_PHOTOS)
    for photo in read_photos(TRAIN_PHOTOS + VAL_PHOTOS):
        assert photo.mode == "RGB"
        assert min(photo.size) >= 64


def test_seed_decides_and_a_longer_set_begins_alike():
    photos = read_photos(TRAIN_PHOTOS)
    first, longer, other = (make_triplets(photos, n, seed, 32) for n, seed in ((20, 0), (30, 0), (20, 1)))
    assert torch.equal(first.images[first.ref], longer.images[longer.ref[:20]])
    assert torch.equal(first.images[first.p1], longer.images[longer.p1[:20]])
    np.testing.assert_array_equal(first.judgment, longer.judgment[:20])
    assert not torch.equal(first.images, other.images)


def test_does_not_touch_the_threads_or_the_global_generators():
    threads, state = torch.get_num_threads(), torch.get_rng_state()
    make_triplets(read_photos(TRAIN_PHOTOS[:1]), 3, 0)
    assert torch.get_num_threads() == threads
    assert torch.equal(torch.get_rng_state(), state)


def test_table_is_in_memory_and_balanced():
    table = make_triplets(read_photos(TRAIN_PHOTOS), 600, 0, 16)
    assert table.images.shape == (1800, 3, 16, 16)
    assert table.images.dtype == torch.uint8
    assert np.isin(table.judgment * 5, range(6)).all()
    assert 0.45 < table.judgment.mean() < 0.55
    assert np.bincount(table.subset, minlength=6).min() > 60
    ceiling = np.maximum(table.judgment, 1 - table.judgment).mean()
    assert 0.75 < ceiling < 0.92  # judged neither by a coin nor by an oracle


def test_patches_show_something():
    table = make_triplets(read_photos(TRAIN_PHOTOS + VAL_PHOTOS), 200, 0)
    assert table.images[table.ref].float().flatten(1).std(dim=1).min() > 5
