"""Settings of the data modules: the arguments of their constructors and the keys of `conf/data/`.

Nothing heavy is imported here, so that `--help` can show them at once.
"""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal, get_args

from perceptual.data import bapps_subsets

Design = Literal["paper", "severity", "cnn", "mix"]
Larger = Literal["better", "worse"]
SplitBy = Literal["image", "triplet", "condition", "condition+image"]
Resize = Literal["bilinear", "bicubic"]
ValSplit = Literal["val", "test"]
CSV = "csv"
SMALLEST = 8  # pixels of a side


@dataclass(kw_only=True, eq=False, repr=False)
class Loading:
    """Settings of reading and batching images, see `perceptual.data.module.JudgedDataModule`."""

    size: int | None = 64
    shorter_side: int | None = None
    resize: Resize = "bilinear"
    batch_size: int = 50
    num_workers: int | None = None

    def __post_init__(self) -> None:
        """Raise ValueError for values out of range."""
        check_resolution(self.size, self.shorter_side)
        one_of("resize", self.resize, get_args(Resize))
        at_least("batch_size", self.batch_size, 1)
        at_least("num_workers", self.num_workers or 0, 0)


@dataclass(kw_only=True, eq=False, repr=False)
class Training(Loading):
    """Settings of items to train on."""

    weight_by_votes: bool = False
    seed: int = 0
    jnd: str | None = None
    crop: int | None = None

    def __post_init__(self) -> None:
        """Raise ValueError for values out of range."""
        super().__post_init__()
        check_resolution(self.size, self.shorter_side, self.crop)
        at_least("seed", self.seed, 0)


@dataclass(eq=False, repr=False)
class Photos(Training):
    """Packaged photographs and a simulated observer."""

    count_train: int = 3000
    count_val: int = 1000
    designs: Sequence[Design] = get_args(Design)


@dataclass(eq=False, repr=False)
class BAPPS(Training):
    """Data set of the paper."""

    root: str
    train_subsets: Sequence[str] = tuple(f"train/{subset}" for subset in bapps_subsets.TRAIN)
    val_subsets: Sequence[str] = tuple(f"val/{subset}" for subset in bapps_subsets.VAL)


@dataclass(eq=False, repr=False)
class Manifest(Training):
    """A CSV file of triplets and judgments."""

    path: str
    split_by: SplitBy = "image"
    val_fraction: float = 0.3
    split_seed: int = 0
    val_split: ValSplit = "val"
    val_conditions: Sequence[str] | None = None
    min_votes: int | None = None
    layout: str = CSV


@dataclass(eq=False, repr=False)
class Parquet(Manifest):
    """Parquet files of triplets and judgments."""

    columns: Mapping[str, str] | None = None


@dataclass(eq=False, repr=False)
class Pairs(Loading):
    """Pairs that people called the same or different."""

    root: str
    subsets: Sequence[str] | None = None
    columns: Mapping[str, str] | None = None


@dataclass(eq=False, repr=False)
class Opinions(Loading):
    """Images that people rated beside a reference."""

    path: str
    size: int | None = field(default=None, kw_only=True)
    batch_size: int = field(default=20, kw_only=True)
    larger: Larger | None = None
    layout: str = CSV


def at_least(name: str, value: int, lowest: int) -> None:
    """Raise ValueError for an argument below its lowest value."""
    if value < lowest:
        raise ValueError(f"{name} must be at least {lowest}, got {value}")


def one_of(name: str, value: str, allowed: Collection[str]) -> None:
    """Raise ValueError for an argument that is none of those allowed."""
    if value not in allowed:
        raise ValueError(f"{name} must be one of {', '.join(allowed)}, got {value!r}")


def check_resolution(size: int | None, shorter_side: int | None, crop: int | None = None) -> None:
    """Refuse sides of images below 8 pixels, and those that contradict each other; raises ValueError."""
    for name, side in (("size", size), ("shorter_side", shorter_side), ("crop", crop)):
        if side is not None:
            at_least(name, side, SMALLEST)
    if size is not None and shorter_side is not None:
        raise ValueError(
            f"shorter_side={shorter_side} keeps the shape of images and size={size} makes squares; with "
            "shorter_side, size must be null (None)"
        )
    if (side := size or shorter_side) is not None and crop is not None and crop > side:
        raise ValueError(f"crop={crop} must be at most the side that images are resized to, {side}")
