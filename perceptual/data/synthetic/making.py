"""Make triplets and pairs out of photographs, judged by a simulated observer, not people.

What is done to the patches follows a design, see `perceptual.data.synthetic.designs`, and is recorded with
each item, see `perceptual.data.synthetic.steps`.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn

from perceptual.data.images import Images, Pixels
from perceptual.data.kinds import JND, TWO_AFC, Kind
from perceptual.data.synthetic import designs, observer
from perceptual.data.synthetic.cropping import chance, check_sizes, crop, quantised, read_photo
from perceptual.data.synthetic.designs import DESIGNS, Design
from perceptual.data.synthetic.distorters.population import load_population, small_population
from perceptual.data.synthetic.steps import Step, apply, record
from perceptual.data.table import Table
from perceptual.data.workers import each_done

_CHUNK = 256  # items per task, at most


class Item(NamedTuple):
    """One triplet or pair."""

    patches: Tensor  # (roles, 3, S, S) uint8
    answer: float
    subset: int  # its number
    made: bytes  # record of the distortions


@dataclass(frozen=True)
class Making:
    """Items to make out of photographs.

    Item i depends on the photographs, the seed, the size, the design and i only: not on the count, nor on the
    tasks.

    Args:
        kind: `TWO_AFC` or `JND`.
        photos: image files, at least `size` and 64 pixels on the smaller side.
        count: number of items, N.
        seed: chooses all of them.
        size: side S of the patches.
        design: `paper`, `severity`, `cnn` or `mix`.
        distorters: folder of a population, for `cnn` and `mix`; None: the small one of packaged photographs,
            which is trained where the cache does not have it yet.

    Raises:
        ValueError: there are no photographs, no such design, or distorters that cannot be used.
    """

    kind: Kind
    photos: Sequence[str]
    count: int
    seed: int
    size: int
    design: str = "paper"
    distorters: str | None = None

    def __post_init__(self) -> None:
        if not self.photos:
            raise ValueError("no photographs to make patches of")
        if self.design not in DESIGNS:
            raise ValueError(f"design must be one of {', '.join(DESIGNS)}, got {self.design!r}")
        if self.how.needs_distorters:
            object.__setattr__(self, "distorters", self.distorters or str(small_population()))
            load_population(self.distorters)  # an error before anything is made
        elif self.distorters is not None:
            raise ValueError(f"design {self.design} takes no distorters; cnn and mix do")

    @property
    def how(self) -> Design:
        """The design."""
        return DESIGNS[self.design]

    def tasks(self) -> list[tuple[str, np.ndarray]]:
        """For each task a photograph and at most 256 of the items made of it, so that memory is bounded.

        Raises:
            ValueError: a photograph is too small.
        """
        photo = np.array([chance(self.seed, row, 0).integers(len(self.photos)) for row in range(self.count)])
        check_sizes([self.photos[number] for number in np.unique(photo)], self.size)
        by_photo = np.argsort(photo, kind="stable")
        parts = np.split(by_photo, np.flatnonzero(np.diff(photo[by_photo])) + 1)
        return [
            (self.photos[photo[rows[0]]], rows[start : start + _CHUNK])
            for rows in parts
            for start in range(0, len(rows), _CHUNK)
        ]

    def for_worker(self, path: str) -> "Making":
        """The same with one photograph: what a process needs for a task, however many there are."""
        return replace(self, photos=[path])

    def make(self, path: str, rows: np.ndarray) -> list[Item]:
        """The items of a task.

        Raises:
            ValueError: the photograph is too small.
            OSError: it cannot be read.
        """
        photo = read_photo(path, self.size)
        networks = load_population(self.distorters).networks if self.distorters else {}
        threads = torch.get_num_threads()
        torch.set_num_threads(1)  # patches are too small to share out; on busy cores that is ten times slower
        try:
            with torch.inference_mode():
                return [_make_item(self, photo, networks, chance(self.seed, row, 1)) for row in rows.tolist()]
        finally:
            torch.set_num_threads(threads)

    def image_rows(self, rows: np.ndarray) -> np.ndarray:
        """Where the images (roles × n) of some items are among all (roles × N)."""
        return (np.arange(len(self.kind.roles))[:, None] * self.count + rows).flatten()

    def table(self, images: Images, answers: np.ndarray, subset: np.ndarray, made: np.ndarray) -> Table:
        """The table of all items, of images and columns in the order of the items."""
        roles = self.image_rows(np.arange(self.count)).reshape(-1, self.count)
        votes = observer.TRIPLET_VOTES if self.kind == TWO_AFC else observer.PAIR_VOTES
        return Table(
            kind=self.kind,
            opened=images,
            items=roles,
            answer=answers,
            subset=subset,
            subsets=list(self.how.subsets),
            votes=np.full(self.count, votes, np.float32),
            made=made,
        )


def make_triplets(
    photos: Sequence[str],
    count: int,
    seed: int,
    size: int = 64,
    workers: int = 1,
    design: str = "paper",
    distorters: str | None = None,
) -> Table:
    """Make triplets of distorted patches, with a simulated observer's judgments.

    Triplet i depends on the photographs, the seed, the size, the design and i only: not on the count nor the
    workers. Its photograph, place and distortions are drawn at random; its judgment is the fraction of 5
    simulated votes.

    Args:
        photos: image files, at least `size` and 64 pixels on the smaller side.
        count: number of triplets.
        seed: chooses all of them.
        size: side S of the patches.
        workers: processes to make them in; more than one need a main module that can be imported.
        design, distorters: as in `Making`.

    Returns:
        a table over 3 × count images in memory. For sets larger than memory, see
        `perceptual.data.synthetic.storing`.

    Raises:
        ValueError: as `Making`, or a photograph is too small; names it.
        OSError: a photograph cannot be read.
    """
    return make(Making(TWO_AFC, photos, count, seed, size, design, distorters), workers)


def make_pairs(
    photos: Sequence[str],
    count: int,
    seed: int,
    size: int = 64,
    workers: int = 1,
    design: str = "paper",
    distorters: str | None = None,
) -> Table:
    """Make pairs of a patch and its faint distortion; `same` is the fraction of 3 simulated votes.

    Arguments, result and errors as in `make_triplets`.
    """
    return make(Making(JND, photos, count, seed, size, design, distorters), workers)


def make(making: Making, workers: int = 1) -> Table:
    """The table of all items, with its images in memory; see `make_triplets`."""
    roles, size = len(making.kind.roles), making.size
    images = torch.empty(roles * making.count, 3, size, size, dtype=torch.uint8)
    answers, subset = np.empty(making.count, np.float32), np.empty(making.count, np.int64)
    made = np.empty(making.count, object)
    tasks = making.tasks()
    calls = [(making.for_worker(path), path, rows) for path, rows in tasks]
    for task, items in each_done(Making.make, calls, workers, f"Making {making.kind.plural}"):
        rows = tasks[task][1]
        patches = torch.stack([item.patches for item in items], dim=1)
        images[torch.from_numpy(making.image_rows(rows))] = patches.flatten(0, 1)
        answers[rows] = [item.answer for item in items]
        subset[rows] = [item.subset for item in items]
        made[rows] = [item.made for item in items]
    return making.table(Pixels.squares(images), answers, subset, made.astype(np.bytes_))


def _make_item(
    making: Making, photo: Image.Image, networks: Mapping[str, nn.Module], rng: np.random.Generator
) -> Item:
    ref, how = crop(photo, making.size, rng), making.how
    whole, triplet = quantised(ref), making.kind == TWO_AFC
    known: dict[tuple[tuple[Step, ...], ...], tuple[list[Tensor], list[Tensor]]] = {}

    def distorted(steps: list[list[Step]]) -> tuple[list[Tensor], list[Tensor]]:
        """The patches as they come out of the distortions, and their pixels."""
        key = tuple(map(tuple, steps))
        if key not in known:
            patches = [apply(ref, each, networks) for each in steps]
            known[key] = patches, [quantised(patch) for patch in patches]
        return known[key]

    def differ(steps: list[list[Step]]) -> bool:
        if not triplet:
            return True
        patches, (first, second) = distorted(steps)
        if how.by_severity:
            return not torch.equal(*patches)
        return not any(torch.equal(*pair) for pair in ((first, second), (whole, first), (whole, second)))

    subset, steps = (how.triplet if triplet else how.pair)(rng, list(networks), differ)
    patches = torch.stack([whole, *distorted(steps)[1]])
    return Item(patches, _answer(how, patches, steps, rng), subset, record(steps))


def _answer(how: Design, patches: Tensor, steps: list[list[Step]], rng: np.random.Generator) -> float:
    """The share of simulated votes for p1, or for "same" where there is one distorted patch."""
    severities = [each[0].severity for each in steps]
    if len(steps) == 2:
        votes = observer.TRIPLET_VOTES
        if how.by_severity:
            chosen = 1 / (1 + np.exp((severities[1] - severities[0]) / designs.PREFERENCE_WIDTH))
        else:
            chosen = observer.prefers_p1(*observer.differences(patches.numpy()))
    else:
        votes = observer.PAIR_VOTES
        if how.by_severity:
            chosen = 1 / (1 + np.exp((severities[0] - designs.JUST_NOTICEABLE) / designs.NOTICING_WIDTH))
        else:
            chosen = observer.says_same(*observer.differences(patches.numpy()))
    return rng.binomial(votes, chosen) / votes
