"""Every kind of batch gives the distances of plain calls, by any distance."""

import numpy as np
import piq
import pytest
import torch
from judged import make_table, pixels

from perceptual import LPIPS
from perceptual.data import JND, OPINION, TWO_AFC, JudgedDataset

IMAGES, SIDE, ITEMS = 5, 40, 7
KINDS = ["triplets", "shared triplets", "pairs", "opinions", "distinct pairs"]


def table(kind):
    """Seven items over five images; the answers do not matter here."""
    rng = np.random.default_rng(0)
    images = torch.from_numpy(rng.integers(0, 256, (IMAGES, 3, SIDE, SIDE), dtype=np.uint8))
    items = np.stack([rng.permutation(IMAGES)[: len(kind.roles)] for _ in range(ITEMS)], axis=1)
    return make_table(
        kind, images, **dict(zip(kind.roles, items, strict=True)), **{kind.answer: np.zeros(ITEMS)}
    )


def batch_and_compared(kind: str):
    """A batch of a kind, and for each of its distances the two images of each item, (N, 2)."""
    rows = np.array([4, 0, 6, 1])
    if kind in ("triplets", "shared triplets"):
        data = JudgedDataset(table(TWO_AFC))
        ref, p0, p1 = data.table.items[:, rows]
        batch = (data if kind == "triplets" else data.sharing(ITEMS)).__getitems__(rows)
        assert (batch.items is None) == (kind == "triplets")
        return batch, data, [np.stack([ref, p0], 1), np.stack([ref, p1], 1)]
    if kind == "distinct pairs":
        data = JudgedDataset(table(JND)).pairs()
        return data.__getitems__([2, 0]), data, [data.table.items.T[[2, 0]]]
    data = JudgedDataset(table({"pairs": JND, "opinions": OPINION}[kind]))
    return data.__getitems__(rows), data, [data.table.items[:, rows].T]


def by_numbers(x, y):
    return (x - y).abs().mean((1, 2, 3)) + x.mean((1, 2, 3))  # not symmetric: the order of the two counts


def by_piq(x, y):
    return 1 - piq.ssim(x, y, reduction="none")


@pytest.fixture(scope="module")
def lpips(tmp_path_factory):
    torch.manual_seed(0)
    return LPIPS("alexnet-random")


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", ["lambda", "piq", "lpips"])
@torch.no_grad()
def test_distances_are_those_of_direct_calls(kind, name, lpips):
    distance = {"lambda": lambda x, y: by_numbers(x, y), "piq": by_piq, "lpips": lpips}[name]
    batch, data, compared = batch_and_compared(kind)
    found = batch.distances(distance)
    assert isinstance(found, tuple)
    assert len(found) == len(compared)
    images = pixels(data.table).float() / 255
    for d, pairs in zip(found, compared, strict=True):
        assert d.shape == (len(pairs),)
        single = [distance(images[[i]], images[[j]]).item() for i, j in pairs]
        torch.testing.assert_close(d, torch.tensor(single), rtol=1e-5, atol=1e-6)


class Counting:
    """A distance with its own ways to compare triplets and recurring images."""

    def __init__(self, *offered: str) -> None:
        self.called = []
        for name in offered:
            setattr(self, name, getattr(self, f"_{name}"))

    def __call__(self, x, y):
        self.called.append("call")
        return by_numbers(x, y)

    def _triplet(self, ref, p0, p1):
        self.called.append("triplet")
        return by_numbers(ref, p0), by_numbers(ref, p1)

    def _among(self, images, first, second):
        self.called.append("among")
        return by_numbers(images[first], images[second])


@pytest.mark.parametrize(
    ("kind", "offered", "called"),
    [
        ("triplets", (), ["call"] * 2),
        ("triplets", ("triplet", "among"), ["triplet"]),
        ("shared triplets", (), ["call"] * 2),
        ("shared triplets", ("triplet",), ["triplet"]),
        ("shared triplets", ("triplet", "among"), ["among"]),
        ("pairs", ("triplet", "among"), ["call"]),
        ("opinions", ("triplet", "among"), ["call"]),
        ("distinct pairs", ("triplet", "among"), ["call"]),
    ],
)
def test_what_a_distance_offers_is_used(kind, offered, called):
    batch, _, _ = batch_and_compared(kind)
    distance = Counting(*offered)
    found = batch.distances(distance)
    assert distance.called == called
    for ours, plain in zip(found, batch.distances(by_numbers), strict=True):
        torch.testing.assert_close(ours, plain)


@pytest.mark.parametrize("kind", KINDS)
def test_to_moves_every_column(kind):
    batch, _, _ = batch_and_compared(kind)
    tensors = [column for column in batch if isinstance(column, torch.Tensor)]
    moved = [column for column in batch.to("meta") if isinstance(column, torch.Tensor)]
    assert {column.device.type for column in moved} == {"meta"}
    assert [column.shape for column in moved] == [column.shape for column in tensors]
    assert batch.to("meta").kind == batch.kind
