"""Make triplets and pairs out of photographs, judged by a simulated observer, not people.

What is done to the patches follows a design, see `perceptual.data.synthetic.designs`, and is recorded with
each item, see `perceptual.data.synthetic.steps`.
"""

import os
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from hashlib import sha256
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import DTypeLike
from PIL import Image
from torch import Tensor, nn

from perceptual.data.decode import pixel_digest
from perceptual.data.images import Images, Pixels
from perceptual.data.kinds import TWO_AFC, Kind
from perceptual.data.readers.stores import StoreInfo, is_store, read_info, read_store
from perceptual.data.synthetic import observer
from perceptual.data.synthetic.designs import DESIGNS, Design
from perceptual.data.synthetic.distorters.population import load_population, small_population
from perceptual.data.synthetic.photographs import chance, check_sizes, crop, quantised, read_photo
from perceptual.data.synthetic.steps import LONGEST, Step, apply, record
from perceptual.data.table import Table
from perceptual.data.workers import each_done
from perceptual.data.writers.folders import FORMS, write_files
from perceptual.data.writers.partial import begin, clear, complete, settle, state_of, working_on
from perceptual.data.writers.stores import already_there, finish
from perceptual.files.writing import refuse_existing

_CHUNK = 256  # items per task, at most


class Items(NamedTuple):
    """Triplets or pairs."""

    patches: Tensor  # (roles, N, 3, S, S) uint8
    answer: list[float]
    subset: list[int]  # numbers
    made: list[bytes]  # records of the distortions


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
        """Settings of the design."""
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
        """Return a copy with one photograph, which is all that a process needs for a task."""
        return replace(self, photos=[path])

    def make(self, path: str, rows: np.ndarray) -> Items:
        """Make the items of a task.

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
                made = [_make_item(self, photo, networks, chance(self.seed, row, 1)) for row in rows.tolist()]
        finally:
            torch.set_num_threads(threads)
        patches, *columns = zip(*made, strict=True)
        return Items(torch.stack(patches, dim=1), *map(list, columns))

    def image_rows(self, rows: np.ndarray) -> np.ndarray:
        """Return the places of the images (roles × n) of some items among all (roles × N)."""
        return (np.arange(len(self.kind.roles))[:, None] * self.count + rows).flatten()

    def table(self, images: Images, answers: np.ndarray, subset: np.ndarray, made: np.ndarray) -> Table:
        """Return the table of all items, from images and columns in the order of the items."""
        roles = self.image_rows(np.arange(self.count)).reshape(-1, self.count)
        return Table(
            kind=self.kind,
            opened=images,
            items=roles,
            answer=answers,
            subset=subset,
            subsets=list(self.how.subsets),
            votes=np.full(self.count, observer.VOTES[self.kind.name], np.float32),
            made=made,
        )


def make_items(
    kind: Kind,
    photos: Sequence[str],
    count: int,
    seed: int,
    size: int = 64,
    workers: int = 1,
    design: str = "paper",
    distorters: str | None = None,
) -> Table:
    """Make triplets or pairs of distorted patches in memory, with a simulated observer's judgments.

    A judgment of a triplet is the fraction of 5 simulated votes, and that of a pair, a patch and its faint
    distortion, of 3. For sets larger than memory, see `perceptual.data.synthetic.making`.

    Args:
        kind, photos, count, seed, size, design, distorters: as in `Making`.
        workers: processes to make them in; more than one need a main module that can be imported.

    Raises:
        ValueError: as `Making`, or a photograph is too small; names it.
        OSError: a photograph cannot be read.
    """
    making = Making(kind, photos, count, seed, size, design, distorters)
    images = torch.empty(len(kind.roles) * count, 3, size, size, dtype=torch.uint8)
    columns = [np.empty(count, kind) for kind in (np.float32, np.int64, object)]
    tasks = making.tasks()
    calls = [(making.for_worker(path), path, rows) for path, rows in tasks]
    for task, items in each_done(Making.make, calls, workers, f"Making {kind.plural}"):
        rows = tasks[task][1]
        images[torch.from_numpy(making.image_rows(rows))] = items.patches.flatten(0, 1)
        for column, values in zip(columns, items[1:], strict=True):
            column[rows] = values
    answers, subset, made = columns
    return making.table(Pixels.squares(images), answers, subset, made.astype(np.bytes_))


def _make_item(
    making: Making, photo: Image.Image, networks: Mapping[str, nn.Module], rng: np.random.Generator
) -> tuple[Tensor, float, int, bytes]:
    """Patches (roles, 3, S, S) uint8, answer, number of the subset, record."""
    ref, how = crop(photo, making.size, rng), making.how
    whole, triplet = quantised(ref), making.kind == TWO_AFC
    known: dict[tuple[tuple[Step, ...], ...], tuple[list[Tensor], list[Tensor]]] = {}

    def distorted(steps: list[list[Step]]) -> tuple[list[Tensor], list[Tensor]]:
        """Distort the patch by each sequence of steps; returns the patches and their pixels."""
        key = tuple(map(tuple, steps))
        if key not in known:
            patches = [apply(ref, each, networks) for each in steps]
            known[key] = patches, [quantised(patch) for patch in patches]
        return known[key]

    def differ(steps: list[list[Step]]) -> bool:
        patches, (first, second) = distorted(steps)
        if how.by_severity:
            return not torch.equal(*patches)
        return not any(torch.equal(*pair) for pair in ((first, second), (whole, first), (whole, second)))

    names = list(networks)
    subset, steps = how.triplet(rng, names, differ) if triplet else how.pair(rng, names)
    patches = torch.stack([whole, *distorted(steps)[1]])
    if how.by_severity:
        chosen = observer.by_severity(*(each[0].severity for each in steps))
    else:
        chosen = observer.by_sight(*observer.differences(patches.numpy()))
    votes = observer.VOTES[making.kind.name]
    return patches, rng.binomial(votes, chosen) / votes, subset, record(steps)


def make_store(making: Making, dst: str | Path, source: str, workers: int = 1) -> StoreInfo:
    """Write the store of the items that `making` describes.

    Args:
        making: what to make.
        dst: the store: a folder that does not exist yet, or the same store, which is left unchanged.
        source: where the items come from, for the record.
        workers: processes to make them in; more than one need a main module that can be imported.

    Raises:
        ValueError: `dst` is something else already, another process is writing it, or a photograph is too
            small.
        OSError: a photograph cannot be read, or the disk is full.
    """
    dst, request = Path(dst), _request(making)
    if dst.exists():
        return already_there(dst, request)
    kind, tasks = making.kind, making.tasks()
    with working_on(dst) as partial:
        columns: dict[str, tuple[int, DTypeLike]] = {
            kind.answer: (making.count, np.float32),
            "subset": (making.count, np.int64),
            "made": (making.count, f"S{LONGEST}"),
        }
        sizes = np.full((len(kind.roles) * making.count, 2), making.size, np.int64)
        begin(partial, f"{request} {state_of(making.photos)}", sizes, making.size, len(tasks), columns)
        _fill(partial, making, tasks, workers)
        answers, subset, made = (np.load(partial / f"{name}.npy") for name in columns)
        (partial / "plan").unlink()  # a run killed from here on starts over
        made = made.astype(f"S{np.char.str_len(made).max()}")  # no longer than they are
        info = finish(
            partial,
            making.table(Pixels.mapped(partial), answers, subset, made),
            source,
            request,
            [],
            workers=workers,
        )
        settle(partial, dst)
        return info


def make_files(making: Making, dst: str | Path, source: str, form: str, workers: int = 1) -> None:
    """Write the items that `making` describes as image files.

    Args:
        making, dst, source, workers: as in `make_store`; `dst` must not exist.
        form: `folder`, the layout of BAPPS, or `unjudged`, with a manifest for people to fill in.

    Raises:
        ValueError, OSError: as `make_store`.
    """
    dst = Path(dst)
    if form not in FORMS:
        raise ValueError(f"form must be one of {', '.join(FORMS)}, got {form!r}")
    refuse_existing(dst)
    with working_on(dst) as partial:
        store, files = partial / "store", partial / form
        if is_store(store) and read_info(store).request != _request(making):
            clear(partial)  # what an earlier run with another request left
        make_store(making, store, source, workers)
        write_files(read_store(store, making.kind), files, form, workers)
        os.replace(files, dst)
        shutil.rmtree(partial)


Made = tuple[list[bytes], list[float], list[int], list[bytes]]  # digests of images, and columns of items


def _fill(partial: Path, making: Making, tasks: list[tuple[str, np.ndarray]], workers: int) -> None:
    """Make the items that no earlier run has made."""
    names = ("digests", making.kind.answer, "subset", "made")
    digests, *columns = (np.lib.format.open_memmap(partial / f"{name}.npy", mode="r+") for name in names)
    rows = [making.image_rows(of_items) for _, of_items in tasks]

    def keep(task: int, made: Made) -> bool:
        digests[rows[task]] = np.frombuffer(b"".join(made[0]), np.uint8).reshape(-1, 32)
        for column, values in zip(columns, made[1:], strict=True):
            column[tasks[task][1]] = values
            column.flush()  # unlike images, these have no digest that would show a loss
        return True

    array = str(partial / "images.npy")
    arguments = [(making.for_worker(path), array, path, of_items) for path, of_items in tasks]
    complete(partial, rows, _write, arguments, keep, workers, f"Making {making.kind.plural}")


def _write(making: Making, array: str, path: str, rows: np.ndarray) -> Made:
    """Make the items of a task and write their images into the array."""
    made = making.make(path, rows)
    pixels = made.patches.flatten(0, 1).numpy()
    images = np.lib.format.open_memmap(array, mode="r+")
    images[making.image_rows(rows)] = pixels
    return [pixel_digest(image) for image in pixels], *made[1:]


def _request(making: Making) -> str:
    """SHA-256 of what is to be made; photographs count by their names."""
    folder = os.path.commonpath([os.path.dirname(path) for path in making.photos]) or "."
    names = [os.path.relpath(path, folder) for path in making.photos]
    head = f"made 3 {making.design} {making.kind.answer} {making.size} {making.count} {making.seed}"
    if making.distorters:
        head += f" {load_population(making.distorters).digest}"
    return sha256("\n".join([head, *names]).encode(errors="surrogateescape")).hexdigest()
