"""Networks of timm: by name with any of its options, from the Hugging Face hub, or from a folder."""

import inspect
from collections.abc import Mapping, Sequence
from contextlib import suppress
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

from perceptual.features import custom
from perceptual.features import weights as weight_files
from perceptual.features.info import (
    EMBEDDINGS,
    BackboneInfo,
    Level,
    Network,
    embeddings_of,
    levels,
    no_weights,
)
from perceptual.files.messages import first_line
from perceptual.names import LOCAL, SCHEMES, Name

LARGEST_PROJECTION = 4096  # numbers; other heads classify: ImageNet-1k into 1000, larger sets into more
SAFE = (1, 0, 26)  # the first version of timm that reads the weights of a folder as tensors alone
# that fetch and read them
OF_WEIGHTS = ("timm", "huggingface_hub", "safetensors", "requests", "urllib3", "httpx", "httpcore")
# of timm's own constructors, what a feature network sets itself or has no use for
NOT_OPTIONS = {"self", "num_classes", "in_chans", "global_pool", "args", "kwargs", "device", "dtype"}


LISTED = (torch.linspace, torch.arange, torch.tensor)


class _Numbers(TorchFunctionMode):
    """Keep numbers that are listed on the CPU: older versions of timm read widths of layers from them."""

    def __torch_function__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        on_cpu = {"device": "cpu"} if function in LISTED else {}
        return function(*args, **on_cpu | (kwargs or {}))


