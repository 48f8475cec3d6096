"""A simulated observer that judges by the contrast sensitivity of people's eyes; no network is involved.

Two images are compared in CIELAB, pixel by pixel, and what the eye resolves badly is taken out of the
differences: of lightness by the band-pass curve of Mannos and Sakrison 1974, "The effects of a visual
fidelity criterion on the encoding of images" (https://doi.org/10.1109/TIT.1974.1055250); of colour by the
low-pass filters of S-CIELAB, Zhang and Wandell 1997, "A spatial extension of CIELAB for digital color-image
reproduction" (https://doi.org/10.1889/1.1985127). A difference of the means counts a fifth, as the eye adapts
to the light and its colour. There is noise in each decision.
"""

from functools import lru_cache

import numpy as np
from scipy.fft import dctn, idctn

VOTES = {"2afc": 5, "jnd": 3}  # by the kind of the items, as in BAPPS
PIXELS_PER_DEGREE = 15.0  # patches are shown enlarged, 64 pixels at 256, on a display of 60
ADAPTATION = 0.8  # share of a difference of the means that is not seen
DECISION_NOISE = 0.2  # of the logarithm of the ratio of two differences, scale of the logistic
JUST_NOTICEABLE = 2.0  # ΔE called "same" by half
NOTICING_NOISE = 0.25  # of the logarithm of ΔE, scale of the logistic
PREFERENCE_WIDTH = 0.1  # difference of severities at which it prefers the weaker with 1 / (1 + e^-1) = 73 %
JUST_NOTICEABLE_SEVERITY, NOTICING_WIDTH = 0.2, 0.05  # called "same" by half; width of the slope
_NOTHING = 0.05  # ΔE below which differences are alike: less than a step of 8 bits

_RGB_TO_XYZ = np.array(
    [[0.4124, 0.3576, 0.1805], [0.2126, 0.7152, 0.0722], [0.0193, 0.1192, 0.9505]]
)  # sRGB, IEC 61966-2-1
_RGB_TO_RELATIVE = (_RGB_TO_XYZ / _RGB_TO_XYZ.sum(1, keepdims=True)).astype(np.float32)  # to white
# of red-green and of blue-yellow, weights and widths in degrees of Gaussians exp(-(r / width)²); S-CIELAB's
# table 1
_FILTERS = (
    ((0.531, 0.0392), (0.330, 0.494)),
    ((0.488, 0.0536), (0.371, 0.386)),
)
# CIELAB's root of a value relative to white, from a table: a tenth of the time of a cube root
_STEPS = np.float32(2**16)
_relative = (np.arange(2**16 + 2) + 0.5) / 2**16
_linear_part = (24389 / 27 * _relative + 16) / 116
_ROOT = np.where(_relative > 216 / 24389, np.cbrt(_relative), _linear_part).astype(np.float32)
_levels = np.arange(256) / 255
_LINEAR = np.where(_levels <= 0.04045, _levels / 12.92, ((_levels + 0.055) / 1.055) ** 2.4).astype(np.float32)


def differences(images: np.ndarray) -> np.ndarray:
    """Visible difference of each image from the first, in units of CIELAB's ΔE, mean over the pixels.

    Args:
        images: (N, 3, S, S) uint8, sRGB.

    Returns:
        (N - 1,) float64.
    """
    lab = _lab(images)
    # the cosine transform filters with the image mirrored at its borders
    spectrum = dctn(lab[1:] - lab[0], axes=(2, 3), norm="ortho", overwrite_x=True)
    spectrum *= sensitivity(images.shape[-1])
    seen = idctn(spectrum, axes=(2, 3), norm="ortho", overwrite_x=True)
    return np.sqrt(np.square(seen).sum(1)).mean((1, 2), dtype=np.float64)


def by_sight(d0: float, d1: float | None = None) -> float:
    """Probability that the observer finds p1 more similar than p0, or calls a pair the same.

    Args:
        d0: visible difference of p0, or of the pair.
        d1: of p1; None: it is a pair.
    """
    seen = np.log(d0 + _NOTHING)
    if d1 is None:
        return _logistic((np.log(JUST_NOTICEABLE) - seen) / NOTICING_NOISE)
    return _logistic((seen - np.log(d1 + _NOTHING)) / DECISION_NOISE)


def by_severity(s0: float, s1: float | None = None) -> float:
    """Return the same probability by the severities of one family of distortion, in [0, 1]."""
    if s1 is None:
        return _logistic((JUST_NOTICEABLE_SEVERITY - s0) / NOTICING_WIDTH)
    return _logistic((s0 - s1) / PREFERENCE_WIDTH)


def _logistic(x: float) -> float:
    return float(1 / (1 + np.exp(-x)))


@lru_cache(8)
def sensitivity(size: int, density: float = PIXELS_PER_DEGREE) -> np.ndarray:
    """Gain of L*, a* and b* at the frequencies of the cosine transform, (3, S, S) float32, at most 1.

    Args:
        size: side S of the images.
        density: pixels per degree of visual angle.
    """
    frequency = np.arange(size) * density / (2 * size)  # cycles per degree
    squared = frequency[:, None] ** 2 + frequency**2
    lightness = _band_pass(0.114 * np.sqrt(squared)) / _band_pass(np.linspace(0, 3, 3001)).max()
    colours = [
        np.sum([weight * np.exp(-((np.pi * width) ** 2) * squared) for weight, width in gaussians], axis=0)
        for gaussians in _FILTERS
    ]
    gains = np.stack([lightness, *colours])
    gains[1:] /= gains[1:, :1, :1]
    gains[:, 0, 0] = 1 - ADAPTATION
    return gains.astype(np.float32)


def _band_pass(scaled: np.ndarray) -> np.ndarray:
    """Mannos and Sakrison's curve, but for its factor, at 0.114 times the cycles per degree."""
    return (0.0192 + scaled) * np.exp(-(scaled**1.1))


def _lab(images: np.ndarray) -> np.ndarray:
    """CIELAB of uint8 sRGB, (N, 3, S, S) float32, with L* larger by 16."""
    linear = _LINEAR.take(images).reshape(len(images), 3, -1)
    x, y, z = _ROOT.take((_STEPS * _RGB_TO_RELATIVE @ linear).astype(np.int32)).swapaxes(0, 1)
    lab = np.empty_like(linear)
    np.multiply(y, 116, out=lab[:, 0])  # without the constant, which no difference has
    np.multiply(x - y, 500, out=lab[:, 1])
    np.multiply(y - z, 200, out=lab[:, 2])
    return lab.reshape(images.shape)
