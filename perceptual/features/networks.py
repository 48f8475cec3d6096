"""Feature networks by name: torchvision's of LPIPS, and every architecture of timm that gives feature maps.

timm is imported where it is used: importing it takes longer than measuring two images with AlexNet.
"""

import difflib
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any, NamedTuple

import torch
import torchvision
from torch import Tensor, nn

from perceptual.features import weights as weight_files

IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
ALIASES = {"alex": "alexnet", "vgg": "vgg16", "squeeze": "squeezenet1_1"}  # of lpips and torchmetrics


class Taps(NamedTuple):
    """Layers of `torchvision.models.<name>().features` that LPIPS reads, after their activation."""

    layers: tuple[int, ...]
    channels: tuple[int, ...]


TORCHVISION = {
    "alexnet": Taps((1, 4, 7, 9, 11), (64, 192, 384, 256, 256)),
    "squeezenet1_1": Taps((1, 4, 7, 9, 10, 11, 12), (64, 128, 256, 384, 384, 512, 512)),
}


class Network(NamedTuple):
    """A network that gives a list of feature maps, shallow to deep, and what is known of it."""

    net: Any
    out_indices: tuple[int, ...]
    channels: list[int]
    source: str
    """Where its weights are from: `random`, `file:…`, `package:…` or `hub:…`."""
    mean: Sequence[float]
    std: Sequence[float]
    input_size: tuple[int, int] | None = None
    """The size (H, W) that all images must have; None: any."""
    fallback_size: tuple[int, int] | None = None
    """The size to resize images to if the network cannot take small ones."""
    channels_last: bool = False
    """Whether the maps are (N, H, W, C)."""


def resolve(name: str) -> str:
    """The name of a backbone, from a name or one of `ALIASES`."""
    return ALIASES.get(name, name)


def build(
    name: str,
    weights: str | None,
    out_indices: Sequence[int] | None,
    input_size: tuple[int, int] | None,
) -> Network:
    """The network of that name with its weights; arguments and errors as in `Backbone`."""
    if name in TORCHVISION:
        return _Torchvision(name).build(weights, out_indices)._replace(input_size=input_size)
    check_name(name)
    return _Timm(name, input_size).build(weights, out_indices)


def check_name(name: str) -> None:
    """Refuse a name that is neither one of torchvision's here nor known to timm.

    Raises:
        ValueError: offering the nearest names, or the tags that timm has.
    """
    if name in TORCHVISION:
        return
    import timm

    architecture, _, tag = name.partition(".")
    known = [*TORCHVISION, *timm.list_models()]
    if architecture not in known:
        # a long ending, such as -uncalibrate, hides what it follows
        heads = (architecture, architecture.partition("-")[0])
        near = next(filter(None, (difflib.get_close_matches(h, [*known, *ALIASES], n=3) for h in heads)), [])
        raise ValueError(
            f"unknown backbone {name!r}; "
            + (
                f"did you mean {', '.join(near)}?"
                if near
                else "list_metrics() and timm.list_models() list the names"
            )
        )
    tags = [full.partition(".")[2] for full in timm.list_pretrained(f"{architecture}.*")]
    if tag and tag not in tags:
        there = f"its tags: {', '.join(tags)}" if tags else "it has no tags: leave it out"
        raise ValueError(f"there are no weights {tag!r} for {architecture}; {there}")


