"""Typed schemas of `conf/`: a misspelt key or a value of the wrong type is refused before an image is read.

`schema/<group>` has the keys and defaults of a group, and the YAML files of the group only what differs. The
choices of `data` have no files: each is a schema. Defaults are taken from the signatures of what is built.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import Enum
from inspect import signature
from typing import Any

from hydra.core.config_store import ConfigStore
from hydra.core.hydra_config import HydraConfig
from hydra.utils import get_object
from omegaconf import MISSING, DictConfig, OmegaConf

from perceptual.data.schemas import SCHEMAS, Cache, default_of
from perceptual.data.settings import at_least
from perceptual.distance.attacks import NORMS, STRENGTHS
from perceptual.distance.level import FORMS
from perceptual.features.backbone import PRECISIONS
from perceptual.files.messages import first_line
from perceptual.ranking import RANKINGS
from perceptual.training import settings
from perceptual.training.module import PerceptualRanker
from perceptual.training.robust import MOVED, Robust

# mypy cannot read the members of these enums, which stand in the library
Variant = Enum("Variant", settings.VARIANTS)  # type: ignore[misc]
Loss = Enum("Loss", settings.LOSSES)  # type: ignore[misc]
Ranking = Enum("Ranking", list(RANKINGS))  # type: ignore[misc]
Form = Enum("Form", FORMS)  # type: ignore[misc]
LinInit = Enum("LinInit", settings.LIN_INITS)  # type: ignore[misc]
Optimizer = Enum("Optimizer", settings.OPTIMIZERS)  # type: ignore[misc]
Schedule = Enum("Schedule", settings.SCHEDULES)  # type: ignore[misc]
Augmentation = Enum("Augmentation", settings.AUGMENTATIONS)  # type: ignore[misc]
Attacks = Enum("Attacks", list(STRENGTHS))  # type: ignore[misc]
Norm = Enum("Norm", NORMS)  # type: ignore[misc]
Moved = Enum("Moved", MOVED)  # type: ignore[misc]
Precision = Enum("Precision", PRECISIONS)  # type: ignore[misc]
# what a checkpoint may name as the data that it was trained on
DATA_MODULES = tuple(dict.fromkeys(one._target_ for one in SCHEMAS.values() if hasattr(one, "views")))
NEED_IMAGES = {"flip", "crop", "light"}  # augmentations that cached features cannot have


@dataclass
class BackboneConfig:
    """Arguments of `perceptual.features.build.build_backbone`.

    With `_target_`, a network of the user, further keys are its arguments: see `cli.errors.with_arguments`.
    """

    _target_: str | None = None
    name: str | None = "tf_efficientnet_lite0"  # its weights come with the installation
    weights: str | None = "default"
    prefix: str = ""
    options: dict[str, Any] = field(default_factory=dict)
    nodes: list[str] | None = None
    members: list[str] | None = None
    out_indices: list[int | str] | None = None
    input_size: int | None = None


@dataclass
class ModelConfig:
    """Arguments of `perceptual.training.module.PerceptualRanker`."""

    _target_: str = "perceptual.training.module.PerceptualRanker"
    backbone: Any = "${backbone}"
    variant: Variant = MISSING
    loss: Loss = Loss[default_of(PerceptualRanker, "loss")]
    margin: float = default_of(PerceptualRanker, "margin")
    ranking: Ranking = Ranking[default_of(PerceptualRanker, "ranking")]
    form: Form = Form[default_of(PerceptualRanker, "form")]
    center: bool = default_of(PerceptualRanker, "center")
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
    lora_alpha: float | None = default_of(PerceptualRanker, "lora_alpha")
    lora_dropout: float = default_of(PerceptualRanker, "lora_dropout")
    lora_targets: list[str] | None = None
    augmentation: list[Augmentation] = field(default_factory=list)
    # compare features by compiled code; needs a C++ compiler
    compile: bool = default_of(PerceptualRanker, "compile")
    # compute activations of a trained backbone again in the backward pass, to take less memory
    grad_checkpointing: bool = default_of(PerceptualRanker, "grad_checkpointing")
    robust: Any = "${robust}"
    seed: int = "${seed}"  # type: ignore[assignment]


@dataclass
class RobustConfig:
    """Arguments of `perceptual.training.robust.Robust`."""

    steps: int = 0
    radius: Any = "4/255"  # a number, or a fraction such as 4/255
    norm: Norm = Norm["max"]
    images: Moved = Moved["nearer"]
    weight: float = 0.5
    warmup: float = 0.0


@dataclass
class TrainerConfig:
    """Arguments of Lightning's Trainer."""

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
    """Settings of `train.py`."""

    seed: int = 0
    ckpt: str | None = None
    imports: list[str] = field(default_factory=list)  # modules of the user's, with networks
    runs: str = "runs"
    run_dir: str = "${hydra:runtime.output_dir}"
    backbone: Any = MISSING
    data: Any = MISSING
    model: Any = MISSING
    trainer: Any = MISSING
    robust: Any = MISSING
    logger: Any = MISSING
    callbacks: dict[str, Any] = field(default_factory=dict)


