"""Backbone: images in [0, 1] → feature maps, shallow to deep."""

from collections.abc import Iterable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import replace
from numbers import Integral, Real
from typing import Any, Literal, get_args

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from perceptual.features import custom, networks
from perceptual.features import weights as weight_files
from perceptual.features.info import BackboneInfo, Level, Network
from perceptual.files.messages import first_line
from perceptual.names import JOINT, KMEANS, Name, read_names

LARGEST = 8192  # side in pixels that images can be resized to
LUMA = (0.299, 0.587, 0.114)  # of red, green and blue
PATCH = 64  # side of the patches that LPIPS was made with
SIZE_ERRORS = (RuntimeError, AssertionError, ValueError, IndexError)  # by which networks refuse a size
Precision = Literal["32-true", "bf16-mixed"]  # Lightning's names
PRECISIONS: tuple[Precision, ...] = get_args(Precision)


class Backbone(nn.Module):
    """Feature maps of a network, from images in [0, 1] of shape (N, 3, H, W) to a list of (N, C, h, w).

    The first rule that applies decides the size of the images that the network sees:

    1. `input_size` given: images are resized to it (bilinear, antialiased), and the network built for it.
    2. A network that timm says has a fixed input size is built with `dynamic_img_size` where timm offers it
       (most ViTs and Swins: position embeddings are resampled, edges padded) and sees the images as they are;
       else they are resized to the size it was made for.
    3. A network that cannot take 64×64 images, LPIPS's patches (tried at construction), sees all images
       resized: to the smallest input size that timm states, else to the size it was made for.
    4. Any other sees the images as they are.

    The maps have the precision of an ambient `torch.autocast`, as those of any module.

    Args:
        name: a name, the networks that were read of one, or a built network with what is known of it.
            `alexnet` or `squeezenet1_1` (torchvision, LPIPS's taps), or any timm name, with or without a
            tag. `alex`, `vgg` and `squeeze` stand for `alexnet`, `vgg16` and `squeezenet1_1`.
            `hf-hub:owner/name` and `local-dir:path` as timm takes them; `torchvision:NAME` with the option
            `nodes`; `NAME[option=value,…]` for a variant; `A+B` for several networks as one, whose levels
            follow one another, each with its own size rule.
        weights: `"default"` (the directory `PERCEPTUAL_WEIGHTS`, an installed package, then the hub), the
            path of a `.safetensors`, `.pth` or `.ckpt` file, or None for random weights. `"kmeans"`: random
            until `features.kmeans.initialize` makes them of images.
        options: arguments of timm's constructor, such as `{"aa_layer": "blurpc"}`, or of `torchvision:NAME`
            `{"nodes": ["layer1", "layer2"]}`. Every network has `chroma`, how much of their colour images
            keep: from 0, grey, to 1. They become part of the name.
        prefix: of the names that the weights have in their file, such as `model.encoder.`.
        out_indices: levels to tap, rising; negative ones count from the last. By default LPIPS's on AlexNet,
            SqueezeNet and VGG16, the first five of another pyramid, or the blocks at the four quarters of a
            network of one resolution (ViT). After them, or alone, embeddings, which are maps of 1×1: `cls`,
            the class token as the last block leaves it; `embedding`, what the network's own head pools, after
            the final norm, and projected where there is a projection (of AlexNet and SqueezeNet, the mean
            over positions of what the head gets); `patches`, the mean of the last block's patch tokens. As an
            option of the name, `NAME[out_indices=[cls]]`, they are part of the name.
        input_size: resize every image to this many pixels per side first; None leaves them.
        trainable: False freezes the weights and keeps the network in eval mode whatever `train()` is called
            around it.
        mean, std: normalisation of the images in place of that of the weights, three numbers each.
        precision: `32-true`, that of the weights; or `bf16-mixed`: convolutions and products in bfloat16,
            several times as fast on processors that support it. Distances of such maps are still float32.

    Attributes:
        info: what is known of it: name, levels, weights, normalisation, sizes, and what builds it again.

    Raises:
        ValueError: unknown name, option, level or precision; weights that lack what the taps need.
        FileNotFoundError: weights that are neither on this machine nor on the hub.
    """

    info: BackboneInfo
    precision: Precision
    mean: Tensor
    std: Tensor
    net: Any

    @torch.inference_mode(False)  # whose tensors can take part in no gradient later
    def __init__(
        self,
        name: str | Sequence[Name] | Network = "alexnet",
        weights: str | None = "default",
        *,
        options: Mapping[str, Any] | None = None,
        prefix: str = "",
        out_indices: Sequence[Level] | None = None,
        input_size: int | None = None,
        trainable: bool = False,
        mean: Sequence[float] | None = None,
        std: Sequence[float] | None = None,
        precision: Precision = "32-true",
    ) -> None:
        super().__init__()
        check_precision(precision)
        check_input(input_size, mean, std)
        if isinstance(name, Network):
            self.net, info = name
        else:
            names = read_names(name, options)
            networks.check_name(names)
            asked: dict[str, Any] = {"out_indices": out_indices, "input_size": input_size}
            asked |= {"prefix": prefix} if prefix else {}
            if len(names) > 1:
                _check_joint(names, weights, {"options": options, **asked, "mean": mean, "std": std})
                parts = [Backbone([one], weights, trainable=trainable, precision=precision) for one in names]
                self.net, info = _joint(parts)
            else:
                size = (input_size, input_size) if input_size else None
                held = None if weights == KMEANS else weights
                self.net, info = networks.find(names[0], held, out_indices, size, prefix)
            spec = {"name": info.name, "weights": weights, **asked}
            info = replace(info, mean=mean or info.mean, std=std or info.std, spec=spec)
        self.info, self.precision, self.trainable = info, precision, trainable
        custom.leave_inference_mode(self.net)
        like = custom.first_weight(self.net)
        for key, values in (("mean", info.mean), ("std", info.std)):
            buffer = like.new_tensor([float(value) for value in values]).view(1, 3, 1, 1)
            self.register_buffer(key, buffer, persistent=False)
        self.requires_grad_(trainable).train(trainable)
        if info.prepares:
            return
        # convolutions on CPU, and under autocast on GPU, are up to ten times faster with channels last
        for parameter in self.net.parameters():
            if parameter.ndim == 4:
                parameter.data = parameter.data.contiguous(memory_format=torch.channels_last)
        if info.input_size is None and info.fallback_size and (error := self._failure((PATCH, PATCH))):
            if self._failure(info.fallback_size):
                reason = first_line(error)
                raise ValueError(f"{self.name} fails on images of any size: {reason}") from error
            self.info = replace(info, input_size=info.fallback_size)

    @classmethod
    def of(cls, network: nn.Module, *, trainable: bool = False, learned: bool = True) -> "Backbone":
        """Make a backbone of a built network, see `FeatureNetwork`; it is held, not copied.

        Args:
            network: the network; a `Backbone` is returned itself, optionally trainable.
            trainable: as `Backbone` takes it; its weights are frozen or not in place.
            learned: whether its weights are of earlier training, whose batch statistics are kept.

        Raises:
            ValueError: it does not fulfil the contract.
        """
        if not isinstance(network, Backbone):
            return cls(custom.described(network, learned), trainable=trainable)
        if trainable and not network.trainable:
            network.trainable = True
            network.requires_grad_(True).train()
        return network

    @property
    def name(self) -> str:
        """Name with options: the identity of the network without its weights."""
        return self.info.name

    @property
    def channels(self) -> list[int]:
        """Channels of each level."""
        return self.info.channels

    @property
    def source(self) -> str:
        """Where the weights are from, see `BackboneInfo`."""
        return self.info.source

    @property
    def out_indices(self) -> tuple[Level, ...]:
        """Levels that are tapped."""
        return self.info.out_indices

    @property
    def input_size(self) -> tuple[int, int] | None:
        """Size (H, W) that all images are resized to; None: any."""
        return self.info.input_size

    @property
    def members(self) -> "list[Backbone]":
        """Backbones of several networks as one, whose levels follow one another; else itself alone."""
        return [part for part in self.net.children() if isinstance(part, Backbone)] or [self]

    def note(self, source: str, **spec: str) -> None:
        """Record that the weights were replaced: where they are from, and what else `spec` says of them."""
        self.info = replace(self.info, source=source, spec={**self.info.spec, **spec})

    def set_precision(self, precision: Precision) -> "Backbone":
        """Compute features in another precision from now on, in place, as `Module.half` changes weights.

        Raises:
            ValueError: no such precision.
        """
        check_precision(precision)
        for module in self.modules():
            if isinstance(module, Backbone):
                module.precision = precision
        return self

    def forward(self, images: Tensor) -> list[Tensor]:
        """Compute maps (N, C, h, w) of the tapped levels, shallow to deep; of embeddings, (N, C, 1, 1).

        Args:
            images: (N, 3, H, W) in [0, 1].

        Raises:
            ValueError: the images are too small for the network, or of a size it cannot divide.
        """
        if images.shape[0] == 0:  # many transformers cannot reshape an empty batch
            return [m[:0] for m in self(images.new_zeros(1, *images.shape[1:]))]
        info, normalized = self.info, images
        if info.chroma != 1:
            images = _with_chroma(images, info.chroma)
        if info.input_size and images.shape[-2:] != info.input_size:
            normalized = images = _resized(images, info.input_size)
        if not info.prepares:
            normalized = (images - self.mean) / self.std
            if not is_transformed():  # vmap knows one layout
                normalized = normalized.contiguous(memory_format=torch.channels_last)
        mixed = self.precision == "bf16-mixed"  # the meta device knows no autocast
        with torch.autocast(images.device.type, torch.bfloat16) if mixed else nullcontext():
            if torch.compiler.is_compiling():
                maps = self.net(normalized)
            else:
                try:
                    maps = self.net(normalized)
                except SIZE_ERRORS as error:
                    self._explain(images.shape[-2:], error)
                    raise
        if info.channels_last:
            return [m.permute(0, 3, 1, 2) for m in maps]
        return [m if m.ndim == 4 else m[:, :, None, None] for m in maps]

    def train(self, mode: bool = True) -> "Backbone":
        """Set training mode, except of a frozen backbone, and of batch normalisation with learned statistics.

        Those come from more images than a set of judgments has: with them kept, tf_efficientnet_lite0 gained
        0.8 points more on people's choices of materials, and every process of a distributed run agrees.
        """
        super().train(mode and self.trainable)
        if self.info.spec["weights"] is not None:
            for module in self.modules():
                if isinstance(module, nn.modules.batchnorm._BatchNorm):
                    module.eval()
        return self

    @property
    def frozen(self) -> bool:
        """True if none of its weights is trained, so that its features of an image do not change."""
        return not any(parameter.requires_grad for parameter in self.parameters())

    def checkpoint_gradients(self) -> None:
        """Compute activations again in the backward pass instead of keeping them: less memory, more time.

        Raises:
            ValueError: the network, or one of several, offers no such thing.
        """
        for member in self.members:
            # timm wraps networks that give their levels themselves, such as ViTs
            nets = (member.net, getattr(member.net, "model", None))
            net = next((net for net in nets if hasattr(net, "set_grad_checkpointing")), None)
            if net is None:
                raise ValueError(
                    f"{member.name} has no gradient checkpointing; networks of timm with "
                    "set_grad_checkpointing do"
                )
            net.set_grad_checkpointing(True)

    def fingerprint(self) -> str:
        """SHA-256 of the weights that the tapped levels use."""
        return weight_files.fingerprint(self.net.state_dict())

    @torch.no_grad()
    def try_out(self) -> list[float]:
        """Compute the mean of each level on one fixed image, to three digits, to tell networks apart."""
        generator = torch.Generator().manual_seed(0)
        image = torch.rand(1, 3, PATCH, PATCH, generator=generator, dtype=torch.float32, device="cpu")
        return [float(f"{m.mean().item():.3g}") for m in self(image.to(self.mean))]

    def smallest_size(self) -> int | None:
        """Side in pixels of the smallest square image the network takes; None: none up to 512."""
        return next(
            (side for side in [*range(1, 65), *range(80, 513, 16)] if not self._failure((side, side))), None
        )

    def _explain(self, size: Sequence[int], error: Exception) -> None:
        """Raise ValueError if it is the size of the images that the network cannot take: it takes another."""
        if isinstance(error, torch.OutOfMemoryError) or not self._failure(size):
            return
        images, smallest = f"images of {size[0]}×{size[1]} pixels", self.smallest_size()
        if smallest is None:
            return
        if min(size) < smallest:
            raise ValueError(
                f"{images} are too small for {self.name}, which takes {smallest}×{smallest} or more"
            ) from error
        raise ValueError(
            f"{self.name} cannot take {images} ({first_line(error)}); "
            "input_size=… resizes them to a size that it can"
        ) from error

    @torch.no_grad()
    def _failure(self, size: Sequence[int]) -> Exception | None:
        """Return the error of the network on images of a size; None if it takes them."""
        training = self.net.training
        self.net.eval()
        try:
            self.net(self.mean.new_zeros(1, 3, *size))
        except SIZE_ERRORS as error:
            return error
        finally:
            self.net.train(training)
        return None


