"""Names of distances, and of the networks in them: the one grammar of Python, the scripts and the command.

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
| `vit_small_patch16_224[out_indices=[cls]]`| a network at other levels                              |
| `alex`, `vgg`, `squeeze`                  | short for `alexnet`, `vgg16`, `squeezenet1_1`          |
| `runs/…/last.ckpt`                        | the distance of a checkpoint of `PerceptualRanker`     |
| `path/to/latest_net_.pth`                 | what the `lpips` package's Trainer wrote               |
| `path/to/folder`, `./folder`              | a folder written by `LPIPS.save_pretrained`            |
| `owner/name`                              | such a folder on the Hugging Face hub                  |
| `l2`, `ssim`, … (`CLASSICS`)              | a classic distance                                     |
| `pyiqa:NAME`, `dreamsim:TYPE`, `piq:NAME` | a distance of another package, see `distance.packages` |
| `timm:*convnext*`                         | every timm name with weights that matches the pattern  |

The name of a network is its identity: what checkpoints, caches, saved folders and results call it, and what
builds it again. timm and torchvision take seconds to import: they are imported when a name needs them.
"""

import json
import os
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, NamedTuple

# what a name says of its channel weights, besides the versions that were published
DEFAULT, UNCALIBRATED, RANDOM, KMEANS = "default", "uncalibrated", "random", "kmeans"
PUBLISHED = "v0.1"  # what `default` means where it exists
VERSIONS = ("v0.0", PUBLISHED)
# the networks that calibrations were published for, and their families
CALIBRATED = {"alexnet": "alexnet", "squeezenet1_1": "squeezenet", "vgg16": "vgg"}
CLASSIC, TRAINED = "classic", "trained"  # families of what is no network by name
LOCAL = "local-dir:"
SCHEMES = ("hf-hub:", "hf_hub:", LOCAL)  # of timm, after which a slash is no path
OF_TORCHVISION = "torchvision:"
ALIASES = {"alex": "alexnet", "vgg": "vgg16", "squeeze": "squeezenet1_1"}  # of lpips and torchmetrics
JOINT = "+"
LEVELS, CHROMA = "out_indices", "chroma"  # options of every network
ANTIALIAS = "antialias"  # of those with a published calibration
CLASSICS = (
    *("l2", "l2_lab", "psnr", "psnr_y", "ssim", "ssim_valid", "ssim_y", "ssim_y_256", "ms_ssim"),
    *("fsim", "fsimc", "gmsd", "vif", "haarpsi", "mdsi", "dists"),
)  # distances of `perceptual.distance.baselines`, which timm need not be asked about
# Options by which timm reads files or takes another configuration. A name may come from a stranger's file.
FILES = re.compile(
    r"pretrained(?!_window)|^checkpoint|^cache|(^|_)(cfg|url|file|filename|dir)$|(?<!drop)_path$"
)


class Name(NamedTuple):
    """The parts of the name of one network."""

    base: str
    """An architecture with or without a tag, or a name with a scheme: `torchvision:…`, `hf-hub:…`."""
    options: dict[str, Any]
    """What it is built with besides."""

    def __str__(self) -> str:
        options = ",".join(f"{key}={_written(self.options[key])}" for key in sorted(self.options))
        return f"{self.base}[{options}]" if options else self.base


def parse(name: str | Name, options: Mapping[str, Any] | None = None) -> Name:
    """Read the parts of a name; `options` are added to those that it says itself. None is no option.

    Raises:
        ValueError: brackets that hold no `option=value`, an option that is said twice, or one that names a
            file or a configuration.
    """
    base, said = name if isinstance(name, Name) else _parts(name)
    added = dict(options or {})
    if twice := said.keys() & added.keys():
        raise ValueError(f"{str(name)!r} says {', '.join(sorted(twice))} already: leave out the option")
    every = {key: value for key, value in {**said, **added}.items() if value is not None}
    if files := [key for key in every if FILES.search(key)]:
        raise ValueError(
            f"{str(name)!r}: {files[0]} names a file or a configuration, which no name of a network may; "
            "weights=… takes the path of a file"
        )
    return Name(ALIASES.get(base, base), every)


def members(name: str) -> list[str]:
    """Split `A+B` into names; one, if it is the name of a single network."""
    return re.split(r"\+(?![^\[]*\])", name)


def read_names(said: str | Iterable[Name], options: Mapping[str, Any] | None = None) -> tuple[Name, ...]:
    """Read the networks of a name, one or those of `A+B`; those that were read before come back."""
    return tuple(parse(one, options) for one in (members(said) if isinstance(said, str) else said))


