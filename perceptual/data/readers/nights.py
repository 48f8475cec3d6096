"""Triplets of NIGHTS (Fu et al. 2023, "DreamSim", https://arxiv.org/abs/2306.09344)."""

from pathlib import Path

import numpy as np

from perceptual.data.kinds import TWO_AFC
from perceptual.data.readers.columns import read_columns
from perceptual.data.table import SPLITS, Table

FILE = "data.csv"
MIN_VOTES = 6  # the authors' rule: triplets on which so many people agreed


def read_nights(folder: str | Path, min_votes: int = MIN_VOTES) -> Table:
    """List the triplets of NIGHTS that its authors use, from its folder as published.

    `data.csv` there names the images and counts the votes; left is p0, right is p1, and `judgment` is the
    share of `right_vote`. The set's own `split` is kept; other columns are ignored.

    Args:
        folder: of the set.
        min_votes: triplets of fewer votes are left out, and so are images that only they show.

    Raises:
        FileNotFoundError: there is no `data.csv`.
        ValueError: it lacks columns, holds no row of so many votes, or has a value that is not allowed.
    """
    path = Path(folder) / FILE
    images = ("ref_path", "left_path", "right_path")
    columns = read_columns(path, ("left_vote", "right_vote", "votes", *images, "split"), None)
    left, right = columns.numbers("left_vote", 0), columns.numbers("right_vote", 0)
    votes, total = columns.people("votes"), left + right
    rule = "left_vote or right_vote must be positive"
    columns.refuse("left_vote", rule, (total == 0) & (votes >= min_votes))
    paths, items = columns.files(images)
    table = Table(
        kind=TWO_AFC,
        paths=paths,
        items=items,
        answer=right / np.where(total == 0, 1, total),
        subset=np.zeros(len(columns), np.int64),
        subsets=["nights"],
        votes=votes,
        split=columns.words("split", SPLITS),
    )
    return table.of_votes(min_votes)
