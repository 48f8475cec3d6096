"""Backbone: images in [0, 1] → feature maps, shallow to deep, of torchvision's LPIPS networks and of timm.

timm is imported where it is used: it takes longer than an AlexNet does to measure two images.
"""

import difflib
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from functools import partial
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
import torchvision
from torch import Tensor, nn

from perceptual.features import weights as weight_files

IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
PATCH = 64  # side of the patches that LPIPS was made with
SIZE_ERRORS = (RuntimeError, AssertionError, ValueError, IndexError)  # by which networks refuse a size
PRECISIONS = ("32-true", "bf16-mixed")  # by Lightning's names


class Taps(NamedTuple):
    """Layers of `torchvision.models.<name>().features` that LPIPS reads, after their activation."""

    layers: tuple[int, ...]
    channels: tuple[int, ...]


TORCHVISION = {
    "alexnet": Taps((1, 4, 7, 9, 11), (64, 192, 384, 256, 256)),
    "squeezenet1_1": Taps((1, 4, 7, 9, 10, 11, 12), (64, 128, 256, 384, 384, 512, 512)),
}


class Backbone(nn.Module):
    """Feature maps of a network, from images in [0, 1] of shape (N, 3, H, W) to a list of (N, C, h, w).

    Which size of images the network sees follows one rule, of which the first that fits holds:

    1. `input_size` given: images are resized to it (bilinear, antialiased), and the network built for it.
    2. A network that timm says has a fixed input size is built with `dynamic_img_size` where timm offers it
       (most ViTs and Swins: position embeddings are resampled, edges padded) and sees the images as they are;
       else they are resized to the size it was made for.
    3. A network that cannot take 64×64 images, LPIPS's patches (tried at construction), sees all images
       resized: to the smallest input size that timm states, else to the size it was made for.
    4. Any other sees the images as they are.

    Args:
        name: `alexnet` or `squeezenet1_1` (torchvision, LPIPS's taps), or any timm name, with tag or not.
        weights: `"default"` (the directory `PERCEPTUAL_WEIGHTS`, an installed package, then the hub), the
            path of a `.safetensors` or `.pth` file, or None for random weights.
        out_indices: levels to tap. By default LPIPS's on AlexNet, SqueezeNet and VGG16, the first five of
            another pyramid, or the blocks at the four quarters of a network of one resolution (ViT).
        input_size: resize every image to this many pixels a side first; None leaves them.
        trainable: False freezes the weights and keeps the network in eval mode whatever `train()` is called
            around it.
        mean, std: normalisation of the images in place of that of the weights, three numbers each.
        precision: `32-true`, what the weights have; or `bf16-mixed`: convolutions and products in bfloat16,
            several times as fast where the processor has it. A distance of such maps is still in float32.

    Attributes:
        channels: channels of each level.
        source: where the weights are from: `random`, `file:…`, `package:…` or `hub:…`.
        spec: the arguments that it was built with, except how it is trained and what it normalises with.

    Raises:
        ValueError: unknown name, level or precision; a weights file that lacks what the taps need.
        FileNotFoundError: weights that are neither here nor on the hub.
    """

    mean: Tensor
    std: Tensor
    net: Any

    def __init__(
        self,
        name: str = "alexnet",
        weights: str | None = "default",
        *,
        out_indices: Sequence[int] | None = None,
        input_size: int | None = None,
        trainable: bool = False,
        mean: Sequence[float] | None = None,
        std: Sequence[float] | None = None,
        precision: str = "32-true",
    ) -> None:
        super().__init__()
        check_precision(precision)
        if input_size is not None and input_size < 1:
            raise ValueError(f"input_size must be a positive number of pixels or None, got {input_size}")
        self.name = name
        self.spec: dict[str, Any] = {
            "name": name,
            "weights": weights,
            "out_indices": out_indices,
            "input_size": input_size,
        }
        self.trainable = trainable
        self.precision = precision
        self.input_size = (input_size, input_size) if input_size else None
        build = self._build_torchvision if name in TORCHVISION else self._build_timm
        own_mean, own_std = build(weights, out_indices)
        # convolutions on CPU, and under autocast on GPU, are up to ten times faster with channels last
        for parameter in self.net.parameters():
            if parameter.ndim == 4:
                parameter.data = parameter.data.contiguous(memory_format=torch.channels_last)
        for key, values in (("mean", mean or own_mean), ("std", std or own_std)):
            buffer = torch.tensor([float(value) for value in values]).view(1, 3, 1, 1)
            self.register_buffer(key, buffer, persistent=False)
        self.requires_grad_(trainable)
        self.train(trainable)

    def forward(self, images: Tensor) -> list[Tensor]:
        """Maps of the tapped levels, shallow to deep, each (N, C, h, w); `images` (N, 3, H, W) in [0, 1].

        Raises:
            ValueError: the images are too small for the network, or of a size it cannot divide.
        """
        if images.shape[0] == 0:  # many transformers cannot reshape an empty batch
            return [m[:0] for m in self(images.new_zeros(1, *images.shape[1:]))]
        if self.input_size and images.shape[-2:] != self.input_size:
            images = _resized(images, self.input_size)
        normalized = ((images - self.mean) / self.std).contiguous(memory_format=torch.channels_last)
        if torch.compiler.is_compiling():
            return self._features(normalized)
        try:
            return self._features(normalized)
        except SIZE_ERRORS as error:
            self._explain(images.shape[-2:], error)
            raise

    def train(self, mode: bool = True) -> "Backbone":
        """Set training mode, except of a frozen backbone, and of batch normalisation with learned statistics.

        Those come from more images than a set of judgments has: tuned with them, tf_efficientnet_lite0 gained
        0.8 points more on people's choices of materials (README), and each process of several does the same.
        """
        super().train(mode and self.trainable)
        if self.spec["weights"] is not None:
            for module in self.modules():
                if isinstance(module, nn.modules.batchnorm._BatchNorm):
                    module.eval()
        return self

    @property
    def frozen(self) -> bool:
        """Whether none of its weights is trained, so that its features of an image stay."""
        return not any(parameter.requires_grad for parameter in self.parameters())

    def fingerprint(self) -> str:
        """SHA-256 of the weights that the tapped levels use."""
        return weight_files.fingerprint(self.net.state_dict())

    def smallest_size(self) -> int | None:
        """Side in pixels of the smallest square image the network takes; None: none up to 512."""
        return next(
            (side for side in [*range(1, 65), *range(80, 513, 16)] if self._takes((side, side))), None
        )

    def _features(self, normalized: Tensor) -> list[Tensor]:
        mixed = self.precision == "bf16-mixed"  # the meta device knows no autocast
        with torch.autocast(normalized.device.type, torch.bfloat16) if mixed else nullcontext():
            maps = self.net(normalized)
        return [m.permute(0, 3, 1, 2) for m in maps] if self._channels_last else maps

    def _explain(self, size: Sequence[int], error: Exception) -> None:
        """Raise ValueError if it is the size of the images that the network cannot take."""
        if self._takes(size):
            return
        images, smallest = f"images of {size[0]}×{size[1]} pixels", self.smallest_size()
        if smallest is not None and min(size) < smallest:
            raise ValueError(
                f"{images} are too small for {self.name}, which takes {smallest}×{smallest} or more"
            ) from error
        raise ValueError(
            f"{self.name} cannot take {images} ({str(error).splitlines()[0]}); "
            "input_size=… resizes them to a size that it can"
        ) from error

    @torch.no_grad()
    def _takes(self, size: Sequence[int]) -> bool:
        """Whether the network runs on images of a size."""
        training = self.net.training
        self.net.eval()
        try:
            self._features(next(self.net.parameters()).new_zeros(1, 3, *size))
        except SIZE_ERRORS:
            return False
        finally:
            self.net.train(training)
        return True

    def _build_torchvision(self, weights: str | None, out_indices: Sequence[int] | None) -> "_Normalization":
        taps = TORCHVISION[self.name]
        self.out_indices = _checked_levels(self.name, out_indices, range(len(taps.layers)), len(taps.layers))
        self.channels = [taps.channels[i] for i in self.out_indices]
        self._channels_last = False
        # On the meta device the classifier, most of the network and never used, costs nothing.
        with torch.device("cpu" if weights is None else "meta"):
            layers: Any = torchvision.models.get_model(self.name, weights=None).features
        self.net = _TappedSequential(layers, [taps.layers[i] for i in self.out_indices])
        self.source = "random"
        if weights is not None:
            local = weight_files.find_local(self.name, weights)
            state, self.source = local or (_torchvision_hub(self.name), "hub:torchvision IMAGENET1K_V1")
            given = {key.removeprefix("features."): value for key, value in state.items()}
            weight_files.assign(self.net, given, f"{self.name} from {self.source}")
        return IMAGENET_MEAN, IMAGENET_STD

    def _build_timm(self, weights: str | None, out_indices: Sequence[int] | None) -> "_Normalization":
        import timm
        from timm.layers import Format

        check_name(self.name)
        local = weight_files.find_local(self.name, weights) if weights is not None else None
        with torch.device("meta"):
            info = self._create().feature_info
        # a stem that is no module of its own, as TResNet's, cannot be tapped
        named = [level for level in range(len(info)) if info.module_name(level)]
        default = [named[i] for i in default_levels(info.reduction(named))]
        self.out_indices = _checked_levels(self.name, out_indices, default, len(info))
        if local:
            self._load_timm(*local)
        else:
            self._download_timm(weights)
        self.channels = list(self.net.feature_info.channels())
        self._channels_last = getattr(self.net, "output_fmt", Format.NCHW) == Format.NHWC
        if self.input_size is None and not self._takes((PATCH, PATCH)):
            cfg: Any = timm.get_pretrained_cfg(self.name)
            self.input_size = (cfg.min_input_size or cfg.input_size)[-2:]
        return self.net.pretrained_cfg["mean"], self.net.pretrained_cfg["std"]

    def _create(self, **arguments: Any) -> Any:
        """The network by timm, built by the rule on input sizes that the class states."""
        import timm

        build: Any = partial(timm.create_model, self.name, features_only=True, **arguments)
        cfg: Any = timm.get_pretrained_cfg(self.name)
        if not cfg.fixed_input_size:
            return build()
        if self.input_size:
            return build(img_size=self.input_size)
        for any_size in ({"dynamic_img_size": True, "dynamic_img_pad": True}, {"dynamic_img_size": True}):
            try:
                return build(**any_size)
            except TypeError:  # this architecture does not know the argument
                continue
        self.input_size = cfg.input_size[-2:]
        return build()

    def _load_timm(self, state: Mapping[str, Tensor], source: str) -> None:
        self.source = source
        with torch.device("meta"):
            self.net = self._create(out_indices=self.out_indices)
        what = f"{self.name} from {source}"
        weight_files.check_names(self.net, state, what)
        if weight_files.lives_in_state_dict(self.net) and not weight_files.other_shapes(self.net, state):
            weight_files.assign(self.net, state, what)
            return
        # timm resamples position embeddings to the input size, and computes what no file holds.
        overlay = {"state_dict": dict(state)}
        try:
            self.net = self._create(
                pretrained=True, pretrained_cfg_overlay=overlay, out_indices=self.out_indices
            )
        except RuntimeError as error:
            weight_files.check_shapes(self.net, state, what)
            raise ValueError(f"weights of {what} do not fit: {error}") from error

    def _download_timm(self, weights: str | None) -> None:
        try:
            self.net = self._create(pretrained=weights is not None, out_indices=self.out_indices)
        except (OSError, RuntimeError) as error:
            if weights is None:
                raise
            raise _no_weights(self.name, error) from error
        cfg = self.net.pretrained_cfg
        self.source = "random" if weights is None else f"hub:{cfg.get('hf_hub_id') or cfg.get('url')}"


