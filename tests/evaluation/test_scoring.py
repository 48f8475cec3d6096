"""Batches that are too large for a processor are compared in pieces, with the same distances."""

import pytest
import torch
from judged import pairs, triplets

from perceptual.data import TWO_AFC, Batch
from perceptual.evaluation.scoring import PIECE, compare


def noise(count, side):
    return triplets(*torch.rand(3, count, 3, side, side))


def l2(seen):
    """A distance that notes how many pixels it is given at once, of both images of each pair."""

    def distance(x, y):
        seen.append(x.numel() // 3 + y.numel() // 3)
        return (x - y).square().mean((1, 2, 3))

    return distance


@pytest.mark.parametrize(("count", "side"), [(50, 64), (7, 256), (3, 1000), (0, 64)])
def test_triplets_in_pieces_have_the_distances_of_the_whole(count, side):
    batch, seen = noise(count, side), []
    d0, d1 = compare(l2(seen), batch)
    assert torch.equal(d0, (batch.role("ref") - batch.role("p0")).square().mean((1, 2, 3)))
    assert torch.equal(d1, (batch.role("ref") - batch.role("p1")).square().mean((1, 2, 3)))
    assert max(seen) <= max(PIECE, 2 * side**2)


def test_the_batch_of_the_paper_is_one_piece_and_larger_images_are_several():
    for count, side, pieces in ((50, 64, 1), (7, 256, 3), (3, 1000, 3)):
        seen = []
        compare(l2(seen), noise(count, side))
        assert len(seen) == 2 * pieces  # p0 and p1


def test_pairs_in_pieces_have_the_distances_of_the_whole():
    x, y = torch.rand(2, 9, 3, 256, 256)
    seen = []
    (distance,) = compare(l2(seen), pairs(x, y))
    assert torch.equal(distance, (x - y).square().mean((1, 2, 3)))
    assert len(seen) == 3  # 4, 4 and 1


def test_triplets_that_share_images_are_not_taken_apart():
    """As many images as triplets, or columns of one length would be cut together."""
    items = torch.tensor([[2, 1, 0], [1, 0, 2], [0, 2, 1]])
    rest = torch.zeros(3), torch.ones(3), torch.zeros(3, dtype=torch.int64)
    batch = Batch(TWO_AFC, torch.rand(3, 3, 512, 512), items, *rest)
    d0, _ = compare(l2([]), batch)
    assert torch.equal(d0, (batch.images[items[0]] - batch.images[items[1]]).square().mean((1, 2, 3)))
