"""Additive noise of several spectra, and the checkerboard that transposed convolutions leave."""

import torch
from torch import Generator, Tensor

from perceptual.data.synthetic.distortions.shared import kept, per_image, uniform

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
