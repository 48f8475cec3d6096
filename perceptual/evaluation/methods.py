"""Names of distances: the one grammar of `create_metric`, evaluate.py, the leaderboard and the command.

| name                                      | distance                                               |
|-------------------------------------------|--------------------------------------------------------|
| `alexnet`, `resnet50.a1_in1k`             | what `LPIPS(NAME)` is: the published calibration v0.1  |
|                                           | where there is one for that network, else uncalibrated |
| `alexnet-v0.1`, `alexnet-v0.0`            | LPIPS with that published calibration                  |
| `alexnet-uncalibrated`                    | all channels with weight 1                             |
| `alexnet-random`                          | uncalibrated, on random weights                        |
| `alexnet-kmeans`                          | uncalibrated, on weights made of packaged photographs  |
| `alexnet-kmeans:path/to/photographs`      | likewise, of the photographs in a folder               |
| `resnet18[aa_layer=blurpc]`, `A+B`        | a variant of a network; several networks as one        |
| `alex`, `vgg`, `squeeze`                  | short for `alexnet`, `vgg16`, `squeezenet1_1`          |
| `runs/…/last.ckpt`                        | the distance of a checkpoint of `PerceptualRanker`     |
| `path/to/folder`, `./folder`              | a folder written by `LPIPS.save_pretrained`            |
| `owner/name`                              | such a folder on the Hugging Face hub                  |
| `l2`, `ssim`, … (`BASELINES`)             | a classic distance                                     |
| `timm:*convnext*`                         | every timm name with weights that matches the pattern  |

Classic distances, checkpoints and timm take seconds to import: they are imported when a name needs them.
"""

import difflib
import os
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

from torch import Tensor, nn

from perceptual.distance import calibration as calibrations
from perceptual.distance import saved_folder
from perceptual.distance.compiled import check_compiler
from perceptual.distance.lpips import LPIPS
from perceptual.features import networks
from perceptual.features.backbone import Precision, check_precision
from perceptual.features.build import KMEANS
from perceptual.features.names import parse
from perceptual.features.timm_networks import SCHEMES
from perceptual.ranking import restore

WILDCARD = "timm:"
CLASSIC = "classic"
KMEANS_IMAGES = 512
KMEANS_OF = f"-{KMEANS}:"  # before the folder of photographs that the weights are made of


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
    name, said = calibrations.split(method.partition(KMEANS_OF)[0])
    if said == KMEANS or KMEANS_OF in method:
        return Method(_kmeans(name, method))
    if _is_network(name):
        return Method(LPIPS(method))
    from perceptual.distance.baselines import BASELINES

    if method in BASELINES:
        return Method(BASELINES[method]())
    if os.path.isfile(Path(method, saved_folder.CONFIG)):
        raise ValueError(
            f"unknown method {method!r}; a path has a slash: ./{method} is the folder of that name"
        )
    near = _nearest(method)
    raise ValueError(
        f"unknown method {method!r}; "
        + (
            f"did you mean {', '.join(near)}?"
            if near
            else "list_metrics() lists the names, and a path ends in .ckpt or has a slash"
        )
    )


def canonical(method: str) -> str:
    """The name of its results: `alex` → `alexnet-v0.1`, `resnet18-uncalibrated` → `resnet18`."""
    if is_path(method):
        return method
    head, mark, folder = method.partition(KMEANS_OF)
    if mark:
        return networks.resolve(head) + mark + folder
    name, said = split(method)
    default = calibrations.default(name) or calibrations.UNCALIBRATED
    version = default if said == calibrations.DEFAULT else said
    if version == calibrations.UNCALIBRATED == default:
        return name
    return f"{name}-{version}"


