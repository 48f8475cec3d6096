"""Typed schemas of `conf/`: a misspelt key or a value of the wrong type is refused before an image is read.

Each config group has one here, stored as `schema/<group>`; its YAML files begin with it. Choices and defaults
of data modules are taken from their signatures; the YAML files say only what differs.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from enum import Enum
from inspect import signature
from typing import Any, get_args

from hydra.core.config_store import ConfigStore
from hydra.utils import get_object
from omegaconf import MISSING, DictConfig, OmegaConf

from perceptual.data import (
    JNDDataModule,
    ManifestDataModule,
    OpinionDataModule,
    PhotosDataModule,
    TwoAFCDataModule,
)
from perceptual.data.items import splits
from perceptual.data.loading import at_least
from perceptual.data.modules.bapps import BAPPS_TRAIN, BAPPS_VAL
from perceptual.data.synthetic import designs
from perceptual.distance.lpips import FORMS
from perceptual.features.backbone import PRECISIONS
from perceptual.ranking import RANKINGS
from perceptual.training import fsdp, settings
from perceptual.training.module import PerceptualRanker

# mypy cannot read the members of these enums, which stand in the library
Variant = Enum("Variant", settings.VARIANTS)  # type: ignore[misc]
Ranking = Enum("Ranking", list(RANKINGS))  # type: ignore[misc]
Form = Enum("Form", FORMS)  # type: ignore[misc]
LinInit = Enum("LinInit", settings.LIN_INITS)  # type: ignore[misc]
Optimizer = Enum("Optimizer", settings.OPTIMIZERS)  # type: ignore[misc]
Schedule = Enum("Schedule", settings.SCHEDULES)  # type: ignore[misc]
Augmentation = Enum("Augmentation", settings.AUGMENTATIONS)  # type: ignore[misc]
Precision = Enum("Precision", PRECISIONS)  # type: ignore[misc]
Design = Enum("Design", designs.NAMES)  # type: ignore[misc]
SplitBy = Enum("SplitBy", get_args(splits.SplitBy))  # type: ignore[misc]
NEED_IMAGES = {"flip", "crop", "light"}  # augmentations that cached features cannot have
Cache = Enum("Cache", ["on", "off"])


@dataclass
class BackboneConfig:
    """What `perceptual.features.build.build_backbone` takes.

    With `_target_`, a network of the user's, further keys are its arguments, see `cli.errors.with_arguments`.
    """

    _target_: str | None = None
    name: str | None = None
    weights: str | None = "default"
    prefix: str = ""
    options: dict[str, Any] = field(default_factory=dict)
    nodes: list[str] | None = None
    members: list[str] | None = None
    out_indices: list[int] | None = None
    input_size: int | None = None


def default_of(function: Callable[..., Any], name: str) -> Any:
    """The default value of a function's argument."""
    return signature(function).parameters[name].default


@dataclass
class DataConfig:
    """What the data modules of triplets have in common."""

    _target_: str = MISSING
    size: int = default_of(TwoAFCDataModule, "size")
    batch_size: int = default_of(TwoAFCDataModule, "batch_size")
    num_workers: int | None = default_of(TwoAFCDataModule, "num_workers")
    weight_by_votes: bool = default_of(TwoAFCDataModule, "weight_by_votes")
    seed: int = "${seed}"  # type: ignore[assignment]  # OmegaConf resolves and checks it
    jnd: str | None = default_of(TwoAFCDataModule, "jnd")
    cache: Cache = Cache.on  # train.py: compute the features of a frozen backbone once, and keep them


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


@dataclass
class JNDConfig:
    """Pairs that people called the same or not, for `evaluate.py`."""

    _target_: str = "perceptual.data.JNDDataModule"
    root: str = MISSING
    subsets: list[str] | None = None
    size: int = default_of(JNDDataModule, "size")
    batch_size: int = default_of(JNDDataModule, "batch_size")
    num_workers: int | None = default_of(JNDDataModule, "num_workers")


@dataclass
class OpinionConfig:
    """Images that people rated against a reference, for `evaluate.py`."""

    _target_: str = "perceptual.data.OpinionDataModule"
    path: str = MISSING
    size: int = default_of(OpinionDataModule, "size")
    batch_size: int = default_of(OpinionDataModule, "batch_size")
    num_workers: int | None = default_of(OpinionDataModule, "num_workers")


@dataclass
class ModelConfig:
    """Arguments of `perceptual.training.module.PerceptualRanker`."""

    _target_: str = "perceptual.training.module.PerceptualRanker"
    backbone: Any = "${backbone}"
    variant: Variant = MISSING
    ranking: Ranking = Ranking[default_of(PerceptualRanker, "ranking")]
    form: Form = Form[default_of(PerceptualRanker, "form")]
    lin_init: LinInit = LinInit[default_of(PerceptualRanker, "lin_init")]
    optimizer: Optimizer = Optimizer[default_of(PerceptualRanker, "optimizer")]
    lr: float = default_of(PerceptualRanker, "lr")
    backbone_lr_factor: float = default_of(PerceptualRanker, "backbone_lr_factor")
    betas: tuple[float, float] = default_of(PerceptualRanker, "betas")
    weight_decay: float = default_of(PerceptualRanker, "weight_decay")
    schedule: Schedule = Schedule[default_of(PerceptualRanker, "schedule")]
    warmup: float = default_of(PerceptualRanker, "warmup")
    dropout: float = default_of(PerceptualRanker, "dropout")
    lora_rank: int = default_of(PerceptualRanker, "lora_rank")
    augmentation: list[Augmentation] = field(default_factory=list)
    # compare features by compiled code; needs a C++ compiler
    compile: bool = default_of(PerceptualRanker, "compile")
    seed: int = "${seed}"  # type: ignore[assignment]


