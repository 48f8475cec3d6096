"""Triplets out of the photographs that scikit-image ships, judged by a simulated observer, not people.

They let a first run show the whole path, from images to score, without any download. The observer knows the
severity of each distortion and prefers the weaker one, the less surely the closer they are. He does not mind
a small shift of the picture or a change of overall lightness, as people hardly do, and both sides carry some
of each: a network minds them, so there is something for calibration to learn.
"""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import skimage
import torch
from PIL import Image
from torch import Tensor
from torch.nn.functional import pad

from perceptual.data.distortions import FAMILIES
from perceptual.data.images import read_rgb, resized
from perceptual.data.triplets import TripletTable

# Every photograph is on one side only, and the two views of the stereo pair are on the same
TRAIN_PHOTOS = (
    *("astronaut.png", "brick.png", "camera.png", "coffee.png", "gravel.png", "hubble_deep_field.jpg"),
    *("ihc.png", "moon.png", "page.png", "rocket.jpg"),
)
VAL_PHOTOS = (
    *("chelsea.png", "coins.png", "grass.png", "motorcycle_left.png", "motorcycle_right.png", "retina.jpg"),
    *("text.png",),
)
VOTES = 5
OBSERVER_WIDTH = 0.1  # difference of severities at which the observer is 73 % sure: 1 / (1 + e^-1)


def read_photos(names: Sequence[str]) -> list[Image.Image]:
    """Read photographs of scikit-image's wheel as RGB; grey ones are expanded."""
    folder = Path(skimage.__file__).parent / "data"
    return [read_rgb(str(folder / name)) for name in names]


def make_triplets(photos: Sequence[Image.Image], count: int, seed: int, size: int = 64) -> TripletTable:
    """Make triplets with a simulated observer's judgments.

    Triplet i depends on the photographs, the seed, the size and i only. Its family, photograph and place are
    drawn at random; its judgment is the fraction of five simulated votes.

    Args:
        photos: RGB photographs, at least `size` on the smaller side.
        count: number of triplets.
        seed: chooses all of them.
        size: side S of the patches.

    Returns:
        a table over 3 × count images (3·count, 3, S, S) uint8, its subsets the families of distortion.
    """
    images = torch.empty(3, count, 3, size, size, dtype=torch.uint8)
    judgment = np.empty(count, np.float32)
    subset = np.empty(count, np.int64)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # patches are too small to share out; on busy cores that is ten times slower
    try:
        for row in range(count):
            rng = np.random.default_rng([seed, row])
            images[:, row], judgment[row], subset[row] = _make_triplet(photos, size, rng)
    finally:
        torch.set_num_threads(threads)
    rows = np.arange(count)
    votes = np.full(count, VOTES, np.float32)
    return TripletTable(
        images.flatten(0, 1), rows, rows + count, rows + 2 * count, judgment, subset, list(FAMILIES), votes
    )


def _make_triplet(
    photos: Sequence[Image.Image], size: int, rng: np.random.Generator
) -> tuple[Tensor, float, int]:
    """Patches ref, p0, p1 (3, 3, S, S) uint8, the judgment, and the number of the family."""
    ref = _crop(photos[int(rng.integers(len(photos)))], size, rng)
    number = int(rng.integers(len(FAMILIES)))
    distort = list(FAMILIES.values())[number]
    severities = _two_severities(rng)
    patches = [ref]
    for severity in severities:
        generator = torch.Generator().manual_seed(int(rng.integers(2**63)))
        distorted = _nuisance(distort(ref.float() / 255, severity, generator), rng)
        patches.append(distorted.clamp(0, 1).mul(255).round().byte())
    return torch.stack(patches), _observe(*severities, rng), number


def _crop(photo: Image.Image, size: int, rng: np.random.Generator) -> Tensor:
    """A square of 64 to 256 pixels at size × size, uint8; drawn again while flat, like a night sky."""
    for _ in range(20):
        side = int(np.exp(rng.uniform(np.log(64), np.log(min(256, *photo.size)))))
        left, top = (int(rng.integers(extent - side + 1)) for extent in photo.size)
        pixels = np.array(resized(photo.crop((left, top, left + side, top + side)), size))
        if pixels.std() > 12:
            break
    return torch.from_numpy(pixels).permute(2, 0, 1)


def _two_severities(rng: np.random.Generator) -> tuple[float, float]:
    """Two severities in [.05, 1], often close: their difference is what the observer judges."""
    middle = rng.uniform(0.25, 0.8)
    half = np.clip(rng.normal(0, 0.12), -0.2, 0.2)
    return middle - half, middle + half


def _nuisance(patch: Tensor, rng: np.random.Generator) -> Tensor:
    """What the observer does not mind: a shift of up to 2 pixels, and lightness changed by up to 3 %."""
    top, left = rng.integers(0, 5, 2)
    padded = pad(patch[None], (2, 2, 2, 2), mode="reflect")[0]
    height, width = patch.shape[-2:]
    return padded[:, top : top + height, left : left + width] * rng.uniform(0.97, 1.03)


def _observe(severity0: float, severity1: float, rng: np.random.Generator) -> float:
    """Fraction of the votes for p1: each is a coin with a logistic bias towards the weaker distortion."""
    prefers_p1 = 1 / (1 + np.exp((severity1 - severity0) / OBSERVER_WIDTH))
    return float(rng.binomial(VOTES, prefers_p1) / VOTES)
