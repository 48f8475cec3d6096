"""Method names: the one grammar of evaluate.py, the leaderboard and the command.

| name                                   | distance                                             |
|----------------------------------------|------------------------------------------------------|
| `alexnet`, `vgg16.tv_in1k`             | features of that backbone, uncalibrated              |
| `alexnet-v0.1`                         | LPIPS with that published calibration                |
| `alexnet-random`                       | features of that backbone with random weights        |
| `runs/…/last.ckpt`                     | the distance of a checkpoint of `PerceptualRanker`   |
| `path/to/folder`, `./folder`           | one that `LPIPS.save_pretrained` wrote               |
| `owner/name`                           | one on the Hugging Face hub                          |
| `l2`, `ssim`, … (`BASELINES`)          | a classic distance                                   |
| `timm:*convnext*`                      | every timm name with weights that fits the pattern   |

Classic distances, checkpoints and timm take seconds to import: only who names one of theirs pays.
"""

import difflib
import os
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

import torch
from torch import nn

from perceptual.distance import calibration as calibrations
from perceptual.distance import saved_folder
from perceptual.distance.compiled import check_compiler
from perceptual.distance.lpips import LPIPS
from perceptual.features.backbone import Backbone, Precision, check_precision
from perceptual.features.networks import TORCHVISION
from perceptual.ranking import restore

WILDCARD = "timm:"
RANDOM = "random"
SEED = 0  # of random weights


class Method(NamedTuple):
    """A distance (x, y) → (N,), in eval mode, and the ranking network that was trained with it, if any."""

    distance: nn.Module
    ranking: nn.Module | None = None


def build(method: str, precision: Precision = "32-true", compile: bool = False) -> nn.Module:
    """The distance that a method name stands for, in eval mode: (x, y) → (N,), images in [0, 1].

    Args:
        method: the name.
        precision: of deep features, as `Backbone` takes it; classic distances are in float32.
        compile: have deep features compared by compiled code, as `LPIPS` takes it.

    Raises:
        ValueError: no such method, a checkpoint or folder that is not one of ours, no such precision, or
            `compile` without a compiler.
        FileNotFoundError: a checkpoint, folder or weights that cannot be found.
    """
    check_precision(precision)
    if compile:
        check_compiler()
    distance = load(method).distance
    if isinstance(distance, LPIPS):
        distance.backbone.precision, distance.compiled = precision, compile
    return distance


def load(method: str) -> Method:
    """What a method name stands for; raises what `build` does."""
    if is_path(method):
        path = Path(method).expanduser()
        return _from_checkpoint(path) if path.suffix == ".ckpt" else _from_folder(method)
    name, version = split_version(method)
    if name in TORCHVISION or _in_timm(name):
        return Method(_random(name) if version == RANDOM else LPIPS(name, lin=version))
    import timm

    from perceptual.distance.baselines import BASELINES

    if method in BASELINES:
        return Method(BASELINES[method]())
    if Path(method, saved_folder.CONFIG).is_file():
        raise ValueError(
            f"unknown method {method!r}; a path has a slash: ./{method} is the folder of that name"
        )
    near = difflib.get_close_matches(name, [*BASELINES, *TORCHVISION, *timm.list_models()], n=3)
    raise ValueError(
        f"unknown method {method!r}; it may be a backbone, BACKBONE-v0.1, BACKBONE-random, "
        f"the path of a .ckpt file or of a saved folder, or one of {', '.join(BASELINES)}"
        + (f"; did you mean {', '.join(near)}?" if near else "")
    )


def expand(methods: Iterable[str]) -> list[str]:
    """The methods with each `timm:PATTERN` replaced by the names that fit it, without repeats.

    Raises:
        ValueError: a pattern that no name with weights fits.
    """
    names: dict[str, None] = {}
    for method in methods:
        found = [method]
        if method.startswith(WILDCARD):
            import timm

            found = timm.list_pretrained(method.removeprefix(WILDCARD))
            if not found:
                raise ValueError(f"no timm model with weights fits {method!r}")
        names.update(dict.fromkeys(found))
    return list(names)


def family(method: str) -> str:
    """What a method belongs to: `classic`, `trained` (a path), or the architecture's family in timm."""
    if is_path(method):
        return "trained"
    architecture = split_version(method)[0].partition(".")[0]
    if architecture in TORCHVISION:
        return architecture.partition("net")[0] + "net"
    if not _in_timm(architecture):
        return "classic"
    import timm

    return timm.model_entrypoint(architecture).__module__.rpartition(".")[2]


def is_path(method: str) -> bool:
    """Whether a method name is a path, because it ends in `.ckpt` or has a slash."""
    return method.endswith(".ckpt") or os.sep in method


def split_version(method: str) -> tuple[str, str | None]:
    """`alexnet-v0.1` → (`alexnet`, `v0.1`), `alexnet-random` → (`alexnet`, `random`), else (name, None)."""
    name = method.removesuffix(f"-{RANDOM}")
    return (name, RANDOM) if name != method else _split(method)


def _split(method: str) -> tuple[str, str | None]:
    name, said = calibrations.split(method)
    return name, None if said == calibrations.DEFAULT else said


def _random(name: str) -> LPIPS:
    """The same weights each time, whatever was drawn before."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(SEED)
        backbone = Backbone(name, weights=None)
    backbone.source = f"random (seed {SEED})"
    return LPIPS(backbone, lin=None)


def _from_folder(source: str) -> Method:
    distance = LPIPS.from_pretrained(source)
    return Method(distance, saved_ranking(distance))


def saved_ranking(distance: LPIPS) -> nn.Module | None:
    """The ranking network in the folder that a distance was read from, if there is one."""
    saved = distance.saved
    if saved is None or saved.ranking_state is None:
        return None
    return restore(saved.config["ranking"]["name"], saved.ranking_state, str(saved.folder))


def _in_timm(name: str) -> bool:
    import timm

    known: bool = timm.is_model(name)
    return known


def _from_checkpoint(path: Path) -> Method:
    from perceptual.training.module import PerceptualRanker, read_checkpoint

    read_checkpoint(path)
    model = PerceptualRanker.load_from_checkpoint(path, map_location="cpu", weights_only=True)
    model.eval().requires_grad_(False)
    return Method(model.distance, model.ranking)
