"""The traditional distortions of Zhang et al. 2018, Table 2 (https://arxiv.org/abs/1801.03924).

A family is a function `(images, severity, generator) -> distorted`: images (N, 3, H, W) float32 RGB in
[0, 1], severity (N,) in [0, 1], where 0 changes nothing and 1 is plainly visible; generator draws what is
random (the noise, the direction), separately for each image. The distorted images have the same shape and
range; the same generator state gives the same result. `distort` applies one or several in sequence.
"""

from collections.abc import Callable, Sequence

import torch
from torch import Generator, Tensor

from perceptual.data.synthetic.distortions.blur import bilateral_blur, gaussian_blur
from perceptual.data.synthetic.distortions.compression import jpeg
from perceptual.data.synthetic.distortions.noise import (
    blue_noise,
    checkerboard,
    colored_noise,
    pink_noise,
    uniform_noise,
    white_noise,
)
from perceptual.data.synthetic.distortions.photometric import color_shift, contrast, lightness, saturation
from perceptual.data.synthetic.distortions.spatial import (
    affine,
    chromatic_aberration,
    cubic_warp,
    ghosting,
    homography,
    linear_warp,
    shift,
)

Distortion = Callable[[Tensor, Tensor, Generator], Tensor]

GROUPS: dict[str, tuple[Distortion, ...]] = {
    "photometric": (lightness, color_shift, contrast, saturation),
    "noise": (uniform_noise, white_noise, pink_noise, blue_noise, colored_noise, checkerboard),
    "blur": (gaussian_blur, bilateral_blur),
    "spatial": (shift, affine, homography, linear_warp, cubic_warp, ghosting, chromatic_aberration),
    "compression": (jpeg,),
}
FAMILIES: dict[str, Distortion] = {
    family.__name__: family for families in GROUPS.values() for family in families
}


def distort(images: Tensor, steps: Sequence[tuple[str, float | Tensor]], generator: Generator) -> Tensor:
    """Apply families of distortion one after the other, as the paper composes them.

    Args:
        images: (N, 3, H, W) float32, RGB in [0, 1], on the CPU.
        steps: names of families, see `FAMILIES`, each with a severity in [0, 1], or one per image, (N,).
        generator: draws what is random, on the CPU.

    Returns:
        (N, 3, H, W) float32 in [0, 1].

    Raises:
        ValueError: images of another shape, an unknown family, or a severity out of range.
    """
    if images.ndim != 4 or images.shape[1] != 3:
        raise ValueError(f"images must be (N, 3, H, W), got {tuple(images.shape)}")
    for name, severity in steps:
        if name not in FAMILIES:
            raise ValueError(f"no family of distortion {name!r}; there are {', '.join(FAMILIES)}")
        severities = torch.as_tensor(severity, dtype=torch.float32).expand(len(images))
        if not bool(((severities >= 0) & (severities <= 1)).all()):
            raise ValueError(f"severity of {name} must be in [0, 1], got {severity}")
        images = FAMILIES[name](images, severities, generator)
    return images