_Normalization = tuple[Sequence[float], Sequence[float]]


class _TappedSequential(nn.Sequential):
    """The layers up to the deepest tap; returns what the tapped ones give."""

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


def _resized(images: Tensor, size: tuple[int, int]) -> Tensor:
    # the CPU resizes with antialiasing in single and double precision only
    wide = images if images.dtype == torch.float64 else images.float()
    resized = F.interpolate(wide, size, mode="bilinear", align_corners=False, antialias=True)
    return resized.to(images.dtype)


def check_precision(precision: str) -> None:
    """Refuse a precision that no backbone has.

    Raises:
        ValueError: naming those that there are.
    """
    if precision not in PRECISIONS:
        raise ValueError(f"precision must be one of {', '.join(PRECISIONS)}, got {precision!r}")


def default_levels(reductions: Sequence[int]) -> list[int]:
    """Levels to tap, given the stride of each: the first five of a pyramid, else one at each quarter."""
    depth = len(reductions)
    if len(set(reductions)) > 1 or depth < 4:
        return list(range(min(depth, 5)))
    return [depth * quarter // 4 - 1 for quarter in (1, 2, 3, 4)]


def _checked_levels(
    name: str, given: Sequence[int] | None, default: Sequence[int], depth: int
) -> tuple[int, ...]:
    levels = tuple(default if given is None else given)
    if not levels or list(levels) != sorted(set(levels)) or levels[0] < 0 or levels[-1] >= depth:
        raise ValueError(
            f"out_indices of {name} must be rising numbers from 0 to {depth - 1}, got {list(levels)}"
        )
    return levels


def check_name(name: str) -> None:
    """Refuse a name that neither torchvision's part here nor timm knows.

    Raises:
        ValueError: offering the nearest names, or the tags that timm has.
    """
    import timm

    architecture, _, tag = name.partition(".")
    known = [*TORCHVISION, *timm.list_models()]
    if architecture not in known:
        near = difflib.get_close_matches(architecture, known, n=3)
        raise ValueError(
            f"unknown backbone {name!r}; "
            + (f"did you mean {', '.join(near)}?" if near else "timm.list_models() lists the names")
        )
    tags = [full.partition(".")[2] for full in timm.list_pretrained(f"{architecture}.*")]
    if tag and tag not in tags:
        there = f"its tags: {', '.join(tags)}" if tags else "it has no tags: leave it out"
        raise ValueError(f"there are no weights {tag!r} for {architecture}; {there}")


def _torchvision_hub(name: str) -> Mapping[str, Tensor]:
    weights: Any = torchvision.models.get_model_weights(name)
    try:
        return weights.IMAGENET1K_V1.get_state_dict(check_hash=True)
    except (OSError, RuntimeError) as error:
        raise _no_weights(name, error) from error


def _no_weights(name: str, error: Exception) -> FileNotFoundError:
    reason = str(error).strip().splitlines()[0].split(". ")[0]
    return FileNotFoundError(
        f"no weights for {name}: the environment variable PERCEPTUAL_WEIGHTS names no directory that holds "
        f"{name.split('.')[0]}.safetensors, and the hub did not give them ({reason}); `weights` may also be "
        "the path of a file, or null for random ones"
    )
