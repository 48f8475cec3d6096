"""Weights from images alone: each convolution's filters are clusters of the patches that it sees.

Krähenbühl, Doersch, Donahue, Darrell, "Data-dependent Initializations of Convolutional Neural Networks", ICLR
2016, https://arxiv.org/abs/1511.06856, the k-means of its section 4.1 and the normalisation within layers of
3.1. Its normalisation between layers scales whole layers, to which unit-normalised features of networks with
ReLUs are blind.
"""

import warnings
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from functools import partial

import numpy as np
import torch
import torch.nn.functional as F
from scipy.cluster.vq import kmeans2
from torch import Tensor, nn

from perceptual.features.backbone import Backbone
from perceptual.names import KMEANS

PATCHES = 20_000  # that are clustered for a layer
COMPONENTS = 256  # of a patch, that are kept: the later ones are noise
ITERATIONS = 10
REGULARIZER = 0.1  # of the whitening, beside the mean variance
BATCH = 32  # images at a time


class _Reached(Exception):
    """The layer that was waited for has its input."""


@torch.no_grad()
def initialize(backbone: Backbone, images: Tensor, seed: int = 0) -> None:
    """Give a network of convolutions weights from images, layer by layer, in place.

    Args:
        backbone: a network whose weights are all in convolutions and batch normalisations.
        images: (N, 3, H, W) in [0, 1]; some hundred of 64×64 are enough.
        seed: of the patches that are drawn and of the first centroids.

    Raises:
        ValueError: a network with other layers that have weights, or fewer patches than a layer has filters.
    """
    layers = _layers(backbone, images[:1])
    rng = np.random.default_rng(seed)
    for index, layer in enumerate(layers):
        if isinstance(layer, nn.Conv2d):
            _cluster(layer, _inputs(backbone, layer, images), rng, f"layer {index} of {backbone.name}")
            if layer.bias is not None:
                _standardize(backbone, layer, images)
        else:
            _standardize_batch_norm(backbone, layer, images)
    backbone.note(f"kmeans ({len(images)} images, seed {seed})", weights=KMEANS)


def _layers(backbone: Backbone, image: Tensor) -> list[nn.Module]:
    """Convolutions and batch normalisations in the order in which the network calls them."""
    order: list[nn.Module] = []
    kinds = (nn.Conv2d, nn.modules.batchnorm._BatchNorm)
    weighted = [m for m in backbone.net.modules() if list(m.parameters(recurse=False))]
    if others := sorted({type(m).__name__ for m in weighted if not isinstance(m, kinds)}):
        raise ValueError(
            f"weights=kmeans is for networks of convolutions; {backbone.name} has {', '.join(others)}"
        )
    hooks = [m.register_forward_pre_hook(lambda m, _: order.append(m)) for m in weighted]
    try:
        backbone(image)
    finally:
        for hook in hooks:
            hook.remove()
    return list(dict.fromkeys(order))


def _inputs(backbone: Backbone, layer: nn.Module, images: Tensor) -> Iterator[Tensor]:
    """Compute what reaches a layer, batch by batch, and nothing after it."""
    for batch in images.split(BATCH):
        seen: list[Tensor] = []
        hook = layer.register_forward_pre_hook(partial(_stop, seen))
        with suppress(_Reached):
            try:
                backbone(batch)
            finally:
                hook.remove()
        yield seen[0]


def _stop(seen: list[Tensor], _: nn.Module, inputs: tuple[Tensor, ...]) -> None:
    seen.append(inputs[0])
    raise _Reached


def _cluster(layer: nn.Conv2d, inputs: Iterator[Tensor], rng: np.random.Generator, what: str) -> None:
    """Set the filters to the centroids of whitened patches, in units of the patches."""
    patches = torch.cat([_patches(layer, batch) for batch in inputs], 1)  # (groups, n, C·h·w)
    filters = layer.out_channels // layer.groups
    if patches.shape[1] < filters:
        raise ValueError(
            f"{what} has {filters} filters, and the images only {patches.shape[1]} patches: give more images"
        )
    chosen = np.sort(rng.choice(patches.shape[1], min(PATCHES, patches.shape[1]), replace=False))
    weights = [_centroids(group, filters, rng) for group in patches[:, torch.from_numpy(chosen)]]
    layer.weight.copy_(torch.cat(weights).view_as(layer.weight))
    if layer.bias is not None:
        layer.bias.zero_()


def _patches(layer: nn.Conv2d, batch: Tensor) -> Tensor:
    """Cut out the patches that a layer's filters are laid on, (groups, n, C/groups·h·w)."""
    padding: Sequence[int] = layer.padding if not isinstance(layer.padding, str) else (0, 0)
    kernel = layer.kernel_size
    columns = F.unfold(batch.float().cpu(), kernel, layer.dilation, tuple(padding), layer.stride)
    step = max(1, columns.shape[2] // 256)  # neighbours say the same
    columns = columns[:, :, ::step].transpose(1, 2).flatten(0, 1)
    return columns.unflatten(1, (layer.groups, -1)).transpose(0, 1)


def _centroids(patches: Tensor, count: int, rng: np.random.Generator) -> Tensor:
    """Filters (count, D) whose answers are products with the centroids of patches (n, D), both whitened."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(int(rng.integers(2**31)))
        _, spread, axes = torch.pca_lowrank(patches, min(COMPONENTS, *patches.shape))
    variance = spread.square() / len(patches)
    whitening = axes / (variance + REGULARIZER * variance.mean() + 1e-12).sqrt()  # (D, components)
    whitened = ((patches - patches.mean(0)) @ whitening).numpy()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # a cluster that lost its patches keeps its centroid
        centroids, _ = kmeans2(whitened, count, iter=ITERATIONS, minit="points", rng=rng)
    return torch.from_numpy(centroids).float() @ whitening.T


def _standardize(backbone: Backbone, layer: nn.Conv2d, images: Tensor) -> None:
    """Scale and shift a layer so that each of its outputs has mean 0 and variance 1 on the images."""
    mean, variance = _moments(layer(batch) for batch in _inputs(backbone, layer, images))
    scale = (variance + 1e-12).rsqrt()
    layer.weight.mul_(scale.view(-1, 1, 1, 1))
    layer.bias.copy_(-mean * scale)  # type: ignore[union-attr]


def _standardize_batch_norm(backbone: Backbone, layer: nn.Module, images: Tensor) -> None:
    mean, variance = _moments(_inputs(backbone, layer, images))
    ones, zeros = torch.ones_like(mean), torch.zeros_like(mean)
    for name, value in {"running_mean": mean, "running_var": variance, "weight": ones, "bias": zeros}.items():
        getattr(layer, name).copy_(value)


def _moments(batches: Iterable[Tensor]) -> tuple[Tensor, Tensor]:
    """Mean and variance of each channel over images and positions."""
    zero = torch.zeros((), dtype=torch.float64, device="cpu")
    count, total, squares = 0, zero, zero
    for batch in batches:
        values = batch.cpu().double().transpose(0, 1).flatten(1)
        count += values.shape[1]
        total = total + values.sum(1)
        squares = squares + values.square().sum(1)
    mean = total / count
    return mean.float(), (squares / count - mean.square()).clamp(min=0).float()