@dataclass
class TrainerConfig:
    """The arguments of Lightning's Trainer that are of use here."""

    _target_: str = "pytorch_lightning.Trainer"
    max_epochs: int = 10
    max_steps: int = -1
    accelerator: str = "auto"
    devices: Any = "auto"
    num_nodes: int = 1
    strategy: str = "auto"
    precision: str = "32-true"
    gradient_clip_val: float | None = None
    accumulate_grad_batches: int = 1
    default_root_dir: str = "${run_dir}"
    limit_train_batches: int | float | None = None
    limit_val_batches: float | None = None
    log_every_n_steps: int = 20
    num_sanity_val_steps: int = 0
    enable_model_summary: bool = False


@dataclass
class TrainConfig:
    """What `train.py` takes."""

    seed: int = 0
    ckpt: str | None = None
    imports: list[str] = field(default_factory=list)  # modules of the user's, with networks
    runs: str = "runs"
    run_dir: str = "${hydra:runtime.output_dir}"
    backbone: Any = MISSING
    data: Any = MISSING
    model: Any = MISSING
    trainer: Any = MISSING
    logger: Any = MISSING
    callbacks: dict[str, Any] = field(default_factory=dict)


@dataclass
class EvaluateConfig:
    """What `evaluate.py` takes."""

    seed: int = 0
    ckpt: str | None = None
    imports: list[str] = field(default_factory=list)  # modules of the user's, with networks
    methods: Any = None  # a list of names, or one
    results: str = "results"
    precision: Precision = Precision[PRECISIONS[0]]  # of deep features; bf16-mixed is faster, and kept apart
    compile: bool = False  # compare deep features by compiled code; needs a C++ compiler
    data: Any = None


def register() -> None:
    """Make the schemas known to Hydra."""
    store = ConfigStore.instance().store
    store(group="schema", name="train", node=TrainConfig)
    store(group="schema", name="evaluate", node=EvaluateConfig)
    store(group="schema", name="backbone", node=BackboneConfig)
    store(group="schema", name="model", node=ModelConfig)
    store(group="schema", name="trainer", node=TrainerConfig)
    for name, node in (
        ("photos", PhotosConfig),
        ("bapps", BAPPSConfig),
        ("manifest", ManifestConfig),
        ("jnd", JNDConfig),
        ("opinions", OpinionConfig),
    ):
        store(group="schema/data", name=name, node=node)


def check(cfg: DictConfig) -> None:
    """Refuse what no part refuses by itself, before an image is read.

    Raises:
        ValueError: naming the setting.
    """
    settings.check_settings(plain(cfg.model))
    at_least("trainer.max_epochs", cfg.trainer.max_epochs, -1)
    at_least("trainer.accumulate_grad_batches", cfg.trainer.accumulate_grad_batches, 1)
    clip = cfg.trainer.gradient_clip_val
    if clip is not None and not clip > 0:
        raise ValueError(f"trainer.gradient_clip_val must be positive, got {clip:g}")
    if cfg.trainer.strategy == fsdp.NAME and clip is not None:
        raise ValueError(f"strategy={fsdp.NAME} does not clip gradients: leave out trainer.gradient_clip_val")
    if cfg.trainer.strategy == fsdp.NAME and "ema" in cfg.callbacks:
        raise ValueError(f"strategy={fsdp.NAME} does not average weights: leave out averaging")
    cached = cfg.data.cache is Cache.on and cfg.model.variant.name == "lin"
    if cached and (
        needing := [change.name for change in cfg.model.augmentation if change.name in NEED_IMAGES]
    ):
        raise ValueError(
            f"model.augmentation=[{','.join(needing)}] needs images, and a frozen backbone's features are "
            "cached: add data.cache=off"
        )


def plain(node: DictConfig) -> dict[str, Any]:
    """A config node as plain values, interpolations resolved and enums as words.

    Raises:
        omegaconf.MissingMandatoryValue: a value that has no default was not given.
    """
    return OmegaConf.to_container(node, resolve=True, throw_on_missing=True, enum_to_str=True)  # type: ignore[return-value]


def data_arguments(node: DictConfig) -> dict[str, Any]:
    """What describes a data module; `cache`, which only `train.py` reads, is left out."""
    return {key: value for key, value in plain(node).items() if key != "cache"}


def build(node: DictConfig | Mapping[str, Any], **parts: Any) -> Any:
    """The object that a node describes: its `_target_` called with its plain values, and with built parts.

    Raises:
        ValueError: a value for which the target has no argument, or none for one that it needs.
    """
    arguments = plain(node) if isinstance(node, DictConfig) else dict[str, Any](node)
    target = get_object(arguments.pop("_target_"))
    try:
        signature(target).bind(**arguments, **parts)
    except TypeError as error:
        takes = ", ".join(name for name in signature(target).parameters if name not in parts)
        raise ValueError(f"{target.__name__} {error}; it takes {takes}") from error
    return target(**arguments, **parts)
