"""Photometric distortions: lightness, colours, contrast and saturation."""

import torch
from torch import Generator, Tensor

from perceptual.data.synthetic.distortions.shared import directions, per_image, signs

# Rec. 601
_LUMA = torch.tensor([0.299, 0.587, 0.114])[:, None, None]
# Two directions in RGB that leave luma as it is: Cr and Cb of YCbCr
_CHROMA = torch.tensor([[1.402, -0.714, 0.0], [0.0, -0.344, 1.772]])


def lightness(images: Tensor, severity: Tensor, generator: Generator) -> Tensor:
    """Lighter or darker, by up to .35."""
    return (images + per_image(0.35 * severity * signs(len(images), generator))).clamp(0, 1)


def color_shift(images: Tensor, severity: Tensor, generator: Generator) -> Tensor:
    """All colours moved in a random direction, luma kept, by up to .25 in YCbCr."""
    move = 0.25 * severity[:, None] * (directions(len(images), generator) @ _CHROMA)
    return (images + move[:, :, None, None]).clamp(0, 1)


def contrast(images: Tensor, severity: Tensor, generator: Generator) -> Tensor:
    """Contrast about the mean luma, gained or lost by a factor of up to 3."""
    factor = per_image(3 ** (severity * signs(len(images), generator)))
    middle = _luma(images).mean((2, 3), keepdim=True)
    return (middle + factor * (images - middle)).clamp(0, 1)


def saturation(images: Tensor, severity: Tensor, generator: Generator) -> Tensor:
    """Colours towards grey, at most entirely, or away from it, by a factor of up to 3."""
    sign = signs(len(images), generator)
    factor = per_image(torch.where(sign > 0, 1 + 2 * severity, 1 - severity))
    luma = _luma(images)
    return (luma + factor * (images - luma)).clamp(0, 1)


def _luma(images: Tensor) -> Tensor:
    return (images * _LUMA).sum(1, keepdim=True)
