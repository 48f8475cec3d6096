"""DataModule of the Berkeley-Adobe Perceptual Patch Similarity data set, BAPPS (Zhang et al. 2018)."""

from collections.abc import Sequence

from perceptual.data import bapps_subsets
from perceptual.data.items.triplets import TripletTable
from perceptual.data.modules.two_afc import TwoAFCDataModule
from perceptual.data.places import place
from perceptual.data.readers.folders import read_folder, subset_names
from perceptual.data.readers.stores import is_store, read_store

BAPPS_TRAIN = tuple(f"train/{subset}" for subset in bapps_subsets.TRAIN)
BAPPS_VAL = tuple(f"val/{subset}" for subset in bapps_subsets.VAL)


class BAPPSDataModule(TwoAFCDataModule):
    """The BAPPS folder tree, `<root>/2afc/<subset>/{ref,p0,p1,judge}`, or a store packed from it.

    Args:
        root: folder that holds `2afc/`, or that folder or store itself.
        train_subsets: trained on together.
        val_subsets: each is scored separately, named by the last part of its path.

    The other arguments are those of `TwoAFCDataModule`; by default, JND pairs in `<root>/jnd` are scored in
    validation. `setup` raises FileNotFoundError or ValueError for folders that are missing or incomplete and
    for files that cannot be used.
    """

    def __init__(
        self,
        root: str,
        train_subsets: Sequence[str] = BAPPS_TRAIN,
        val_subsets: Sequence[str] = BAPPS_VAL,
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
        subset_names(train_subsets)
        subset_names(val_subsets)
        self.root = place(root)
        if jnd is None and (self.root / "jnd").is_dir():
            self.jnd = root
        self.train_subsets = list(train_subsets)
        self.val_subsets = list(val_subsets)

    def read_train(self) -> TripletTable:
        """Triplets of the training subsets."""
        return self._read(self.train_subsets)

    def read_val(self) -> TripletTable:
        """Triplets of the validation subsets."""
        return self._read(self.val_subsets)

    def source(self) -> str:
        """The root."""
        return str(self.root)

    def how_split(self) -> str:
        """By folder, with the names of the folders."""
        return f"split by folder ({', '.join(self.train_subsets)}; {', '.join(self.val_subsets)})"

    def _read(self, subsets: list[str]) -> TripletTable:
        folder = self.root / "2afc" if (self.root / "2afc").is_dir() else self.root
        if is_store(folder):
            return read_store(TripletTable, folder).only(subsets, subset_names(subsets))
        return read_folder(folder, subsets)
