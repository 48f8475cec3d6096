"""Triplets of NIGHTS (Fu et al. 2023, "DreamSim", https://arxiv.org/abs/2306.09344)."""

from pathlib import Path

import numpy as np

from perceptual.data.items.table import SPLITS
from perceptual.data.items.triplets import TripletTable
from perceptual.data.readers.columns import read_columns

FILE = "data.csv"


def read_nights(folder: str | Path) -> TripletTable:
    """List the triplets of NIGHTS, from its folder as published.

    `data.csv` there names the images and counts the votes; left is p0, right is p1, and `judgment` is the
    share of `right_vote`. The set's own `split` is kept; other columns are ignored.

    Raises:
        FileNotFoundError: there is no `data.csv`.
        ValueError: it lacks columns, holds no row, or has a value that is not allowed.
    """
    path = Path(folder) / FILE
    images = ("ref_path", "left_path", "right_path")
    columns = read_columns(path, ("left_vote", "right_vote", *images, "split"), None)
    left, right = columns.numbers("left_vote", 0), columns.numbers("right_vote", 0)
    columns.refuse("left_vote", "left_vote or right_vote must be positive", left + right == 0)
    files, (ref, p0, p1) = columns.files(images)
    return TripletTable(
        images=files,
        ref=ref,
        p0=p0,
        p1=p1,
        judgment=right / (left + right),
        subset=np.zeros(len(columns), np.int64),
        subsets=["nights"],
        votes=columns.numbers("votes", 1) if "votes" in columns else None,
        split=columns.words("split", SPLITS),
    )
