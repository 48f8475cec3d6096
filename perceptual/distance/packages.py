"""Distances of other packages that are installed, `PACKAGE:NAME`, with the call of the classic ones.

Besides those below, an installed package adds its own by an entry point of the group `perceptual.methods`,
called PACKAGE: a function of NAME that returns a callable (x, y) → (N,), of images in [0, 1], where larger is
more different.
"""

import difflib
import os
from collections.abc import Callable, Collection
from functools import partial
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from perceptual.distance.baselines import DISTS, Baseline
from perceptual.files import plugins
from perceptual.files.messages import first_line

GROUP: plugins.Group = "perceptual.methods"
SIDE = 224  # pixels of the images that DreamSim takes
# functions of piq, and how their values become distances: factor and what is added
SIMILARITY, DISTANCE, DECIBELS = (-1, 1), (1, 0), (-1, 0)
PIQ = {
    **dict.fromkeys(("ssim", "multi_scale_ssim", "information_weighted_ssim", "vif_p", "fsim"), SIMILARITY),
    **dict.fromkeys(("srsim", "vsi", "dss", "haarpsi"), SIMILARITY),
    **dict.fromkeys(("gmsd", "multi_scale_gmsd", "mdsi"), DISTANCE),
    "psnr": DECIBELS,
}


def build(name: str) -> nn.Module:
    """Build the distance of a name `PACKAGE:NAME`.

    Raises:
        ValueError: the package is not installed, has no such distance, or fails to build it.
    """
    package, _, metric = name.partition(":")
    known = package in PACKAGES
    make = PACKAGES[package] if known else plugins.load(GROUP, package)
    try:
        found = make(metric)
    except ModuleNotFoundError as error:
        if not known or error.name != package:
            raise ValueError(f"{name} needs the package {error.name}, which is not installed") from error
        raise ValueError(f"{name} needs the package {package}: pip install {package}") from error
    except ValueError as error:
        raise ValueError(f"{name}: {first_line(error)}") from error
    except Exception as error:  # of another package: weights that it cannot download, …
        raise ValueError(f"{name} cannot be built: {type(error).__name__}: {first_line(error)}") from error
    if not callable(found):
        raise ValueError(f"{name} is a {type(found).__name__}; it must be a callable (x, y) → (N,)")
    distance = found if isinstance(found, Baseline) else Baseline(found)
    return distance.eval().requires_grad_(False)


def about(name: str) -> dict[str, str]:
    """Say of which package a distance is, its version and its licence; nothing of what is of no package."""
    package = name.partition(":")[0]
    try:
        found = distribution(package).metadata
    except PackageNotFoundError:
        return {}
    classifiers = [line for line in found.get_all("Classifier") or [] if line.startswith("License ::")]
    said = [
        *(found.get_all("License-Expression") or []),
        *(line.rpartition(":: ")[2] for line in classifiers),
    ]
    licence = "; ".join(said or found.get_all("License") or ["not stated"])
    return {"package": f"{package} {found['Version']}", "licence": licence.splitlines()[0]}


def _check(name: str, known: Collection[str]) -> None:
    if name not in known:
        near = difflib.get_close_matches(name, known)
        raise ValueError(
            f"there is no distance {name!r}; "
            + (f"did you mean {', '.join(near)}?" if near else f"there are {', '.join(known)}")
        )


def _pyiqa(name: str) -> Baseline:
    import pyiqa

    _check(name, pyiqa.list_models(metric_mode="FR"))
    # as a loss it has a gradient
    metric = pyiqa.create_metric(name, as_loss=True, loss_reduction="none", device="cpu")
    return _Turned(metric, (1 if metric.lower_better else -1, 0))


def _dreamsim(name: str) -> Baseline:
    from dreamsim import dreamsim
    from dreamsim.config import dreamsim_args

    _check(name, dreamsim_args["model_config"])
    folder = Path(torch.hub.get_dir(), "dreamsim")
    os.makedirs(folder, exist_ok=True)
    one, patch = name.removesuffix("_patch"), name.endswith("_patch")
    model, _ = dreamsim(device="cpu", cache_dir=str(folder), dreamsim_type=one, use_patch_model=patch)
    return _Turned(model, DISTANCE, side=SIDE)


def _torchmetrics(name: str) -> Baseline:
    _check(name, ["dists"])
    return DISTS()


def _piq(name: str) -> Baseline:
    import piq

    _check(name, PIQ)
    return _Turned(partial(getattr(piq, name), data_range=1.0, reduction="none"), PIQ[name])


class _Turned(Baseline):
    """Distance of another package, in the direction of ours.

    Args:
        metric: (x, y) → (N,).
        turn: factor, and what is added.
        side: of squares that images are resized to first (bicubic, antialiased); None: as they are.
    """

    def __init__(self, metric: Callable[..., Tensor], turn: tuple[int, int], side: int | None = None) -> None:
        super().__init__(self._turned)
        self.metric, self.turn, self.side = metric, turn, side

    def _turned(self, x: Tensor, y: Tensor) -> Tensor:
        if self.side:
            x, y = (
                F.interpolate(i, (self.side, self.side), mode="bicubic", antialias=True).clamp(0, 1)
                for i in (x, y)
            )
        factor, added = self.turn
        return factor * self.metric(x, y) + added


PACKAGES: dict[str, Callable[[str], Baseline]] = {
    "pyiqa": _pyiqa,
    "dreamsim": _dreamsim,
    "torchmetrics": _torchmetrics,
    "piq": _piq,
}
