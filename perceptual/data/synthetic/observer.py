"""A simulated observer that judges by S-CIELAB, a rule fitted to people's thresholds; no network is involved.

Zhang and Wandell 1997, "A spatial extension of CIELAB for digital color-image reproduction"
(https://doi.org/10.1889/1.1985127): an image is split into luminance, red-green and blue-yellow, each channel
is blurred as much as the eye's contrast sensitivity to it falls with spatial frequency, and the results are
compared in CIELAB. Here this is done at two viewing distances, with noise in the decision.
"""

from functools import lru_cache

import numpy as np
from scipy.fft import dctn, idctn

TRIPLET_VOTES, PAIR_VOTES = 5, 3  # as in BAPPS
PIXELS_PER_DEGREE = (15.0, 30.0)  # of the viewing distances
DECISION_NOISE = 0.2  # of the logarithm of the ratio of two differences, scale of the logistic
JUST_NOTICEABLE, NOTICING_NOISE = (
    2.0,
    0.25,
)  # ΔE called "same" by half; scale of the logistic of its logarithm
_NOTHING = 0.05  # ΔE below which differences are alike: less than a step of 8 bits

_RGB_TO_XYZ = np.array(
    [[0.4124, 0.3576, 0.1805], [0.2126, 0.7152, 0.0722], [0.0193, 0.1192, 0.9505]]
)  # sRGB, IEC 61966-2-1
_WHITE = _RGB_TO_XYZ.sum(1)
_XYZ_TO_OPPONENT = np.array(
    [[0.279, 0.72, -0.107], [-0.449, 0.29, -0.077], [0.086, -0.59, 0.501]]
)  # luminance, red-green, blue-yellow; Poirson and Wandell 1993
# of each channel, weights and widths of Gaussians exp(-(r / width)²), in degrees; the paper's table 1
_FILTERS = (
    ((0.921, 0.0283), (0.105, 0.133), (-0.108, 4.336)),
    ((0.531, 0.0392), (0.330, 0.494)),
    ((0.488, 0.0536), (0.371, 0.386)),
)
_TO_OPPONENT = (_XYZ_TO_OPPONENT @ _RGB_TO_XYZ).astype(np.float32)
_TO_XYZ = (np.linalg.inv(_XYZ_TO_OPPONENT) / _WHITE[:, None]).astype(np.float32)  # relative to white
_DARK = np.float32(216 / 24389)  # below it CIELAB is linear
_levels = np.arange(256) / 255
_LINEAR = np.where(_levels <= 0.04045, _levels / 12.92, ((_levels + 0.055) / 1.055) ** 2.4).astype(np.float32)


def differences(images: np.ndarray) -> np.ndarray:
    """Visible difference of each image from the first, in units of CIELAB's ΔE, mean over the pixels.

    Args:
        images: (N, 3, S, S) uint8, sRGB.

    Returns:
        (N - 1,) float64, the mean of the two viewing distances.
    """
    size = images.shape[-1]
    linear = _LINEAR.take(images)
    opponent = (_TO_OPPONENT @ linear.reshape(len(images), 3, -1)).reshape(linear.shape)
    # the cosine transform filters with the image mirrored at its borders
    spectrum = dctn(opponent, axes=(2, 3), norm="ortho", overwrite_x=True)
    found = np.zeros(len(images) - 1)
    for step, density in enumerate(PIXELS_PER_DEGREE):
        # from further away there is less to see: half the pixels, by the lower half of the spectrum
        kept = max(8, size >> step) if size >= 8 else size
        seen = spectrum[..., :kept, :kept] * _sensitivity(size, density)[:, :kept, :kept] * (kept / size)
        lab = _lab(idctn(seen, axes=(2, 3), norm="ortho", overwrite_x=True))
        found += np.sqrt(np.square(lab[1:] - lab[0]).sum(1)).mean((1, 2))
    return found / len(PIXELS_PER_DEGREE)


def prefers_p1(d0: float, d1: float) -> float:
    """Probability that the observer finds p1 more similar, by the visible differences of p0 and of p1."""
    return _logistic((np.log(d0 + _NOTHING) - np.log(d1 + _NOTHING)) / DECISION_NOISE)


def says_same(difference: float) -> float:
    """Probability that the observer calls a pair the same."""
    return _logistic((np.log(JUST_NOTICEABLE) - np.log(difference + _NOTHING)) / NOTICING_NOISE)


def _logistic(x: float) -> float:
    return float(1 / (1 + np.exp(-x)))


@lru_cache(8)
def _sensitivity(size: int, density: float) -> np.ndarray:
    """Gain of each channel at the frequencies of the cosine transform, (3, S, S); 1 for a uniform area."""
    frequency = np.arange(size) * density / (2 * size)  # cycles per degree
    squared = frequency[:, None] ** 2 + frequency**2
    gains = [
        np.sum([weight * np.exp(-((np.pi * width) ** 2) * squared) for weight, width in gaussians], axis=0)
        for gaussians in _FILTERS
    ]
    return np.stack([gain / gain[0, 0] for gain in gains]).astype(np.float32)


def _lab(opponent: np.ndarray) -> np.ndarray:
    """CIELAB of opponent colours, (N, 3, H, W), with L* larger by 16."""
    xyz = (_TO_XYZ @ opponent.reshape(len(opponent), 3, -1)).reshape(opponent.shape)
    root = np.power(np.maximum(xyz, _DARK), np.float32(1 / 3))  # three times as fast as cbrt
    dark = xyz < _DARK
    if dark.any():
        root[dark] = xyz[dark] * np.float32(24389 / 27 / 116) + np.float32(16 / 116)
    x, y, z = root.swapaxes(0, 1)
    lab = np.empty_like(opponent)
    np.multiply(y, 116, out=lab[:, 0])  # without the constant, which no difference has
    np.multiply(x - y, 500, out=lab[:, 1])
    np.multiply(y - z, 200, out=lab[:, 2])
    return lab
