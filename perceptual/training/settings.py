"""What `PerceptualRanker` can be asked for: the choices, each in one place, and the ranges of numbers."""

import math
from collections.abc import Mapping
from typing import Any, Literal, get_args

from perceptual.distance.level import FORMS
from perceptual.ranking import RANKINGS

Variant = Literal["lin", "tune", "scratch", "lora", "head"]
Loss = Literal["bce", "hinge"]
LinInit = Literal["random", "ones", "v0.1", "file"]
Optimizer = Literal["adam", "adamw", "sgd"]
Schedule = Literal["paper", "constant", "cosine"]
Augmentation = Literal["flip", "swap", "crop", "light"]

VARIANTS: tuple[Variant, ...] = get_args(Variant)
FROZEN = ("lin", "head")  # variants that leave the backbone as it is, so that what it gives is computed once
LOSSES: tuple[Loss, ...] = get_args(Loss)
LIN_INITS: tuple[LinInit, ...] = get_args(LinInit)
OPTIMIZERS: tuple[Optimizer, ...] = get_args(Optimizer)
SCHEDULES: tuple[Schedule, ...] = get_args(Schedule)
AUGMENTATIONS: tuple[Augmentation, ...] = get_args(Augmentation)
CHOICES: dict[str, tuple[str, ...]] = {
    "variant": VARIANTS,
    "loss": LOSSES,
    "ranking": tuple(RANKINGS),
    "form": FORMS,
    "lin_init": LIN_INITS,
    "optimizer": OPTIMIZERS,
    "schedule": SCHEDULES,
}


def check_settings(hparams: Mapping[str, Any]) -> None:
    """Refuse unknown words and numbers out of range, before a network is built.

    Args:
        hparams: arguments of `PerceptualRanker`, complete.

    Raises:
        ValueError: naming the argument, what is allowed and what was given.
    """
    for argument, words in CHOICES.items():
        if hparams[argument] not in words:
            raise ValueError(f"{argument} must be one of {', '.join(words)}, got {hparams[argument]!r}")
    _check_augmentation(hparams["augmentation"])
    _check_ranges(hparams)
    if hparams["variant"] == "head" and hparams["form"] != "concatenated":
        raise ValueError(f"variant=head is for form=concatenated, got form={hparams['form']}")
    if hparams["schedule"] == "paper" and hparams["warmup"]:
        raise ValueError("schedule=paper has no warmup: use schedule=constant or schedule=cosine")


def _check_augmentation(changes: Any) -> None:
    if isinstance(changes, str) or not all(change in AUGMENTATIONS for change in changes):
        given = repr(changes) if isinstance(changes, str) else str(list(changes))
        raise ValueError(f"augmentation must be a list of {', '.join(AUGMENTATIONS)}, got {given}")


def _check_ranges(hparams: Mapping[str, Any]) -> None:
    positive, not_negative = "positive", "at least 0"
    fraction = "at least 0 and less than 1"
    betas = hparams["betas"]
    for argument, fits, range_ in (
        ("lr", 0 < hparams["lr"] < math.inf, positive),
        ("backbone_lr_factor", 0 < hparams["backbone_lr_factor"] < math.inf, positive),
        ("betas", len(betas) == 2 and all(0 <= b < 1 for b in betas), f"two numbers, {fraction}"),
        ("weight_decay", 0 <= hparams["weight_decay"] < math.inf, not_negative),
        ("warmup", 0 <= hparams["warmup"] < 1, fraction),
        ("dropout", 0 <= hparams["dropout"] < 1, fraction),
        ("margin", 0 <= hparams["margin"] < math.inf, not_negative),
        ("lora_rank", hparams["lora_rank"] >= 1, "at least 1"),
        ("lora_alpha", 0 < (hparams["lora_alpha"] or 1) < math.inf, positive),
        ("lora_dropout", 0 <= hparams["lora_dropout"] < 1, fraction),
        ("seed", hparams["seed"] >= 0, not_negative),
    ):
        if not fits:
            raise ValueError(f"{argument} must be {range_}, got {hparams[argument]}")
