"""Typed schemas of `conf/data/`: the arguments of the data modules, with their defaults."""

from collections.abc import Callable
from dataclasses import dataclass, field
from enum import Enum
from inspect import signature
from typing import Any, get_args

from omegaconf import MISSING

from perceptual.data import splits
from perceptual.data.module import JudgedDataModule
from perceptual.data.modules import (
    BAPPS_TRAIN,
    BAPPS_VAL,
    VAL_SPLITS,
    JNDDataModule,
    ManifestDataModule,
    OpinionDataModule,
    PhotosDataModule,
)
from perceptual.data.readers.csv_files import LARGER_IS
from perceptual.data.synthetic.designs import NAMES

# mypy cannot read the members of these enums, which stand in the library
Design = Enum("Design", NAMES)  # type: ignore[misc]
SplitBy = Enum("SplitBy", get_args(splits.SplitBy))  # type: ignore[misc]
ValSplit = Enum("ValSplit", VAL_SPLITS)  # type: ignore[misc]
LargerIs = Enum("LargerIs", list(LARGER_IS))  # type: ignore[misc]
Cache = Enum("Cache", ["on", "off"])


def default_of(function: Callable[..., Any], name: str) -> Any:
    """Return the default value of a function's argument."""
    return signature(function).parameters[name].default


@dataclass
class DataConfig:
    """Settings that all data modules of triplets share."""

    _target_: str = MISSING
    size: int | None = default_of(JudgedDataModule, "size")  # null: images keep their sizes
    shorter_side: int | None = default_of(JudgedDataModule, "shorter_side")
    batch_size: int = default_of(JudgedDataModule, "batch_size")
    num_workers: int | None = default_of(JudgedDataModule, "num_workers")
    weight_by_votes: bool = default_of(JudgedDataModule, "weight_by_votes")
    seed: int = "${seed}"  # type: ignore[assignment]  # OmegaConf resolves and checks it
    jnd: str | None = default_of(JudgedDataModule, "jnd")
    crop: int | None = default_of(JudgedDataModule, "crop")
    cache: Cache = Cache.on  # train.py: compute the features of a frozen backbone once, and keep them
    views: int = 0  # with the cache: augmented views of each training image, beside the image itself


@dataclass
class PhotosConfig(DataConfig):
    """Packaged photographs and a simulated observer."""

    _target_: str = "perceptual.data.PhotosDataModule"
    count_train: int = default_of(PhotosDataModule, "count_train")
    count_val: int = default_of(PhotosDataModule, "count_val")
    designs: list[Design] = field(default_factory=lambda: list(Design))


@dataclass
class BAPPSConfig(DataConfig):
    """The data set of the paper."""

    _target_: str = "perceptual.data.BAPPSDataModule"
    root: str = MISSING
    train_subsets: list[str] = field(default_factory=lambda: list(BAPPS_TRAIN))
    val_subsets: list[str] = field(default_factory=lambda: list(BAPPS_VAL))


@dataclass
class ManifestConfig(DataConfig):
    """A CSV file of triplets and judgments."""

    _target_: str = "perceptual.data.ManifestDataModule"
    path: str = MISSING
    split_by: SplitBy = SplitBy[default_of(ManifestDataModule, "split_by")]
    val_fraction: float = default_of(ManifestDataModule, "val_fraction")
    split_seed: int = "${seed}"  # type: ignore[assignment]
    val_split: ValSplit = ValSplit[default_of(ManifestDataModule, "val_split")]
    min_votes: int | None = default_of(ManifestDataModule, "min_votes")


@dataclass
class AnswersConfig(DataConfig):
    """A published data set of choices: which is closer?"""

    _target_: str = "perceptual.data.modules.published_choices"
    name: str = MISSING
    root: str = MISSING
    size: int | None = None
    split_by: SplitBy = SplitBy[default_of(ManifestDataModule, "split_by")]
    val_fraction: float = default_of(ManifestDataModule, "val_fraction")
    split_seed: int = "${seed}"  # type: ignore[assignment]
    val_split: ValSplit = ValSplit[default_of(ManifestDataModule, "val_split")]
    min_votes: int | None = default_of(ManifestDataModule, "min_votes")


@dataclass
class JNDConfig:
    """Pairs that people called the same or different, for `evaluate.py`."""

    _target_: str = "perceptual.data.JNDDataModule"
    root: str = MISSING
    subsets: list[str] | None = None
    size: int | None = default_of(JNDDataModule, "size")  # null: images keep their sizes
    shorter_side: int | None = default_of(JNDDataModule, "shorter_side")
    batch_size: int = default_of(JNDDataModule, "batch_size")
    num_workers: int | None = default_of(JNDDataModule, "num_workers")


@dataclass
class OpinionConfig:
    """Images that people rated beside a reference, for `evaluate.py`."""

    _target_: str = "perceptual.data.OpinionDataModule"
    path: str = MISSING
    size: int | None = default_of(OpinionDataModule, "size")  # null: images keep their sizes
    shorter_side: int | None = default_of(OpinionDataModule, "shorter_side")
    batch_size: int = default_of(OpinionDataModule, "batch_size")
    num_workers: int | None = default_of(OpinionDataModule, "num_workers")
    larger: LargerIs | None = None
    layout: str = default_of(OpinionDataModule, "layout")


@dataclass
class PublishedConfig:
    """A published set of opinions, for `evaluate.py`."""

    _target_: str = "perceptual.data.modules.published_opinions"
    name: str = MISSING
    root: str = MISSING
    size: int | None = default_of(OpinionDataModule, "size")
    shorter_side: int | None = default_of(OpinionDataModule, "shorter_side")
    batch_size: int = default_of(OpinionDataModule, "batch_size")
    num_workers: int | None = default_of(OpinionDataModule, "num_workers")
