"""What files rely on: fingerprints, and the names of classes in checkpoints."""

import numpy as np
import pytest
import torch
from judged import make_table

import perceptual.data
from perceptual.data import JND, OPINION, TWO_AFC

COLUMNS = {
    TWO_AFC: {"ref": [0, 1], "p0": [1, 2], "p1": [2, 0], "judgment": [0.25, 1], "votes": [4, 2]},
    JND: {"p0": [0, 1], "p1": [1, 2], "same": [0.25, 1]},
    OPINION: {"ref": [0, 1], "dist": [1, 2], "score": [-3, 40]},
}


@pytest.mark.parametrize(
    ("kind", "expected"),
    [
        (TWO_AFC, "71cfd078bf02efb75384c86a8aaaf7066c1ab05accf5d1022cc83f7f55a21c97"),
        (JND, "d49384ef66ce73fa61bf0eded7b671867d7651cf2f83f7ee8065cca8b99d4a25"),
        (OPINION, "6936d93fcd501c4d2196e7d3b2680282f559c20f8415924f77c98d67a28b37af"),
    ],
)
def test_fingerprints_stay_the_same(kind, expected):
    images = torch.arange(3 * 3 * 8 * 8).remainder(251).to(torch.uint8).view(3, 3, 8, 8)
    columns = dict(COLUMNS[kind], subset=np.array([0, 1]), subsets=["a", "b"])
    if votes := columns.pop("votes", None):
        columns["votes"] = np.array(votes, np.float32)
    table = make_table(kind, images, **columns)
    assert table.fingerprint() == expected


def test_every_public_name_is_there():
    for name in perceptual.data.__all__:
        assert name.isupper() or getattr(perceptual.data, name).__name__ == name
    for name in ("BAPPS", "JND", "Judged", "Manifest", "Opinion", "Photos"):
        assert f"{name}DataModule" in perceptual.data.__all__
    with pytest.raises(AttributeError, match="has no attribute 'TripletDataModule'"):
        _ = perceptual.data.TripletDataModule