def is_transformed() -> bool:
    """Say if vmap, jvp or another transform of functions is at work, or `torch.jit.trace`.

    They take PyTorch's own operations, no function with a gradient of its own, and no decision by values.
    """
    if torch.compiler.is_compiling():
        return False
    return (
        torch._C._functorch.peek_interpreter_stack() is not None
        or torch.autograd.forward_ad._current_level >= 0
        or torch.jit.is_tracing()
    )


class _Joint(nn.ModuleList):
    """Backbones that see the same images, each resized and normalised as it needs."""

    def forward(self, images: Tensor) -> list[Tensor]:
        return [m for member in self for m in member(images)]


def _joint(members: Iterable[Backbone]) -> Network:
    infos = [member.info for member in members]
    channels = [count for info in infos for count in info.channels]
    sources = list(dict.fromkeys(info.source for info in infos))
    source = "random" if "random" in sources else "; ".join(sources)
    name, levels = JOINT.join(info.name for info in infos), tuple(range(len(channels)))
    # each part normalises and resizes by its own rule
    embeds = all(info.embeds for info in infos)
    info = BackboneInfo(name, levels, channels, source, (0, 0, 0), (1, 1, 1), embeds=embeds, prepares=True)
    return Network(_Joint(members), info)


def _check_joint(names: Sequence[Name], weights: str | None, others: Mapping[str, Any]) -> None:
    name = JOINT.join(map(str, names))
    if said := [key for key, value in others.items() if value]:
        raise ValueError(
            f"{name} are several networks as one: {', '.join(said)} cannot be said of all; "
            "options are written in the name, A[option=value]+B"
        )
    if weights not in ("default", KMEANS, None):
        raise ValueError(f"{name} are several networks as one: weights must be 'default' or None")


