"""What the names of `perceptual.names` stand for: the distances, and lists of names.

Classic distances, checkpoints and timm take seconds to import: they are imported when a name needs them.
"""

import difflib
import os
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

from torch import Tensor, nn

from perceptual.distance import calibration as calibrations
from perceptual.distance.compiled import check_compiler
from perceptual.distance.lpips import LPIPS
from perceptual.distance.saving import folders
from perceptual.features import networks
from perceptual.features.backbone import Precision, check_precision
from perceptual.names import ALIASES, KMEANS, UNCALIBRATED, Method, versions
from perceptual.ranking import restore

WILDCARD = "timm:"
KMEANS_IMAGES = 512


class Loaded(NamedTuple):
    """A distance (x, y) → (N,), in eval mode, and the ranking network that was trained with it, if any."""

    distance: nn.Module
    ranking: nn.Module | None = None


def build(method: str | Method, precision: Precision = "32-true", compile: bool = False) -> nn.Module:
    """The distance that a name stands for, in eval mode: (x, y) → (N,), images in [0, 1].

    Args:
        method: the name, or what was read of it.
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
        distance.accelerate(precision=precision, compile=compile)
    return distance


def load(said: str | Method) -> Loaded:
    """What a name stands for; raises what `build` does."""
    method = Method.parse(said)
    if method.fault:
        raise ValueError(method.fault)
    if method.path:
        path = Path(method.path).expanduser()
        return _from_checkpoint(path) if path.suffix == ".ckpt" else _from_folder(method.path)
    if method.calibration == KMEANS:
        return Loaded(_kmeans(method))
    if not method.baseline:
        return Loaded(LPIPS(method))
    from perceptual.distance.baselines import BASELINES

    name = method.text
    if name in BASELINES:
        return Loaded(BASELINES[name]())
    if os.path.isfile(Path(name, folders.CONFIG)):
        raise ValueError(f"unknown method {name!r}; a path has a slash: ./{name} is the folder of that name")
    near = _nearest(method)
    raise ValueError(
        f"unknown method {name!r}; "
        + (
            f"did you mean {', '.join(near)}?"
            if near
            else "list_metrics() lists the names, and a path ends in .ckpt or has a slash"
        )
    )


def names() -> list[str]:
    """Every name but paths and patterns: classic distances, torchvision, timm with weights, and variants."""
    import timm

    from perceptual.distance.baselines import BASELINES

    tagged = timm.list_pretrained()
    found = dict.fromkeys(BASELINES)
    for name in (*networks.TORCHVISION, *sorted({*(name.partition(".")[0] for name in tagged), *tagged})):
        variants = [*published, UNCALIBRATED] if (published := versions(name)) else []
        found |= dict.fromkeys([name, *(f"{name}-{variant}" for variant in variants)])
    return list(found)


def expand(methods: Iterable[str | Method]) -> list[Method]:
    """Read names, each `timm:PATTERN` as the names that fit it, without repeats.

    Raises:
        ValueError: a pattern that no name with weights fits.
    """
    found: list[str | Method] = []
    for method in methods:
        if isinstance(method, Method) or not method.startswith(WILDCARD):
            found.append(method)
        else:
            import timm

            found += (fitting := timm.list_pretrained(method.removeprefix(WILDCARD)))
            if not fitting:
                raise ValueError(f"no timm model with weights fits {method!r}")
    return list(dict.fromkeys(map(Method.parse, found)))


def _nearest(method: Method) -> list[str]:
    """Up to three names that look like a misspelt one, or like what comes before its ending."""
    import timm

    known = [*ALIASES, *dict.fromkeys([*names(), *timm.list_models()])]
    heads = (method.text, method.network, method.text.partition("-")[0])
    return next(filter(None, (difflib.get_close_matches(head, known) for head in heads)), [])


def kmeans_images(folder: str | None) -> Tensor:
    """The squares of photographs, in a folder or packaged, that the weights of `NAME-kmeans` are made of.

    Returns:
        (N, 3, 64, 64) in [0, 1], the same each time.

    Raises:
        FileNotFoundError, OSError, ValueError: no such folder, or a photograph that cannot be read or used.
    """
    from perceptual.data.synthetic.cropping import patches
    from perceptual.data.synthetic.photographs import find_photos, packaged

    photos = find_photos(Path(folder).expanduser()) if folder else packaged()
    return patches(photos, KMEANS_IMAGES, seed=0)


def _kmeans(method: Method) -> LPIPS:
    from perceptual.features.kmeans import initialize

    networks.check_name(method.networks)
    images = kmeans_images(method.photographs)
    backbone = calibrations.random_backbone(method.networks)
    initialize(backbone, images)
    return LPIPS(backbone, lin=None)


def _from_folder(source: str) -> Loaded:
    distance = LPIPS.from_pretrained(source)
    return Loaded(distance, saved_ranking(distance))


def saved_ranking(distance: LPIPS) -> nn.Module | None:
    """The ranking network in the folder that a distance was read from, if there is one."""
    saved = distance.saved
    if saved is None or saved.ranking_state is None:
        return None
    return restore(saved.config["ranking"]["name"], saved.ranking_state, str(saved.folder))


def _from_checkpoint(path: Path) -> Loaded:
    from perceptual.training.module import PerceptualRanker

    model = PerceptualRanker.load_from_checkpoint(path, map_location="cpu", weights_only=True)
    model.eval().requires_grad_(False)
    return Loaded(model.distance, model.ranking)
