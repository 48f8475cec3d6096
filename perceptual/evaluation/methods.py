"""What the names of `perceptual.names` stand for, lists of them, and what the results of a method are called.

Classic distances, checkpoints and timm take seconds to import: they are imported when a name needs them.
"""

import difflib
import hashlib
import os
from collections.abc import Callable, Iterable
from contextlib import suppress
from fnmatch import fnmatchcase
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Literal, NamedTuple

import torch
from torch import Tensor, nn

from perceptual.distance import calibration as calibrations
from perceptual.distance.compiled import Compile
from perceptual.distance.compiled import check as check_compile
from perceptual.distance.level import OUTSIDE, Outside
from perceptual.distance.lpips import LPIPS
from perceptual.distance.saving import folders
from perceptual.distance.tiles import Memory
from perceptual.distance.tiles import check as check_memory
from perceptual.evaluation.results import Result
from perceptual.features import networks
from perceptual.features import weights as weight_files
from perceptual.features.backbone import Precision, check_precision
from perceptual.names import ALIASES, KMEANS, RANDOM, UNCALIBRATED, Method, versions
from perceptual.ranking import restore

if TYPE_CHECKING:
    from perceptual.metrics import PerceptualDistance

WILDCARD = "timm:"
KMEANS_IMAGES = 512


class Loaded(NamedTuple):
    """A distance (x, y) → (N,), in eval mode, and the ranking network that was trained with it, if any."""

    distance: nn.Module
    ranking: nn.Module | None = None


def device() -> str:
    """Where distances are computed: on a GPU, of Apple too, if there is one."""
    if torch.cuda.is_available():
        return "cuda"
    return "mps" if torch.backends.mps.is_available() else "cpu"


def build(
    method: str | Method,
    precision: Precision = "32-true",
    compile: Compile = False,
    outside: Outside = "see",
    memory: Memory = None,
) -> nn.Module:
    """The distance that a name stands for, in eval mode: (x, y) → (N,), images in [0, 1].

    Args:
        method: the name, or what was read of it.
        precision: of deep features, as `Backbone` takes it; classic distances are in float32.
        compile: have deep features compared by compiled code, as `LPIPS` takes it.
        outside: what a network sees outside of masks, as `LPIPS` takes it.
        memory: bytes for deep features, as `LPIPS` takes it.

    Raises:
        ValueError: no such method, a checkpoint or folder that is not one of ours, no such precision,
            `compile` without a compiler, or `fill` without a network.
        FileNotFoundError: a checkpoint, folder or weights that cannot be found.
    """
    check_precision(precision)
    check_compile(compile)
    check_memory(memory)
    distance = load(method).distance
    if isinstance(distance, LPIPS):
        distance.accelerate(precision=precision, compile=compile, memory=memory)
    return seeing(outside, distance, str(method))


def seeing(outside: Outside, distance: nn.Module, name: str) -> nn.Module:
    """Have a distance of a name see that outside of masks, from now on; itself.

    Raises:
        ValueError: no such word, or `fill` of a distance without a network.
    """
    if outside not in OUTSIDE:
        raise ValueError(f"outside must be one of {', '.join(OUTSIDE)}, got {outside!r}")
    if isinstance(distance, LPIPS):
        distance.outside = outside
    elif outside == "fill":
        raise ValueError(f"outside='fill' gives the mean colour of a network, and {name} has none")
    return distance


def load(said: str | Method) -> Loaded:
    """What a name stands for; raises what `build` does."""
    method = Method.parse(said)
    if method.fault:
        raise ValueError(method.fault)
    if method.path:
        path = Path(method.path).expanduser()
        if path.suffix == ".pth":
            return Loaded(LPIPS(*calibrations.of_lpips(path)))
        return _from_checkpoint(path) if path.suffix == ".ckpt" else _from_folder(method.path)
    if method.calibration == KMEANS:
        return Loaded(_kmeans(method))
    if not method.baseline:
        return Loaded(LPIPS(method))
    from perceptual.distance import packages
    from perceptual.distance.baselines import BASELINES

    name = method.text
    if ":" in name:
        return Loaded(packages.build(name))
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