def default_levels(reductions: Sequence[int]) -> list[int]:
    """Choose levels by the stride of each: the first five of a pyramid, else one at each quarter."""
    depth = len(reductions)
    if len(set(reductions)) > 1 or depth < 4:
        return list(range(min(depth, 5)))
    return [depth * quarter // 4 - 1 for quarter in (1, 2, 3, 4)]


def _with_classes(options: Mapping[str, Any]) -> dict[str, Any]:
    """Options with `aa_layer` as a class: timm's ResNets fail on its name, which timm's layers take.

    Raises:
        ValueError: no such layer.
    """
    from timm.layers import BlurPool2d

    class BlurPool2dConstant(BlurPool2d):
        """Padded with zeros, as timm's `blurpc`."""

        def __init__(self, *args: Any, **kwargs: Any) -> None:
            super().__init__(*args, **{"pad_mode": "constant", **kwargs})

    layers = {"avg": torch.nn.AvgPool2d, "blur": BlurPool2d, "blurpc": BlurPool2dConstant}
    name = options.get("aa_layer")
    if isinstance(name, str) and name not in layers:
        raise ValueError(f"aa_layer must be one of {', '.join(layers)}, got {name!r}")
    return dict(options) | ({"aa_layer": layers[name]} if isinstance(name, str) else {})


class _Embeddings(torch.nn.Module):
    """A whole network of timm, at levels of which some are embeddings.

    Args:
        model: the network, without a classifier.
        taps: numbers of its maps, then embeddings.
    """

    def __init__(self, model: Any, taps: Sequence[Level]) -> None:
        from timm.models import FeatureInfo

        super().__init__()
        self.model, self.words = model, embeddings_of(taps)
        self.numbers = [level for level in taps if isinstance(level, int)]
        maps, projected = list(model.feature_info), model.num_classes
        last, self.width = len(maps) - 1, maps[-1]["num_chs"]
        self.indices = sorted({*self.numbers, last})
        width = {"embedding": projected or model.head_hidden_size}
        self.norm = torch.nn.Identity()
        if "embedding" not in self.words:  # no weights that nothing uses
            model.prune_intermediate_layers([last], prune_norm=True, prune_head="cls" not in self.words)
        elif "cls" in self.words:
            self.norm, model.norm = model.norm, self.norm
        offered = [maps[i] for i in self.numbers]
        offered += [maps[-1] | {"num_chs": width.get(word, maps[-1]["num_chs"])} for word in self.words]
        self.feature_info = FeatureInfo([dict(level) for level in offered], tuple(range(len(offered))))
        self.pretrained_cfg = model.pretrained_cfg

    def forward(self, x: Tensor) -> list[Tensor]:
        """Compute maps (N, C, h, w), then embeddings (N, C)."""
        last, maps = self.model.forward_intermediates(x, indices=self.indices, output_fmt="NCHW")
        if self.numbers and maps[-1].shape[1] != self.width:  # older ConvNeXts count their stem
            raise ValueError(
                "this version of timm numbers the maps beside an embedding otherwise: take a newer one"
            )
        found = [maps[self.indices.index(level)] for level in self.numbers]
        for word in self.words:
            if word == "cls":
                found.append(last[:, 0])
            elif word == "patches":
                found.append(maps[-1].mean((2, 3)))
            else:
                projects = bool(self.model.num_classes)
                found.append(self.model.forward_head(self.norm(last), pre_logits=not projects))
        return found


def _embeddings(net: Any, offered: Any) -> list[str]:
    """Return the embeddings that a network offers."""
    known = {
        "cls": getattr(net, "cls_token", None) is not None,
        "embedding": hasattr(net, "forward_intermediates"),
        "patches": len({*offered.reduction(list(range(len(offered))))}) == 1,
    }
    return [word for word in EMBEDDINGS if known[word]]


class Builder:
    """Builds a network by the rule on input sizes that `Backbone` states.

    Args:
        name: what timm calls the network, and further arguments of timm's constructor.
        input_size: (H, W) of all images.
    """

    def __init__(self, name: Name, input_size: tuple[int, int] | None) -> None:
        import timm

        self.name, self.input_size = str(name), input_size
        self.base, self.options = name
        if self.base.startswith(SCHEMES):
            self.cfg = timm.models.PretrainedCfg(**self._whole().pretrained_cfg)
        else:
            # without a configuration of its own, as networks that users register, timm's default
            self.cfg = timm.get_pretrained_cfg(self.base) or timm.models.PretrainedCfg()

    def build(self, weights: str | None, out_indices: Sequence[Level] | None, prefix: str) -> Network:
        """Build the network with its weights."""
        from timm.layers import Format
        from timm.models import FeatureInfo

        here = weights if weights != "default" or not self.base.startswith(SCHEMES) else None
        local = weight_files.find_local(self.base, here, prefix) if here is not None else None
        words = embeddings_of(out_indices or ())
        with torch.device("meta"), _Numbers():
            net = self._create(**self._whole_or_maps(words))
        offered = FeatureInfo(net.feature_info, ()) if words else getattr(net, "feature_info", None)
        if offered is None:
            raise ValueError(
                f"{self.name} does not say its levels in feature_info, as networks of timm do; "
                f"backbone._target_ takes any network"
            )
        # a stem that is no module of its own, as TResNet's, cannot be tapped
        named = [level for level in range(len(offered)) if offered.module_name(level)]
        default = [named[i] for i in default_levels(offered.reduction(named))]
        taps = levels(self.name, out_indices, default, len(offered), _embeddings(net, offered))
        net, source = self._load(*local, taps) if local else self._download(weights, taps)
        info = BackboneInfo(
            self.name,
            taps,
            list(net.feature_info.channels()),
            source,
            net.pretrained_cfg["mean"],
            net.pretrained_cfg["std"],
            self.input_size,
            (self.cfg.min_input_size or self.cfg.input_size)[-2:],
            channels_last=getattr(net, "output_fmt", Format.NCHW) == Format.NHWC,
            embeds=len(words) == len(taps),
        )
        return Network(net, info)

    def _whole(self) -> Any:
        """Build the network with its classifier, on no device."""
        import timm

        # older ones know no folders, or read their weights as pickles, which may run code
        if self.base.startswith(LOCAL) and tuple(map(int, timm.__version__.split(".")[:3])) < SAFE:
            said = ".".join(map(str, SAFE))
            raise ValueError(f"{self.base}: {LOCAL} needs timm {said} or newer, this is {timm.__version__}")
        try:
            with torch.device("meta"), _Numbers():
                return timm.create_model(self.base)
        except Exception as error:  # of the hub's client, of a folder's files, of an unknown architecture
            if isinstance(error, KeyError) and error.args == ("architecture",):
                raise ValueError(
                    f"{self.base} is not a model of timm: its config.json names no architecture. One of "
                    "transformers is built by your own code, see backbone._target_"
                ) from error
            reason = first_line(error)
            raise FileNotFoundError(f"{self.base} gave no network: {reason}") from error

    def _whole_or_maps(self, words: Sequence[str]) -> dict[str, Any]:
        """Arguments of timm for a whole network, of which embeddings are taken, or else for its maps."""
        if not words:
            return {"features_only": True}
        size = self.cfg.num_classes
        projects = "embedding" in words and size != 1000 and size < LARGEST_PROJECTION
        return {"num_classes": size if projects else 0}

    def _net(self, taps: Sequence[Level], **arguments: Any) -> Any:
        words = embeddings_of(taps)
        net = self._create(
            **self._whole_or_maps(words), **arguments, **({} if words else {"out_indices": taps})
        )
        return _Embeddings(net, taps) if words else net

    def _create(self, **arguments: Any) -> Any:
        import timm

        arguments |= _with_classes(self.options)

        def build(**sizes: Any) -> Any:
            try:
                return timm.create_model(self.base, **arguments, **sizes)
            except RuntimeError as error:
                if str(error).startswith("features_only not implemented"):
                    raise ValueError(f"{self.name} gives no feature maps in this version of timm") from error
                raise

        make: Any = build
        if self.cfg.fixed_input_size:
            if size := self.options.get("img_size"):
                self.input_size = self.input_size or ((size, size) if isinstance(size, int) else tuple(size))
            elif self.input_size:
                make = partial(build, img_size=self.input_size)
            else:
                for pad in ({"dynamic_img_pad": True}, {}):
                    with suppress(TypeError):  # this architecture does not know the argument
                        return build(dynamic_img_size=True, **pad)
                self.input_size = self.cfg.input_size[-2:]
        return self._with_options(make)

    def _with_options(self, build: Any) -> Any:
        """Build; refuse options that the architecture does not take, and say where a user's network fails."""
        try:
            return build()
        except Exception as error:  # whatever timm makes of a wrong option, or the user's code raises
            weights = isinstance(error, (OSError, RuntimeError))  # are not there, or do not fit
            theirs = custom.place_of(error, OF_WEIGHTS if weights else ())
            if weights and not theirs:
                raise
            if self.options and not theirs:
                known = [*inspect.signature(type(self._whole()).__init__).parameters]
                takes = [option for option in known if option not in NOT_OPTIONS]
                if unknown := [option for option in self.options if option not in known]:
                    raise ValueError(
                        f"{self.base} has no option {', '.join(unknown)}; it takes {', '.join(takes)}"
                    ) from error
            raise ValueError(f"{self.name} cannot be built: {custom.say(error)}") from error

    def _load(self, state: Mapping[str, Tensor], source: str, taps: Sequence[Level]) -> tuple[Any, str]:
        with torch.device("meta"), _Numbers():
            net = self._net(taps)
        what = f"{self.name} from {source}"
        weight_files.check_names(net, state, what)
        if weight_files.lives_in_state_dict(net) and not weight_files.other_shapes(net, state):
            weight_files.assign(net, state, what)
            return net, source
        # timm resamples position embeddings to the input size, and computes what no file holds.
        overlay = {"state_dict": dict(state)}
        try:
            return self._net(taps, pretrained=True, pretrained_cfg_overlay=overlay), source
        except RuntimeError as error:
            weight_files.check_shapes(net, state, what)
            raise ValueError(f"weights of {what} do not fit: {error}") from error

    def _download(self, weights: str | None, taps: Sequence[Level]) -> tuple[Any, str]:
        try:
            net = self._net(taps, pretrained=weights is not None)
        except (OSError, RuntimeError) as error:
            if weights is None:
                raise
            if "state_dict" in str(error):  # PyTorch's refusal, which names the keys
                reason = " ".join(str(error).split())
                raise ValueError(f"weights of {self.name} do not fit: {reason[:300]}") from error
            raise no_weights(self.name, error, self.base.split(".")[0]) from error
        cfg = net.pretrained_cfg
        where = cfg.get("hf_hub_id") or cfg.get("file") or cfg.get("url")
        return net, "random" if weights is None else f"hub:{where}"
