"""Compression: JPEG."""

import io

import numpy as np
import torch
from PIL import Image
from torch import Generator, Tensor


def jpeg(images: Tensor, severity: Tensor, generator: Generator) -> Tensor:
    """JPEG, quality from 90 down to 5; severity 0 is not compressed at all."""
    compressed = [_jpeg(*item) for item in zip(images, severity.tolist(), strict=True)]
    return torch.stack(compressed)


def _jpeg(image: Tensor, severity: float) -> Tensor:
    if severity == 0:
        return image
    pixels = image.mul(255).round().byte().permute(1, 2, 0).numpy()
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "JPEG", quality=round(90 * (5 / 90) ** severity))
    return torch.from_numpy(np.array(Image.open(file))).permute(2, 0, 1).float().div(255)
