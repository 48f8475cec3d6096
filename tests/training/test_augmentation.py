"""Augmentation: triplets are changed whole, by the seed, the epoch and the batch only."""

import numpy as np
import pytest
import torch
from judged import apart, triplets
from rankers import RANDOM, fit, make_batches

from perceptual.data import TWO_AFC, Batch
from perceptual.training.module import PerceptualRanker


def augmented(ranker, batches, tmp_path):
    """The batches as the distance gets to see them in two epochs."""
    seen = []
    forward = Batch.distances

    def note(batch, distance):
        seen.append(batch)
        return forward(batch, distance)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Batch, "distances", note)
        fit(ranker, tmp_path, batches, max_epochs=2)
    return seen


@pytest.mark.parametrize("augmentation", [(), ("flip",), ("swap",), ("flip", "swap")], ids=str)
def test_each_triplet_is_changed_whole_or_not_at_all_half_of_the_time(augmentation, tmp_path):
    batches = make_batches(8, items=6, side=16)
    seen = augmented(PerceptualRanker(RANDOM, augmentation=augmentation), batches, tmp_path)
    kinds = []
    for batch, original in zip(seen, [*batches, *batches], strict=True):
        for i in range(6):
            variants = {}
            for flipped in (False, True):
                ref, p0, p1 = (
                    image[i].flip(2) if flipped else image[i] for image in map(original.role, TWO_AFC.roles)
                )
                variants[flipped, False] = (ref, p0, p1, original.answer[i])
                variants[flipped, True] = (ref, p1, p0, 1 - original.answer[i])
            ours = [batch.role("ref")[i], batch.role("p0")[i], batch.role("p1")[i], batch.answer[i]]
            (kind,) = [k for k, v in variants.items() if all(map(torch.equal, ours, v))]
            kinds.append(kind)
    flips, swaps = np.mean(kinds, axis=0)
    assert (0.3 < flips < 0.7) if "flip" in augmentation else flips == 0
    assert (0.3 < swaps < 0.7) if "swap" in augmentation else swaps == 0
    assert kinds[:48] != kinds[48:] or not augmentation  # the epochs differ


def test_the_images_of_a_triplet_are_cropped_and_lit_alike_each_triplet_by_itself(tmp_path):
    images = torch.rand(1, 3, 16, 16, generator=torch.Generator().manual_seed(0)).expand(6, -1, -1, -1)
    batches = [triplets(images, images, images, torch.ones(6), torch.ones(6), torch.zeros(6).long())]
    for batch in augmented(
        PerceptualRanker(RANDOM, augmentation=["flip", "crop", "light"]), batches, tmp_path
    ):
        assert torch.equal(batch.role("ref"), batch.role("p0"))
        assert torch.equal(batch.role("ref"), batch.role("p1"))
        assert len(batch.role("ref").flatten(1).unique(dim=0)) == 6


@pytest.mark.parametrize("variant", ["lin", "tune"])
def test_training_on_images_once_a_batch_is_training_on_triplets(variant, tmp_path):
    generator = torch.Generator().manual_seed(0)
    images = torch.rand(5, 3, 32, 32, generator=generator)
    rows = torch.stack([torch.randperm(5, generator=generator)[:3] for _ in range(8)], dim=1)
    judgment = torch.randint(6, (8,), generator=generator) / 5
    shared = Batch(TWO_AFC, images, rows, judgment, torch.ones(8), torch.zeros(8).long())
    lins = []
    for batch in (shared, apart(shared)):
        torch.manual_seed(0)
        backbone = {"name": "test_convnext", "weights": None}  # no statistics of a batch in it
        ranker = PerceptualRanker(backbone, variant, ranking="antisymmetric", lin_init="ones", dropout=0)
        fit(ranker, tmp_path, [batch] * 20)
        lins.append(torch.cat(list(ranker.distance.lin)).detach())
    assert (lins[0] - 1).abs().max() > 1e-3
    torch.testing.assert_close(*lins, atol=2e-5, rtol=0)


def test_the_augmentation_depends_on_seed_epoch_and_batch_only(tmp_path):
    def judgments(seed, torch_seed):
        torch.manual_seed(torch_seed)
        ranker = PerceptualRanker(RANDOM, augmentation=["swap"], seed=seed)
        seen = augmented(ranker, make_batches(4, items=6, side=16), tmp_path)
        return torch.cat([batch.answer for batch in seen])

    assert torch.equal(judgments(1, 2), judgments(1, 3))
    assert not torch.equal(judgments(1, 2), judgments(2, 2))
