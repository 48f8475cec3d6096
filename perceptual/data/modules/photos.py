"""DataModule of triplets made out of the photographs that scikit-image ships.

A first run needs no download, from images to score. The judgments are a simulated observer's, not people's,
see `perceptual.data.synthetic.making`.
"""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import torch

from perceptual.data.items.triplets import TripletTable
from perceptual.data.loading import at_least
from perceptual.data.modules.two_afc import TwoAFCDataModule
from perceptual.data.synthetic.designs import NAMES
from perceptual.data.synthetic.making import make_triplets
from perceptual.data.synthetic.photographs import TRAIN_PHOTOS, VAL_PHOTOS, packaged

_SUBSETS = {"paper": "traditional", "severity": "severity", "cnn": "cnn", "mix": "mix"}  # of the designs


class PhotosDataModule(TwoAFCDataModule):
    """Triplets made of scikit-image's photographs and judged by a simulated observer, see `make_triplets`.

    A quarter of them is of each design: `traditional` (design `paper`), `severity`, `cnn` and `mix`, see
    `perceptual.data.synthetic.designs`. Training and validation triplets come from different photographs.
    They do not depend on `seed`, which only orders them.

    Args:
        count_train: training triplets to make.
        count_val: validation triplets to make.
        designs: which designs they are of; of one alone, the subsets are its own.

    The other arguments are those of `TwoAFCDataModule`.
    """

    def __init__(
        self,
        count_train: int = 3000,
        count_val: int = 1000,
        size: int | None = 64,
        batch_size: int = 50,
        num_workers: int | None = None,
        weight_by_votes: bool = False,
        seed: int = 0,
        jnd: str | None = None,
        shorter_side: int | None = None,
        crop: int | None = None,
        designs: Sequence[str] = NAMES,
    ) -> None:
        super().__init__(size, batch_size, num_workers, weight_by_votes, seed, jnd, shorter_side, crop)
        if size is None:
            raise ValueError("data=photos makes squares: size must be their side, not null")
        self.side = size
        at_least("count_train", count_train, 1)
        at_least("count_val", count_val, 1)
        if not designs or not set(designs) <= set(NAMES) or len(set(designs)) < len(designs):
            raise ValueError(f"designs must be a list of {', '.join(NAMES)}, got {list(designs)}")
        self.designs = list(designs)
        self.count_train = count_train
        self.count_val = count_val

    def read_train(self) -> TripletTable:
        """Triplets of the training photographs."""
        return _of_each_design(self.designs, packaged(TRAIN_PHOTOS), self.count_train, 0, self.side)

    def read_val(self) -> TripletTable:
        """Triplets of the held-out photographs."""
        return _of_each_design(self.designs, packaged(VAL_PHOTOS), self.count_val, 1, self.side)

    def source(self) -> str:
        """Photographs and the simulated observer."""
        return "photographs of scikit-image, judged by a simulated observer, not people"

    def how_split(self) -> str:
        """By photograph."""
        return "split by photograph"


def _of_each_design(designs: list[str], photos: list[str], count: int, seed: int, size: int) -> TripletTable:
    """Triplets, shared out among the designs; the first ones get one more where that leaves a rest."""
    counts = [len(range(number, count, len(designs))) for number in range(len(designs))]
    tables = [
        make_triplets(photos, share, seed, size, design=design)
        for design, share in zip(designs, counts, strict=True)
        if share
    ]
    if len(designs) == 1:
        return tables[0]
    images: list[torch.Tensor] = [table.images for table in tables]  # type: ignore[misc]  # are in memory
    starts = np.cumsum([0, *map(len, images[:-1])])
    roles = {
        role: np.concatenate(
            [getattr(table, role) + start for table, start in zip(tables, starts, strict=True)]
        )
        for role in TripletTable.roles
    }
    return replace(
        tables[0],
        images=torch.cat(images),
        **roles,
        **{
            name: np.concatenate([getattr(table, name) for table in tables])
            for name in ("judgment", "votes", "made")
        },
        subset=np.repeat(np.arange(len(tables)), [len(table) for table in tables]),
        subsets=[_SUBSETS[design] for design in designs[: len(tables)]],
    )
