"""What files of earlier versions rely on: fingerprints, and the names of classes in checkpoints."""

import numpy as np
import pytest
import torch

import perceptual.data
from perceptual.data import OpinionTable, PairTable, TripletTable

COLUMNS = {
    TripletTable: {"ref": [0, 1], "p0": [1, 2], "p1": [2, 0], "judgment": [0.25, 1], "votes": [4, 2]},
    PairTable: {"p0": [0, 1], "p1": [1, 2], "same": [0.25, 1]},
    OpinionTable: {"ref": [0, 1], "dist": [1, 2], "score": [-3, 40]},
}


# as version 0.1.0 computed them
@pytest.mark.parametrize(
    ("kind", "expected"),
    [
        (TripletTable, "71cfd078bf02efb75384c86a8aaaf7066c1ab05accf5d1022cc83f7f55a21c97"),
        (PairTable, "d49384ef66ce73fa61bf0eded7b671867d7651cf2f83f7ee8065cca8b99d4a25"),
        (OpinionTable, "6936d93fcd501c4d2196e7d3b2680282f559c20f8415924f77c98d67a28b37af"),
    ],
)
def test_fingerprints_stay_the_same(kind, expected):
    pixels = torch.arange(3 * 3 * 8 * 8).remainder(251).to(torch.uint8).view(3, 3, 8, 8)
    numbers = {
        name: np.array(column, np.int64 if name in kind.roles else np.float32)
        for name, column in COLUMNS[kind].items()
    }
    table = kind(images=pixels, **numbers, subset=np.array([0, 1]), subsets=["a", "b"])
    assert table.fingerprint() == expected


def test_every_public_name_is_there():
    for name in perceptual.data.__all__:
        assert getattr(perceptual.data, name).__name__ == name
    for name in ("BAPPS", "JND", "Manifest", "Opinion", "Photos", "TwoAFC"):
        assert f"{name}DataModule" in perceptual.data.__all__
    with pytest.raises(AttributeError, match="has no attribute 'TripletDataModule'"):
        _ = perceptual.data.TripletDataModule