def names() -> list[str]:
    """Every name but paths and patterns: classic distances, torchvision, timm with weights, and variants."""
    import timm

    from perceptual.distance.baselines import BASELINES

    tagged = timm.list_pretrained()
    found = dict.fromkeys(BASELINES)
    for name in (*networks.TORCHVISION, *sorted({*(name.partition(".")[0] for name in tagged), *tagged})):
        versions = calibrations.versions(name)
        variants = [*versions, calibrations.UNCALIBRATED] if versions else []
        found |= dict.fromkeys([name, *(f"{name}-{variant}" for variant in variants)])
    return list(found)


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
    name = split(method)[0]
    return networks.JOINT.join(dict.fromkeys(map(_family, networks.members(name))))


def _family(name: str) -> str:
    scheme, _, base = _base(name).rpartition(":")
    if scheme == "torchvision":
        from torchvision.models import get_model_builder

        return get_model_builder(base).__module__.rpartition(".")[2]
    architecture = base.rpartition("/")[2].partition(".")[0]
    if architecture in networks.TORCHVISION:
        return architecture.partition("net")[0] + "net"
    import timm

    if not timm.is_model(architecture):
        return scheme or CLASSIC
    return timm.model_entrypoint(architecture).__module__.rpartition(".")[2]


def is_path(method: str) -> bool:
    """Whether a method name is a path or `owner/name`: it ends in `.ckpt` or has a slash, and no scheme."""
    if KMEANS_OF in method:
        return False
    if method.endswith(".ckpt"):
        return True
    return os.sep in method and not any(part.startswith(SCHEMES) for part in method.split(networks.JOINT))


def split(method: str) -> tuple[str, str]:
    """A name's network and what it says of its calibration, as `calibration.split`.

    A name that cannot be parsed, which `load` refuses, stays whole; of `NAME-kmeans:FOLDER` it is `kmeans`.
    """
    try:
        head, mark, _ = method.partition(KMEANS_OF)
        return (head, KMEANS) if mark else calibrations.split(head)
    except ValueError:
        return method, calibrations.DEFAULT


def _base(name: str) -> str:
    try:
        return parse(name).base
    except ValueError:
        return name


def _is_network(name: str) -> bool:
    """Whether the parts of a name, or one of them, are known networks; `LPIPS` refuses the rest."""
    bases = [_base(member) for member in networks.members(name)]
    if any(base.partition(".")[0] in networks.TORCHVISION or ":" in base for base in bases):
        return True
    import timm

    return any(timm.is_model(base) for base in bases)


def _nearest(method: str) -> list[str]:
    """Up to three names that look like a misspelt one, or like what comes before its ending."""
    import timm

    known = [*networks.ALIASES, *dict.fromkeys([*names(), *timm.list_models()])]
    heads = (method, split(method)[0], method.partition("-")[0])
    return next(filter(None, (difflib.get_close_matches(head, known) for head in heads)), [])


def kmeans_images(method: str) -> Tensor:
    """The squares of photographs that the weights of `NAME-kmeans` or `NAME-kmeans:FOLDER` are made of.

    Returns:
        (N, 3, 64, 64) in [0, 1], the same each time.

    Raises:
        FileNotFoundError, OSError, ValueError: no such folder, or a photograph that cannot be read or used.
    """
    from perceptual.data.synthetic.cropping import patches
    from perceptual.data.synthetic.photographs import find_photos, packaged

    folder = method.partition(KMEANS_OF)[2]
    photos = find_photos(Path(folder).expanduser()) if folder else packaged()
    return patches(photos, KMEANS_IMAGES, seed=0)


def _kmeans(name: str, method: str) -> LPIPS:
    from perceptual.features.kmeans import initialize

    networks.check_name(name)
    images = kmeans_images(method)
    backbone = calibrations.random_backbone(name)
    initialize(backbone, images)
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


def _from_checkpoint(path: Path) -> Method:
    from perceptual.training.module import PerceptualRanker

    model = PerceptualRanker.load_from_checkpoint(path, map_location="cpu", weights_only=True)
    model.eval().requires_grad_(False)
    return Method(model.distance, model.ranking)
