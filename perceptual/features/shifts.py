"""Anti-aliased strides: maps that change little as an image moves by a pixel.

Zhang 2019, "Making convolutional networks shift-invariant again", https://arxiv.org/abs/1904.11486; with
reflection padding, as Ghildyal and Liu 2022 do it in perceptual distances, https://arxiv.org/abs/2207.13686.
"""

import math
from typing import Any

from torch import nn


def antialias(net: nn.Module) -> None:
    """Replace the strides of a chain of layers by stride 1, a blur and then the stride; in place.

    A pooling layer is blurred itself, a convolution after the activation that follows it. No weight changes,
    and names of weights stay.
    """
    layers = list(net.named_children())
    for (name, layer), (following, activation) in zip(
        layers, [*layers[1:], ("", nn.Identity())], strict=True
    ):
        stride: Any = getattr(layer, "stride", 1)
        factor = stride if isinstance(stride, int) else stride[0]
        if factor == 1:
            continue
        blurs = [_blur() for _ in range(round(math.log2(factor)))]
        layer.stride = (1, 1)  # type: ignore[assignment]
        blurred, first = (name, layer) if isinstance(layer, nn.MaxPool2d) else (following, activation)
        net._modules[blurred] = nn.Sequential(first, *blurs)


def _blur() -> nn.Sequential:
    """[1, 2, 1] / 4 in both directions, as two means of neighbours, and every second pixel of it."""
    return nn.Sequential(nn.ReflectionPad2d(1), nn.AvgPool2d(2, 1), nn.AvgPool2d(2, 2))