@torch.inference_mode(False)  # whose tensors can take part in no gradient later
def create_metric(
    name: str,
    reduction: Literal["mean", "sum", "none"] = "mean",
    *,
    precision: Precision = "32-true",
    compile: Compile = False,
    outside: Outside = "see",
    memory: Memory = None,
    weight: Literal["image", "area"] = "image",
) -> "PerceptualDistance":
    """Create a torchmetrics metric of the distance with that name; `.distance` is the distance itself.

    Examples:
        >>> import torch
        >>> metric = create_metric("ssim")
        >>> x = torch.rand(2, 3, 32, 32)
        >>> metric(x, x)
        tensor(0.)

    Args:
        name: `alexnet`, `resnet50.a1_in1k-uncalibrated`, `ssim`, a path, …, see
            `perceptual.names`; `list_metrics` lists them.
        reduction: `mean` or `sum` over pairs, or `none`: the distances (N,).
        precision: of deep features, as `Backbone` takes it; classic distances are in float32.
        compile: compare deep features by compiled code, as `LPIPS` takes it.
        outside: what a network sees outside of masks, as `LPIPS` takes it.
        memory: bytes for deep features, as `LPIPS` takes it.
        weight: what a pair counts in the mean, one or the area of its mask, as `PerceptualDistance` takes it.

    Raises:
        ValueError: unknown name or word, or `compile` without a compiler.
        FileNotFoundError: a checkpoint, folder or weights file does not exist.
    """
    from perceptual.metrics import PerceptualDistance  # torchmetrics, which takes seconds

    return PerceptualDistance(build(name, precision, compile, outside, memory), reduction, weight=weight)


def list_metrics(pattern: str = "*") -> list[str]:
    """List the names that `create_metric` takes, but for paths, that match a pattern of shell wildcards.

    Classic distances come first, then networks of torchvision and timm that have weights, each followed by
    its published calibrations and `-uncalibrated`. `-random` may be added to the name of any network.

    Examples:
        >>> list_metrics("alexnet*")
        ['alexnet', 'alexnet-v0.0', 'alexnet-v0.1', 'alexnet-uncalibrated']
    """
    return [name for name in names() if fnmatchcase(name, pattern)]


def identity(method: Method, precision: Precision = "32-true") -> str:
    """Name the results of a method: its `str`, with `@` and a SHA-256 where a path says what it is made of.

    That is a checkpoint, a saved folder, or the photographs of `NAME-kmeans:FOLDER`. Deep features of another
    precision than float32 are another method, with `+` and the precision.
    """
    made_of = None
    if method.photographs is not None:
        with suppress(OSError, ValueError):  # building it says why
            made_of = kmeans_images(method.photographs).numpy().tobytes()
    elif method.path:
        # of os.path: a name that no file can have is no file, where Path raises an error
        path = Path(method.path, folders.CONFIG) if os.path.isdir(method.path) else Path(method.path)
        made_of = path.read_bytes() if os.path.isfile(path) else None
    digest = f"@{hashlib.sha256(made_of).hexdigest()[:8]}" if made_of is not None else ""
    return f"{method}{digest}" + ("" if precision == "32-true" or method.baseline else f"+{precision}")


class Asked(NamedTuple):
    """A method that was asked for, and what it would be read from."""

    method: Method
    weights: str | None
    """See `weights_of`."""


def called(
    methods: Iterable[Method], precision: Precision, find: Callable[[str], Result | None]
) -> dict[str, Asked]:
    """Name the results of methods, and say what each name stands for.

    That is the identity; where there is a result of that name on other weights, `@` and a SHA-256 follow.

    Args:
        methods: what was asked for.
        precision: see `identity`.
        find: the result of a name, None if there is none.
    """
    found = {}
    for method in methods:
        try:
            name, weights = identity(method, precision), weights_of(method)
            same = {weights, weights_of(method, weight_files.digest)}  # of files, as older results have it
        except Exception:  # building it says what is wrong, and the others go on
            name, weights, same = method.text, None, {None}
        result = find(name)
        if result is not None and result.weights_file not in same:
            name += f"@{(weights or 'hub')[:8]}"
        found[name] = Asked(method, weights)
    return found


def content(path: Path) -> str:
    """SHA-256 of the weights in a file, whatever else it holds; one that has not changed is read once."""
    return _content(path, path.stat().st_mtime_ns)


def weights_of(method: Method, digest: Callable[[Path], str] = content) -> str | None:
    """SHA-256 of the weights on this machine that a method's network has by default.

    None: they are from no such file, but the hub, or a checkpoint or saved folder, whose identity says which.
    """
    if method.path or method.baseline or method.calibration in (RANDOM, KMEANS):
        return None
    found = [digest(path) for path in networks.local_files(method.networks)]
    return hashlib.sha256("".join(found).encode()).hexdigest() if found else None


@cache
def _content(path: Path, modified: int) -> str:
    try:
        return weight_files.fingerprint(weight_files.read(path))
    except ValueError:  # a configuration beside the weights
        return weight_files.digest(path)


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
    from perceptual.data.synthetic.photographs import find_photos, packaged, patches

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
