"""Make triplets and pairs out of photographs, judged by a simulated observer, not people.

The observer knows the severity of each distortion. In a triplet it prefers the weaker one, with a probability
that falls to a half as the severities approach each other. In a pair it says "same" with a probability that
falls with the severity. Both patches of a triplet also get a small shift and a small change of lightness,
which the observer ignores, as people nearly do; networks react to them, so calibration can improve on that.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.nn.functional import pad

from perceptual.data.decode import read_rgb, resized
from perceptual.data.images import Images
from perceptual.data.items.pairs import PairTable
from perceptual.data.items.table import Table
from perceptual.data.items.triplets import TripletTable
from perceptual.data.synthetic.distortions import GROUPS, distort
from perceptual.data.workers import each_done

TRIPLET_VOTES, PAIR_VOTES = 5, 3  # as in BAPPS
PREFERENCE_WIDTH = 0.1  # difference of severities at which it prefers the weaker with 1 / (1 + e^-1) = 73 %
JUST_NOTICEABLE, NOTICING_WIDTH = 0.2, 0.05  # severity with "same" in half of the votes; width of the slope
SMALLEST_CROP, LARGEST_CROP = 64, 256  # sides, in pixels of the photograph
_CHUNK = 256  # items per task, at most


class Item(NamedTuple):
    """One triplet or pair."""

    patches: Tensor  # (roles, 3, S, S) uint8
    answer: float
    group: int  # number of the group of distortions


@dataclass(frozen=True)
class Making:
    """Items to make out of photographs.

    Item i depends on the photographs, the seed, the size and i only: not on the count, nor on the tasks.

    Args:
        kind: `TripletTable` or `PairTable`.
        photos: image files, at least `size` and 64 pixels on the smaller side.
        count: number of items, N.
        seed: chooses all of them.
        size: side S of the patches.

    Raises:
        ValueError: there are no photographs.
    """

    kind: type[Table]
    photos: Sequence[str]
    count: int
    seed: int
    size: int

    def __post_init__(self) -> None:
        if not self.photos:
            raise ValueError("no photographs to make patches of")

    def tasks(self) -> list[tuple[str, np.ndarray]]:
        """For each task a photograph and at most 256 of the items made of it, so that memory is bounded."""
        photo = np.array([_chance(self.seed, row, 0).integers(len(self.photos)) for row in range(self.count)])
        by_photo = np.argsort(photo, kind="stable")
        parts = np.split(by_photo, np.flatnonzero(np.diff(photo[by_photo])) + 1)
        return [
            (self.photos[photo[rows[0]]], rows[start : start + _CHUNK])
            for rows in parts
            for start in range(0, len(rows), _CHUNK)
        ]

    def make(self, path: str, rows: np.ndarray) -> list[Item]:
        """The items of a task.

        Raises:
            ValueError: the photograph is too small.
            OSError: it cannot be read.
        """
        photo = _read_photo(path, self.size)
        make_item = _make_triplet if self.kind is TripletTable else _make_pair
        threads = torch.get_num_threads()
        torch.set_num_threads(1)  # patches are too small to share out; on busy cores that is ten times slower
        try:
            return [make_item(photo, self.size, _chance(self.seed, row, 1)) for row in rows.tolist()]
        finally:
            torch.set_num_threads(threads)

    def image_rows(self, rows: np.ndarray) -> np.ndarray:
        """Where the images (roles × n) of some items are among all (roles × N)."""
        return (np.arange(len(self.kind.roles))[:, None] * self.count + rows).flatten()

    def table(self, images: Images, answers: np.ndarray, groups: np.ndarray) -> Table:
        """The table of all items, of images, answers and groups in the order of the items."""
        roles = self.image_rows(np.arange(self.count)).reshape(-1, self.count)
        votes = TRIPLET_VOTES if self.kind is TripletTable else PAIR_VOTES
        return self.kind(
            images=images,
            **dict(zip(self.kind.roles, roles, strict=True)),
            **{self.kind.answer: answers},
            subset=groups,
            subsets=list(GROUPS),
            votes=np.full(self.count, votes, np.float32),
        )


def make_triplets(
    photos: Sequence[str], count: int, seed: int, size: int = 64, workers: int = 1
) -> TripletTable:
    """Make triplets of one distortion at two severities, with a simulated observer's judgments.

    Triplet i depends on the photographs, the seed, the size and i only: not on the count nor the workers. Its
    photograph, place and distortions are drawn at random; its judgment is the fraction of 5 simulated votes.

    Args:
        photos: image files, at least `size` and 64 pixels on the smaller side.
        count: number of triplets.
        seed: chooses all of them.
        size: side S of the patches.
        workers: processes to make them in; more than one need a main module that can be imported.

    Returns:
        a table over 3 × count images in memory; its subsets are the groups of distortions. For sets larger
        than memory, see `perceptual.data.synthetic.storing`.

    Raises:
        ValueError: there are no photographs, or one is too small; names it.
        OSError: a photograph cannot be read.
    """
    return make(Making(TripletTable, photos, count, seed, size), workers)  # type: ignore[return-value]


def make_pairs(photos: Sequence[str], count: int, seed: int, size: int = 64, workers: int = 1) -> PairTable:
    """Make pairs of a patch and its distortion; `same` is the fraction of 3 simulated votes.

    Arguments, result and errors as in `make_triplets`.
    """
    return make(Making(PairTable, photos, count, seed, size), workers)  # type: ignore[return-value]


def make(making: Making, workers: int = 1) -> Table:
    """The table of all items, with its images in memory; see `make_triplets`."""
    roles, size = len(making.kind.roles), making.size
    images = torch.empty(roles * making.count, 3, size, size, dtype=torch.uint8)
    answers, groups = np.empty(making.count, np.float32), np.empty(making.count, np.int64)
    tasks = making.tasks()
    for task, items in each_done(making.make, tasks, workers, f"Making {making.kind.plural}"):
        rows = tasks[task][1]
        patches = torch.stack([item.patches for item in items], dim=1)
        images[torch.from_numpy(making.image_rows(rows))] = patches.flatten(0, 1)
        answers[rows] = [item.answer for item in items]
        groups[rows] = [item.group for item in items]
    return making.table(images, answers, groups)


def patches(photos: Sequence[str], count: int, seed: int, size: int = 64) -> Tensor:
    """Random squares of photographs, (count, 3, size, size) float in [0, 1], as triplets are made of.

    Args:
        photos: image files, from which the squares are taken in turn.
        count, seed: how many, and which.
        size: side in pixels.
    """
    read = [_read_photo(path, size) for path in photos]
    return torch.stack([_crop(read[row % len(read)], size, _chance(seed, row, 0)) for row in range(count)])


def _chance(seed: int, row: int, use: int) -> np.random.Generator:
    return np.random.default_rng([seed, row, use])


def _read_photo(path: str, size: int) -> Image.Image:
    try:
        photo = read_rgb(path)
    except Exception as error:  # decoders raise all kinds of errors
        raise OSError(f"cannot read the photograph {path}: {error}") from None
    if min(photo.size) < max(size, SMALLEST_CROP):
        width, height = photo.size
        raise ValueError(
            f"{path} is {width}×{height}, patches need {max(size, SMALLEST_CROP)} on the smaller side"
        )
    return photo


def _make_triplet(photo: Image.Image, size: int, rng: np.random.Generator) -> Item:
    ref, severities = _crop(photo, size, rng), _two_severities(rng)
    for _ in range(20):  # again if a family changes nothing, as saturation does to grey
        group, distorted = _distort(ref, severities, rng)
        if not torch.equal(*distorted):
            break
    p0, p1 = (_quantised(_nuisance(patch, rng)) for patch in distorted)
    prefers_p1 = 1 / (1 + np.exp((severities[1] - severities[0]) / PREFERENCE_WIDTH))
    judgment = rng.binomial(TRIPLET_VOTES, prefers_p1) / TRIPLET_VOTES
    return Item(torch.stack([_quantised(ref), p0, p1]), judgment, group)


def _make_pair(photo: Image.Image, size: int, rng: np.random.Generator) -> Item:
    p0, severity = _crop(photo, size, rng), rng.uniform(0, 2.5 * JUST_NOTICEABLE)
    group, (p1,) = _distort(p0, [severity], rng)
    says_same = 1 / (1 + np.exp((severity - JUST_NOTICEABLE) / NOTICING_WIDTH))
    same = rng.binomial(PAIR_VOTES, says_same) / PAIR_VOTES
    return Item(torch.stack([_quantised(p0), _quantised(p1)]), same, group)


def _crop(photo: Image.Image, size: int, rng: np.random.Generator) -> Tensor:
    """A random square of 64 to 256 pixels, resized to (3, S, S) in [0, 1]; redrawn if nearly uniform."""
    for _ in range(20):
        largest = min(LARGEST_CROP, *photo.size)
        side = int(np.exp(rng.uniform(np.log(SMALLEST_CROP), np.log(largest))))
        left, top = (int(rng.integers(extent - side + 1)) for extent in photo.size)
        pixels = np.array(resized(photo.crop((left, top, left + side, top + side)), size))
        if pixels.std() > 12:
            break
    return torch.from_numpy(pixels).permute(2, 0, 1).float() / 255


def _two_severities(rng: np.random.Generator) -> list[float]:
    """Two severities in [.05, 1], often close to each other; the observer judges by their difference."""
    middle = rng.uniform(0.25, 0.8)
    half = np.clip(rng.normal(0, 0.12), -0.2, 0.2)
    return [middle - half, middle + half]


def _distort(
    patch: Tensor, severities: Sequence[float], rng: np.random.Generator
) -> tuple[int, list[Tensor]]:
    """A random group of distortions, and the patch distorted by one of its families, once per severity."""
    group = int(rng.integers(len(GROUPS)))
    families = list(GROUPS.values())[group]
    name = families[int(rng.integers(len(families)))].__name__
    seed = int(
        rng.integers(2**63)
    )  # the same for both: the same direction or noise, so that only the severity differs
    chances = (torch.Generator().manual_seed(seed) for _ in severities)
    steps = ([(name, severity)] for severity in severities)
    return group, [distort(patch[None], *each)[0] for each in zip(steps, chances, strict=True)]


def _nuisance(patch: Tensor, rng: np.random.Generator) -> Tensor:
    """What the observer ignores: a shift of up to 2 pixels, and lightness changed by up to 3 %."""
    top, left = rng.integers(0, 5, 2)
    padded = pad(patch[None], (2, 2, 2, 2), mode="reflect")[0]
    height, width = patch.shape[-2:]
    return padded[:, top : top + height, left : left + width] * rng.uniform(0.97, 1.03)


def _quantised(patch: Tensor) -> Tensor:
    return patch.clamp(0, 1).mul(255).round().byte()