@dataclass
class EvaluateConfig:
    """Settings of `evaluate.py`."""

    seed: int = 0
    ckpt: str | None = None
    imports: list[str] = field(default_factory=list)  # modules of the user's, with networks
    methods: Any = None  # a list of names, or one
    suite: str | None = None  # a YAML file of many judged sets
    results: str = "results"
    precision: Precision = Precision[PRECISIONS[0]]  # of deep features; bf16-mixed is faster, and kept apart
    compile: bool = False  # compare deep features by compiled code; needs a C++ compiler
    conditions: bool = False  # 2AFC of the methods under simulated conditions, in place of one score
    robustness: bool = False  # a trust report of the methods, in place of their scores
    attacks: Attacks = Attacks["standard"]  # of the trust report; strong takes ten times as long
    data: Any = None


def register() -> None:
    """Make the schemas known to Hydra."""
    store = ConfigStore.instance().store
    store(group="schema", name="train", node=TrainConfig)
    store(group="schema", name="evaluate", node=EvaluateConfig)
    store(group="schema", name="backbone", node=BackboneConfig)
    store(group="schema", name="model", node=ModelConfig)
    store(group="schema", name="trainer", node=TrainerConfig)
    store(group="schema", name="robust", node=RobustConfig)
    for name, node in SCHEMAS.items():
        store(group="data", name=name, node=node)


def chosen(group: str) -> str | None:
    """The choice of a group that Hydra made, if any."""
    return HydraConfig.get().runtime.choices.get(group) if HydraConfig.initialized() else None


def recipe(cfg: DictConfig) -> str:
    """The name of a run's recipe."""
    return chosen("experiment") or f"the default of model={cfg.model.variant.name}"


def check(cfg: DictConfig) -> None:
    """Refuse settings that do not fit each other, before an image is read.

    Raises:
        ValueError: naming the setting.
    """
    if "views" not in cfg.data:  # a set for evaluate.py
        judged = "pairs that people called the same or not" if "subsets" in cfg.data else "opinions"
        name = cfg.data.get("name") or chosen("data")
        raise ValueError(
            f"train.py trains on choices between two images, and data={name} has {judged}: they cannot be "
            "trained on; evaluate.py scores a distance on them"
        )
    settings.check_settings(plain(cfg.model))
    Robust(**plain(cfg.robust))
    at_least("trainer.max_epochs", cfg.trainer.max_epochs, -1)
    at_least("trainer.accumulate_grad_batches", cfg.trainer.accumulate_grad_batches, 1)
    clip = cfg.trainer.gradient_clip_val
    if clip is not None and not clip > 0:
        raise ValueError(f"trainer.gradient_clip_val must be positive, got {clip:g}")
    at_least("data.views", cfg.data.views or 0, 0)
    cached = cfg.data.cache is Cache.on and cfg.model.variant.name in settings.FROZEN and not cfg.robust.steps
    if cfg.data.views and not cached:
        raise ValueError(
            f"data.views={cfg.data.views} needs cached features, hence model=lin or model=head, "
            "data.cache=on and robust=none; model.augmentation changes images where they are not cached"
        )
    if cfg.data.views and cfg.data.size is None:
        raise ValueError(f"data.views={cfg.data.views} needs images of one size: give data.size")
    if cached and cfg.data.crop is not None:
        raise ValueError(
            f"data.crop={cfg.data.crop} needs images, and a frozen backbone's features are cached: add "
            "data.cache=off"
        )
    if cached and (
        needing := [change.name for change in cfg.model.augmentation if change.name in NEED_IMAGES]
    ):
        raise ValueError(
            f"model.augmentation=[{','.join(needing)}] needs images, and a frozen backbone's features are "
            "cached: add data.cache=off, or take data.views=8 instead"
        )


def plain(node: DictConfig) -> dict[str, Any]:
    """Turn a config node into plain values, with interpolations resolved and enums as words.

    Raises:
        omegaconf.MissingMandatoryValue: a value that has no default was not given.
    """
    return OmegaConf.to_container(node, resolve=True, throw_on_missing=True, enum_to_str=True)  # type: ignore[return-value]


def data_arguments(node: DictConfig) -> dict[str, Any]:
    """Return the arguments of a data module, without `cache` and `views`, which only `train.py` reads."""
    return {key: value for key, value in plain(node).items() if key not in ("cache", "views")}


def build_data(described: Any, source: str) -> Any:
    """Build the data module that a checkpoint describes; nothing else that a file names is ever called.

    Args:
        described: `_target_`, one of `DATA_MODULES`, and its arguments.
        source: the file that says so.

    Raises:
        ValueError: it names anything else, or arguments that it does not take.
    """
    target = described.get("_target_") if isinstance(described, Mapping) else None
    if target not in DATA_MODULES:
        raise ValueError(
            f"{source!r} names {target!r} as its data, which no file may call; it may name "
            f"{', '.join(DATA_MODULES)}; choose data=…"
        )
    return build(described)


def build(node: DictConfig | Mapping[str, Any], **parts: Any) -> Any:
    """Build the object that a node describes: call its `_target_` with its plain values and with built parts.

    The user wrote the node, in a config or on the command line; what a file says goes through `build_data`.

    Raises:
        ValueError: a value for which the target has no argument, or none for one that it needs; a target
            that cannot be imported.
    """
    arguments = plain(node) if isinstance(node, DictConfig) else dict[str, Any](node)
    path = arguments.pop("_target_")
    try:
        target = get_object(path)
    except ImportError as error:
        raise ValueError(f"{path} cannot be loaded: {first_line(error.__cause__ or error)}") from error
    try:
        signature(target).bind(**arguments, **parts)
    except TypeError as error:
        takes = ", ".join(name for name in signature(target).parameters if name not in parts)
        raise ValueError(f"{target.__name__} {error}; it takes {takes}") from error
    return target(**arguments, **parts)