def check_precision(precision: str) -> None:
    """Refuse a precision that no backbone has.

    Raises:
        ValueError: naming the allowed ones.
    """
    if precision not in PRECISIONS:
        raise ValueError(f"precision must be one of {', '.join(PRECISIONS)}, got {precision!r}")


def check_input(input_size: Any, mean: Any = None, std: Any = None) -> None:
    """Refuse a size of images, or a normalisation, that no network can work with; None is none.

    Raises:
        ValueError: naming the argument, its range and what was given.
    """
    whole = isinstance(input_size, Integral) and not isinstance(input_size, bool)
    if input_size is not None and not (whole and 1 <= input_size <= LARGEST):
        raise ValueError(f"input_size must be None or from 1 to {LARGEST} pixels, got {_shown(input_size)}")
    for key, values, low, high in (("mean", mean, -1e4, 1e4), ("std", std, 1e-6, 1e4)):
        three = isinstance(values, Sequence) and len(values) == 3
        if values is not None and not (
            three and all(issubclass(type(v), Real) and low <= v <= high for v in values)
        ):
            raise ValueError(f"{key} must be three numbers from {low:g} to {high:g}, got {_shown(values)}")


def _shown(value: object) -> str:
    return text if len(text := repr(value)) < 60 else f"{text[:60]}…"


def luma(images: Tensor) -> Tensor:
    """Y of ITU-R BT.601 at full range, (N, 1, H, W), of (N, 3, H, W)."""
    return (images * images.new_tensor(LUMA).view(1, 3, 1, 1)).sum(1, keepdim=True)


def _with_chroma(images: Tensor, chroma: float) -> Tensor:
    """Keep a part of the colour: Y + chroma · (x − Y)."""
    y = luma(images)
    return y + chroma * (images - y)


def _resized(images: Tensor, size: tuple[int, int]) -> Tensor:
    # the CPU resizes with antialiasing in single and double precision only
    wide = images if images.dtype == torch.float64 else images.float()
    resized = F.interpolate(wide, size, mode="bilinear", align_corners=False, antialias=True)
    return resized.to(images.dtype)
