"""Optimisers by name, and schedules: the learning rate over a run as factors of `lr`."""

import math
from collections.abc import Callable, Sequence
from typing import Any

from torch import optim
from torch.optim.lr_scheduler import LambdaLR

from perceptual.training.settings import Optimizer, Schedule


def make_optimizer(
    name: Optimizer, groups: Sequence[dict[str, Any]], betas: Sequence[float], weight_decay: float
) -> optim.Optimizer:
    """One of PyTorch's optimisers over parameter groups, each with its `lr`.

    Args:
        name: `adam` (weight decay through the gradient), `adamw` (decoupled from it) or `sgd`.
        groups: parameter groups, each with `params` and `lr`.
        betas: of Adam; of SGD the first is the momentum.
        weight_decay: factor of the decay.
    """
    # `foreach`: all parameters in one call, which is faster for many small ones
    if name == "sgd":
        return optim.SGD(groups, momentum=betas[0], weight_decay=weight_decay, foreach=True)
    build = optim.AdamW if name == "adamw" else optim.Adam
    return build(groups, betas=(betas[0], betas[1]), weight_decay=weight_decay, foreach=True)


def make_schedule(
    name: Schedule, optimizer: optim.Optimizer, epochs: int, steps: float, warmup: float
) -> dict[str, Any]:
    """The schedule of a run as Lightning takes it: `paper` changes the rate by epoch, the others by step.

    Args:
        name: `paper`, `constant` or `cosine`.
        epochs, steps: length of the run; `epochs` is at most 0, `steps` infinite where it is not known.
        warmup: fraction of the steps in which the rate rises from 0; not used by `paper`.

    Raises:
        ValueError: the schedule needs the length of the run, which is not known.
    """
    if name == "paper":
        scheduler = LambdaLR(optimizer, lambda epoch: paper_factor(epoch, epochs))
        return {"scheduler": scheduler, "interval": "epoch"}
    if math.isinf(steps) and (warmup or name == "cosine"):
        raise ValueError(f"schedule={name} with warmup={warmup:g} needs a run of max_epochs or max_steps")
    after = cosine_factor if name == "cosine" else _constant_factor
    scheduler = LambdaLR(optimizer, lambda step: warmed_up(step, steps, warmup, after))
    return {"scheduler": scheduler, "interval": "step"}


def paper_factor(epoch: int, epochs: int) -> float:
    """Factor of the learning rate in an epoch, counted from 0: 1, then falling in the second half.

    Of ten epochs, six at 1 and then .8, .6, .4, .2, as the reference code runs (the paper says 5 + 5). A run
    that is resumed for more epochs continues at the last rate.
    """
    decay = epochs // 2
    start = epochs - decay
    return 1.0 if epoch <= start or decay < 1 else 1 - (min(epoch, epochs - 1) - start) / decay


def cosine_factor(part: float) -> float:
    """Half a cosine, from 1 at part 0 of a run to 0 at part 1 (Loshchilov & Hutter, arXiv 1608.03983)."""
    return (1 + math.cos(math.pi * min(part, 1.0))) / 2


def warmed_up(step: int, steps: float, warmup: float, after: Callable[[float], float]) -> float:
    """Factor of a step, counted from 0: it rises over the first `warmup` of a run, then is `after(part)`.

    `part` goes from 0 to 1 over the rest of the run.
    """
    rising = round(warmup * steps) if warmup else 0
    if step < rising:
        return (step + 1) / (rising + 1)
    return after((step - rising) / max(steps - rising, 1))


def _constant_factor(part: float) -> float:
    return 1.0