@dataclass(frozen=True)
class Method:
    """What the name of a distance says; its `str` is what results call it."""

    text: str
    """As it was said."""
    networks: tuple[Name, ...] = field(default=(), compare=False)
    """One, or several as one; of a classic distance its name, of a path none."""
    calibration: str = field(default=DEFAULT, compare=False)
    """A published version, or another of the words above."""
    photographs: str | None = field(default=None, compare=False)
    """The folder of photographs that the weights are made of, if one is said."""
    path: str | None = field(default=None, compare=False)
    """A checkpoint, a saved folder, or `owner/name`."""
    fault: str | None = field(default=None, compare=False)
    """Why it is not a name: building it says so, and other methods go on."""

    @classmethod
    def parse(cls, said: "str | Method") -> "Method":
        """Read a name; a method is returned itself."""
        if isinstance(said, Method):
            return said
        head, of_photographs, folder = said.partition(f"-{KMEANS}:")
        if not of_photographs and (said.endswith(".ckpt") or _has_slash(said)):
            return cls(said, path=said)
        if _of_package(head):
            return cls(said, (Name(said, {}),))
        words = rf"(.+)-(v\d+\.\d+|{UNCALIBRATED}|{RANDOM}|{KMEANS})"
        match = None if of_photographs else re.fullmatch(words, said)
        try:
            networks = read_names(match[1] if match else head)
        except ValueError as error:
            return cls(said, (Name(said, {}),), fault=str(error))
        if of_photographs:
            return cls(said, networks, KMEANS, folder)
        return cls(said, networks, match[2] if match else DEFAULT)

    @property
    def network(self) -> str:
        """Networks as one name, with aliases resolved and options in order; a path as it was said."""
        return self.path or JOINT.join(map(str, self.networks))

    @cached_property
    def baseline(self) -> bool:
        """True for a classic distance or an unknown name: neither a path nor a network."""
        return not self.path and not any(_is_network(name.base) for name in self.networks)

    @property
    def family(self) -> str:
        """`classic`, `trained` (a path), or the architecture's family in timm, of several networks `A+B`."""
        families = dict.fromkeys(_family(name.base) for name in self.networks)
        return TRAINED if self.path else JOINT.join(families)

    def __str__(self) -> str:
        if self.path or self.fault:
            return self.text
        if self.photographs is not None:
            return f"{self.network}-{KMEANS}:{self.photographs}"
        meant = default(self.network) or UNCALIBRATED
        version = meant if self.calibration == DEFAULT else self.calibration
        return self.network if version == UNCALIBRATED == meant else f"{self.network}-{version}"


def versions(network: str) -> list[str]:
    """List the calibrations published for a network, by its name with or without a tag."""
    architecture, _, tag = network.partition(".")
    # calibrated on torchvision's weights, which timm tags so
    return list(VERSIONS) if architecture in CALIBRATED and tag in ("", "tv_in1k") else []


def default(network: str) -> str | None:
    """Return what a network's bare name means: `v0.1` if that was published for it, else None."""
    return PUBLISHED if versions(network) else None


def _has_slash(said: str) -> bool:
    slash = "/" in said or os.sep in said
    return slash and not any(part.startswith(SCHEMES) for part in said.split(JOINT))


def _of_package(said: str) -> bool:
    """Say if a name is that of a distance of another package, `PACKAGE:NAME`."""
    package = re.match(r"\w[\w-]*:", said)
    return package is not None and not said.startswith((*SCHEMES, OF_TORCHVISION))


def _is_network(base: str) -> bool:
    if base.partition(".")[0] in CALIBRATED or base.startswith((*SCHEMES, OF_TORCHVISION)):
        return True
    if base in CLASSICS or ":" in base:
        return False
    import timm

    return timm.is_model(base)


def _family(base: str) -> str:
    scheme, _, name = base.rpartition(":")
    if scheme and base.startswith(OF_TORCHVISION):
        from torchvision.models import get_model_builder

        return get_model_builder(name).__module__.rpartition(".")[2]
    architecture = name.rpartition("/")[2].partition(".")[0]
    if architecture in CALIBRATED:
        return CALIBRATED[architecture]
    if base in CLASSICS:
        return CLASSIC
    import timm

    if not timm.is_model(architecture):
        return scheme or CLASSIC
    return timm.model_entrypoint(architecture).__module__.rpartition(".")[2]


def _parts(name: str) -> tuple[str, dict[str, Any]]:
    match = re.fullmatch(r"([^\[\]]+)\[(.+)\]", name)
    if not match and ("[" in name or "]" in name):
        raise ValueError(f"{name!r} is not a name of a network: options are written NAME[option=value,…]")
    return (match[1], _read(match[2], name)) if match else (name, {})


def _read(written: str, name: str) -> dict[str, Any]:
    from omegaconf import OmegaConf  # imported where a name has options: few have

    values: dict[str, Any] = {}
    for part in re.split(r",(?![^\[]*\])", written):  # not the commas of a list
        key, _, value = part.partition("=")
        if not re.fullmatch(r"[A-Za-z_]\w*", key) or not value or "${" in value:
            raise ValueError(f"{name!r} is not a name of a network: {part!r} is not option=value")
        read: Any = OmegaConf.to_container(OmegaConf.create(f"{key}: {value}"))
        values |= read
    return values


def _written(value: Any) -> str:
    if isinstance(value, Sequence) and not isinstance(value, str):
        return f"[{','.join(_written(item) for item in value)}]"
    if isinstance(value, str) and re.fullmatch(r"[A-Za-z_][\w./-]*", value) and value not in _WORDS:
        return value
    return json.dumps(value)


_WORDS = {"true", "false", "null", "yes", "no", "on", "off", "nan", "inf"}  # that YAML reads as other types
