"""Traditional distortions of Zhang et al. 2018, Table 2 (https://arxiv.org/abs/1801.03924).

A family is a function `(images, severity, generator) -> distorted`: images (N, 3, H, W) float32 RGB in
[0, 1], severity (N,) in [0, 1], where 0 changes nothing and 1 is plainly visible; generator draws what is
random (the noise, the direction), separately for each image. The distorted images have the same shape and
range; the same generator state gives the same result. `distort` applies one or several in sequence.
"""

import io
import math
from collections.abc import Callable, Sequence
from functools import cache, wraps

import numpy as np
import torch
from PIL import Image
from skimage.restoration import denoise_bilateral
from torch import Generator, Tensor
from torch.nn import functional as F


def uniform(shape: tuple[int, ...], generator: Generator) -> Tensor:
    """Uniform in [-1, 1)."""
    return 2 * torch.rand(shape, generator=generator) - 1


def signs(count: int, generator: Generator) -> Tensor:
    """-1 or 1, (N,)."""
    return uniform((count,), generator).sign()


def directions(count: int, generator: Generator) -> Tensor:
    """Unit vectors in the plane, (N, 2)."""
    angle = math.pi * uniform((count,), generator)
    return torch.stack([angle.cos(), angle.sin()], dim=1)


def per_image(values: Tensor) -> Tensor:
    """(N,) → (N, 1, 1, 1)."""
    return values[:, None, None, None]


def kept(make: Callable[[int, int], Tensor]) -> Callable[[int, int], Tensor]:
    """Make a tensor of two numbers once, as patches of one size come by the thousand."""

    @cache
    @wraps(make)
    def made(first: int, second: int) -> Tensor:
        with torch.inference_mode(False):  # so that it may take part in training, too
            return make(first, second)

    return made


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


_DEVIATION = 0.2  # of all noise at severity 1


def uniform_noise(images: Tensor, severity: Tensor, generator: Generator) -> Tensor:
    """White noise, uniform."""
    noise = 3**0.5 * uniform(tuple(images.shape), generator)
    return _add(images, severity, noise)


def white_noise(images: Tensor, severity: Tensor, generator: Generator) -> Tensor:
    """White noise, Gaussian."""
    return _add(images, severity, torch.randn(images.shape, generator=generator))


def pink_noise(images: Tensor, severity: Tensor, generator: Generator) -> Tensor:
    """Gaussian noise with power 1/f: coarser than white."""
    return _add(images, severity, _gaussian(images, torch.full_like(severity, -1), generator))


def blue_noise(images: Tensor, severity: Tensor, generator: Generator) -> Tensor:
    """Gaussian noise with power f: finer than white."""
    return _add(images, severity, _gaussian(images, torch.full_like(severity, 1), generator))


def colored_noise(images: Tensor, severity: Tensor, generator: Generator) -> Tensor:
    """Gaussian noise with power f to a random exponent between brown's, -2, and violet's, 2."""
    exponent = 2 * uniform((len(images),), generator)
    return _add(images, severity, _gaussian(images, exponent, generator))