def default_levels(reductions: Sequence[int]) -> list[int]:
    """Levels to tap, given the stride of each: the first five of a pyramid, else one at each quarter."""
    depth = len(reductions)
    if len(set(reductions)) > 1 or depth < 4:
        return list(range(min(depth, 5)))
    return [depth * quarter // 4 - 1 for quarter in (1, 2, 3, 4)]


class _Torchvision:
    """AlexNet and SqueezeNet at the layers of LPIPS, which timm does not have."""

    def __init__(self, name: str) -> None:
        self.name, self.taps = name, TORCHVISION[name]

    def build(self, weights: str | None, out_indices: Sequence[int] | None) -> Network:
        taps = self.taps
        levels = _levels(self.name, out_indices, range(len(taps.layers)), len(taps.layers))
        # On the meta device the classifier, most of the network and never used, costs nothing.
        with torch.device("cpu" if weights is None else "meta"):
            layers: Any = torchvision.models.get_model(self.name, weights=None).features
        net = _TappedSequential(layers, [taps.layers[i] for i in levels])
        source = "random"
        if weights is not None:
            state, source = weight_files.find_local(self.name, weights) or self._from_hub()
            given = {key.removeprefix("features."): value for key, value in state.items()}
            weight_files.assign(net, given, f"{self.name} from {source}")
        channels = [taps.channels[i] for i in levels]
        return Network(net, levels, channels, source, IMAGENET_MEAN, IMAGENET_STD)

    def _from_hub(self) -> tuple[Mapping[str, Tensor], str]:
        weights: Any = torchvision.models.get_model_weights(self.name)
        try:
            state = weights.IMAGENET1K_V1.get_state_dict(check_hash=True)
        except (OSError, RuntimeError) as error:
            raise _no_weights(self.name, error) from error
        return state, "hub:torchvision IMAGENET1K_V1"


class _TappedSequential(nn.Sequential):
    """The layers up to the deepest tap; returns the outputs of the tapped ones."""

    def __init__(self, layers: nn.Sequential, taps: Sequence[int]) -> None:
        super().__init__(*list(layers)[: max(taps) + 1])
        self.taps = frozenset(taps)

    def forward(self, x: Tensor) -> list[Tensor]:
        maps = []
        for index, layer in enumerate(self):
            x = layer(x)
            if index in self.taps:
                maps.append(x)
        return maps


class _Timm:
    """A network of timm, built by the rule on input sizes that `Backbone` states."""

    def __init__(self, name: str, input_size: tuple[int, int] | None) -> None:
        import timm

        self.name, self.input_size = name, input_size
        # without a configuration of its own, as networks that users register, timm's default
        self.cfg: Any = timm.get_pretrained_cfg(name) or timm.models.PretrainedCfg()

    def build(self, weights: str | None, out_indices: Sequence[int] | None) -> Network:
        from timm.layers import Format

        local = weight_files.find_local(self.name, weights) if weights is not None else None
        with torch.device("meta"):
            info = self._create().feature_info
        # a stem that is no module of its own, as TResNet's, cannot be tapped
        named = [level for level in range(len(info)) if info.module_name(level)]
        default = [named[i] for i in default_levels(info.reduction(named))]
        levels = _levels(self.name, out_indices, default, len(info))
        net, source = self._load(*local, levels) if local else self._download(weights, levels)
        return Network(
            net,
            levels,
            list(net.feature_info.channels()),
            source,
            net.pretrained_cfg["mean"],
            net.pretrained_cfg["std"],
            self.input_size,
            (self.cfg.min_input_size or self.cfg.input_size)[-2:],
            getattr(net, "output_fmt", Format.NCHW) == Format.NHWC,
        )

    def _create(self, **arguments: Any) -> Any:
        import timm

        build: Any = partial(timm.create_model, self.name, features_only=True, **arguments)
        if not self.cfg.fixed_input_size:
            return build()
        if self.input_size:
            return build(img_size=self.input_size)
        for any_size in ({"dynamic_img_size": True, "dynamic_img_pad": True}, {"dynamic_img_size": True}):
            try:
                return build(**any_size)
            except TypeError:  # this architecture does not know the argument
                continue
        self.input_size = self.cfg.input_size[-2:]
        return build()

    def _load(self, state: Mapping[str, Tensor], source: str, levels: Sequence[int]) -> tuple[Any, str]:
        with torch.device("meta"):
            net = self._create(out_indices=levels)
        what = f"{self.name} from {source}"
        weight_files.check_names(net, state, what)
        if weight_files.lives_in_state_dict(net) and not weight_files.other_shapes(net, state):
            weight_files.assign(net, state, what)
            return net, source
        # timm resamples position embeddings to the input size, and computes what no file holds.
        overlay = {"state_dict": dict(state)}
        try:
            return self._create(pretrained=True, pretrained_cfg_overlay=overlay, out_indices=levels), source
        except RuntimeError as error:
            weight_files.check_shapes(net, state, what)
            raise ValueError(f"weights of {what} do not fit: {error}") from error

    def _download(self, weights: str | None, levels: Sequence[int]) -> tuple[Any, str]:
        try:
            net = self._create(pretrained=weights is not None, out_indices=levels)
        except (OSError, RuntimeError) as error:
            if weights is None:
                raise
            raise _no_weights(self.name, error) from error
        cfg = net.pretrained_cfg
        return net, "random" if weights is None else f"hub:{cfg.get('hf_hub_id') or cfg.get('url')}"


def _levels(name: str, given: Sequence[int] | None, default: Sequence[int], depth: int) -> tuple[int, ...]:
    """Levels counted from the first; negative ones are counted from the last, as timm does."""
    chosen = default if given is None else given
    levels = tuple(level + depth if level < 0 else level for level in chosen)
    if not levels or list(levels) != sorted(set(levels)) or levels[0] < 0 or levels[-1] >= depth:
        raise ValueError(
            f"out_indices of {name} must be rising numbers from 0 to {depth - 1}, or negative ones from "
            f"{-depth} to -1, got {list(chosen)}"
        )
    return levels


def _no_weights(name: str, error: Exception) -> FileNotFoundError:
    reason = str(error).strip().splitlines()[0].split(". ")[0]
    return FileNotFoundError(
        f"no weights for {name}: the environment variable PERCEPTUAL_WEIGHTS names no directory that holds "
        f"{name.split('.')[0]}.safetensors, and the hub did not give them ({reason}); `weights` may also be "
        "the path of a file, or null for random ones"
    )
