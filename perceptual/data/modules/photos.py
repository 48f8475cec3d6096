"""DataModule of triplets made out of the photographs that scikit-image ships.

A first run needs no download, from images to score. The judgments are a simulated observer's, not people's,
see `perceptual.data.synthetic.making`.
"""

from perceptual.data.items.triplets import TripletTable
from perceptual.data.loading import at_least
from perceptual.data.modules.two_afc import TwoAFCDataModule
from perceptual.data.synthetic.making import make_triplets
from perceptual.data.synthetic.photographs import TRAIN_PHOTOS, VAL_PHOTOS, packaged


class PhotosDataModule(TwoAFCDataModule):
    """Triplets made of scikit-image's photographs and judged by a simulated observer, see `make_triplets`.

    Training and validation triplets come from different photographs. They do not depend on `seed`, which only
    orders them.

    Args:
        count_train: training triplets to make.
        count_val: validation triplets to make.

    The other arguments are those of `TwoAFCDataModule`.
    """

    def __init__(
        self,
        count_train: int = 4000,
        count_val: int = 1000,
        size: int | None = 64,
        batch_size: int = 50,
        num_workers: int | None = None,
        weight_by_votes: bool = False,
        seed: int = 0,
        jnd: str | None = None,
        shorter_side: int | None = None,
        crop: int | None = None,
    ) -> None:
        super().__init__(size, batch_size, num_workers, weight_by_votes, seed, jnd, shorter_side, crop)
        if size is None:
            raise ValueError("data=photos makes squares: size must be their side, not null")
        self.side = size
        at_least("count_train", count_train, 1)
        at_least("count_val", count_val, 1)
        self.count_train = count_train
        self.count_val = count_val

    def read_train(self) -> TripletTable:
        """Triplets of the training photographs."""
        return make_triplets(packaged(TRAIN_PHOTOS), self.count_train, seed=0, size=self.side)

    def read_val(self) -> TripletTable:
        """Triplets of the held-out photographs."""
        return make_triplets(packaged(VAL_PHOTOS), self.count_val, seed=1, size=self.side)

    def source(self) -> str:
        """Photographs and the simulated observer."""
        return "photographs of scikit-image, judged by a simulated observer, not people"

    def how_split(self) -> str:
        """By photograph."""
        return "split by photograph"