def checkerboard(images: Tensor, severity: Tensor, generator: Generator) -> Tensor:
    """Squares of 1, 2 or 4 pixels, lighter and darker in turn, by up to .2."""
    count, _, height, width = images.shape
    side = 2 ** torch.randint(3, (count, 1), generator=generator)
    rows, columns = (torch.arange(extent) // side for extent in (height, width))
    board = 1 - 2.0 * ((rows[:, :, None] + columns[:, None, :]) % 2)
    return _add(images, severity, board[:, None])


def _add(images: Tensor, severity: Tensor, noise: Tensor) -> Tensor:
    return (images + per_image(_DEVIATION * severity) * noise).clamp(0, 1)


def _gaussian(images: Tensor, exponent: Tensor, generator: Generator) -> Tensor:
    """Noise of mean 0 and variance 1 whose power goes with the frequency to the exponent, (N,)."""
    height, width = images.shape[-2:]
    amplitude = _frequency(height, width) ** per_image(exponent / 2)
    amplitude[..., 0, 0] = 0
    spectrum = torch.fft.rfft2(torch.randn(images.shape, generator=generator)) * amplitude
    noise = torch.fft.irfft2(spectrum, s=(height, width))
    return noise / noise.std((2, 3), keepdim=True)


@kept
def _frequency(height: int, width: int) -> Tensor:
    """Frequencies of the spectrum, (H, W // 2 + 1)."""
    frequency = torch.hypot(torch.fft.fftfreq(height)[:, None], torch.fft.rfftfreq(width))
    frequency[0, 0] = torch.inf  # so that no negative exponent divides by 0; the mean is removed afterwards
    return frequency


def gaussian_blur(images: Tensor, severity: Tensor, generator: Generator) -> Tensor:
    """Gaussian blur, standard deviation up to 1/20 of the side (3.2 pixels of 64)."""
    height, width = images.shape[-2:]
    sigma = (severity * height / 20).clamp_min(1e-3)  # 1e-3 leaves only the middle of the kernel
    radius = math.ceil(3 * height / 20)
    kernel = torch.exp(-(torch.arange(-radius, radius + 1) ** 2) / (2 * sigma[:, None] ** 2))
    kernel = kernel / kernel.sum(1, keepdim=True)
    # as matrices: each image has another kernel, and patches are small
    rows, columns = (_blurring(kernel, extent)[:, None] for extent in (height, width))
    return rows @ images @ columns.mT


def _blurring(kernel: Tensor, extent: int) -> Tensor:
    """Matrices (N, S, S) that convolve S values with kernels (N, K), mirrored at the ends."""
    count, width = kernel.shape
    matrix = kernel.new_zeros(count, extent * extent)
    matrix.index_add_(1, _places(extent, width), kernel.repeat(1, extent))
    return matrix.view(count, extent, extent)


@kept
def _places(extent: int, width: int) -> Tensor:
    """Return the places in such a matrix, flattened, of each value of a kernel, (S · K)."""
    source = F.pad(torch.arange(extent)[None, None].float(), [width // 2] * 2, mode="reflect")[0, 0].long()
    return (torch.arange(extent)[:, None] * extent + source.unfold(0, width, 1)).flatten()


def bilateral_blur(images: Tensor, severity: Tensor, generator: Generator) -> Tensor:
    """Bilateral filter of 7×7 pixels, which averages neighbours that differ by up to .2 in colour."""
    blurred = [_bilateral(*item) for item in zip(images.numpy(), severity.tolist(), strict=True)]
    return torch.from_numpy(np.stack(blurred))


def _bilateral(image: np.ndarray, severity: float) -> np.ndarray:
    if severity == 0:
        return image
    pixels = denoise_bilateral(
        image.transpose(1, 2, 0),
        win_size=7,
        sigma_color=0.2 * severity**1.5,  # with a linear course, the second half would look alike
        sigma_spatial=3,
        mode="reflect",
        channel_axis=-1,
    )
    return np.ascontiguousarray(pixels.transpose(2, 0, 1), np.float32)


# Spatial distortions sample the images at moved coordinates, reflected at the borders. Coordinates are those
# of `torch.nn.functional.grid_sample`: (x, y), from -1 to 1 over the image.


def shift(images: Tensor, severity: Tensor, generator: Generator) -> Tensor:
    """Moved in a random direction by up to 1/8 of the side."""
    move = 0.25 * severity[:, None] * directions(len(images), generator)
    return _sample(images, _coordinates(images) + move[:, None, None])


def affine(images: Tensor, severity: Tensor, generator: Generator) -> Tensor:
    """Turned, scaled and sheared: a random 2×2 matrix, each entry up to .35 from the identity."""
    matrix = torch.eye(2) + 0.35 * severity[:, None, None] * uniform((len(images), 2, 2), generator)
    return _sample(images, _coordinates(images) @ matrix[:, None])


def homography(images: Tensor, severity: Tensor, generator: Generator) -> Tensor:
    """Seen at an angle: a random plane tilt of up to .4, with an affine part of up to .15."""
    count = len(images)
    matrix = torch.eye(2) + 0.15 * severity[:, None, None] * uniform((count, 2, 2), generator)
    tilt = 0.4 * severity[:, None] * directions(count, generator)
    grid = _coordinates(images)
    depth = 1 + grid @ tilt[:, None, :, None]
    return _sample(images, (grid @ matrix[:, None]) / depth)


def linear_warp(images: Tensor, severity: Tensor, generator: Generator) -> Tensor:
    """A 5×5 grid of random displacements, each up to 1/10 of the side, bilinear between them."""
    return _warp(images, severity, generator, "bilinear")


def cubic_warp(images: Tensor, severity: Tensor, generator: Generator) -> Tensor:
    """Warp in the same way, bicubic between the points of the grid: smooth."""
    return _warp(images, severity, generator, "bicubic")


def ghosting(images: Tensor, severity: Tensor, generator: Generator) -> Tensor:
    """A second image over the first, moved by 1/16 to 1/8 of the side, with up to half of the weight."""
    length = 0.1875 + 0.0625 * uniform((len(images), 1), generator)
    move = length * directions(len(images), generator)
    ghost = _sample(images, _coordinates(images) + move[:, None, None])
    return torch.lerp(images, ghost, per_image(0.5 * severity))


def chromatic_aberration(images: Tensor, severity: Tensor, generator: Generator) -> Tensor:
    """Red and blue out of register with green: one enlarged, the other shrunk, by up to 12 %."""
    scale = per_image(0.12 * severity * signs(len(images), generator))
    red, green, blue = images.split(1, dim=1)
    grid = _coordinates(images)
    return torch.cat([_sample(red, grid * (1 + scale)), green, _sample(blue, grid * (1 - scale))], dim=1)


def _coordinates(images: Tensor) -> Tensor:
    """Coordinates of the pixels, (1, H, W, 2)."""
    return _grid(*images.shape[-2:])


@kept
def _grid(height: int, width: int) -> Tensor:
    x, y = ((2 * torch.arange(extent) + 1) / extent - 1 for extent in (width, height))
    return torch.stack(torch.meshgrid(x, y, indexing="xy"), dim=-1)[None]


def _sample(images: Tensor, grid: Tensor) -> Tensor:
    sampled = F.grid_sample(images, grid, mode="bicubic", padding_mode="reflection", align_corners=False)
    return sampled.clamp(0, 1)


def _warp(images: Tensor, severity: Tensor, generator: Generator, mode: str) -> Tensor:
    knots = per_image(0.2 * severity) * uniform((len(images), 2, 5, 5), generator)
    height, width = images.shape[-2:]
    moves = F.interpolate(knots, (height, width), mode=mode, align_corners=True)
    return _sample(images, _coordinates(images) + moves.permute(0, 2, 3, 1))


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
# Ranges that severities are drawn from in design `paper`. At the lower end the mean LPIPS distance (AlexNet,
# v0.1, calibrated on people's judgments) of patches is .02, at the upper end .35, or the family's strongest
# where it does not reach that; measured by `python -m benchmarks.severity`, which prints this table.
RANGES: dict[str, tuple[float, float]] = {
    "lightness": (0.31, 1.0),
    "color_shift": (0.09, 0.94),
    "contrast": (0.3, 1.0),
    "saturation": (0.34, 1.0),
    "uniform_noise": (0.07, 0.49),
    "white_noise": (0.07, 0.49),
    "pink_noise": (0.05, 0.44),
    "blue_noise": (0.1, 0.57),
    "colored_noise": (0.06, 0.5),
    "checkerboard": (0.13, 1.0),
    "gaussian_blur": (0.14, 0.57),
    "bilateral_blur": (0.23, 1.0),
    "shift": (0.1, 1.0),
    "affine": (0.15, 1.0),
    "homography": (0.18, 1.0),
    "linear_warp": (0.23, 1.0),
    "cubic_warp": (0.18, 1.0),
    "ghosting": (0.4, 1.0),
    "chromatic_aberration": (0.11, 1.0),
    "jpeg": (0.19, 1.0),
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
