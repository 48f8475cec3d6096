"""Choose which triplets to ask people about: those on which distances disagree, and some at random."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import NamedTuple

import numpy as np
from torch import Tensor

from perceptual.collect.create import read_source, write_images
from perceptual.collect.study import IMAGES
from perceptual.data.batch import JudgedDataset
from perceptual.data.kinds import ALGORITHMS, TWO_AFC
from perceptual.data.loading import loader
from perceptual.data.table import Table
from perceptual.evaluation.scoring import measure
from perceptual.files import csv_cells
from perceptual.files.writing import refuse_existing, whole_folder

RANDOM, DISAGREED = "val", "train"  # the split column: scores come from the random part


class Chosen(NamedTuple):
    """Rows of the source that were chosen."""

    random: np.ndarray
    disagreed: np.ndarray
    shared: int  # how many of those show an image of the random part


def choose(
    source: Path,
    folder: Path,
    distances: Mapping[str, Callable[[Tensor, Tensor], Tensor]],
    count: int,
    random_part: float = 0.2,
    seed: int = 0,
    size: int = 64,
) -> Chosen:
    """Write a folder with the chosen triplets: `manifest.csv`, without answers, and the images.

    The manifest's `split` says which is which: `val` was drawn at random, so that scores on it are those on
    the source; `train` are triplets on which the distances disagree most, without images of the random part
    as long as there are enough.

    Args:
        source: triplets that `read_source` reads.
        folder: must not exist.
        distances: (x, y) → (N,), two or more, by name.
        count: triplets to choose.
        random_part: share of them to draw at random.
        seed: of the draw.
        size: side S that images are resized to for the distances.

    Raises:
        ValueError: pairs, fewer triplets than asked for, one distance only, or one that fails.
    """
    refuse_existing(folder)
    table, algorithms = read_source(source)
    if table.kind != TWO_AFC:
        raise ValueError(f"{source} holds {table.kind.plural}; triplets are needed")
    if not 0 < count <= len(table):
        raise ValueError(f"count must be in [1, {len(table)}], the triplets of {source}; got {count}")
    if len(distances) < 2:
        raise ValueError(f"methods must be two or more, to disagree; got {', '.join(distances) or 'none'}")
    if not 0 <= random_part <= 1:
        raise ValueError(f"random_part must be in [0, 1], got {random_part}")
    chosen = pick(table.items, disagreement(table, distances, size), count, random_part, seed)
    with whole_folder(folder) as partial:
        (partial / IMAGES).mkdir(parents=True)
        _write(partial, table, algorithms, chosen)
    return chosen


def disagreement(
    table: Table, distances: Mapping[str, Callable[[Tensor, Tensor], Tensor]], size: int
) -> np.ndarray:
    """Measure how much distances contradict each other on each triplet, (N,); 0 if they agree.

    The preference of a distance is d0 − d1 over its mean size; the disagreement is the lesser of the sums of
    the preferences for either patch.
    """
    dataset = JudgedDataset(table.open(size))
    measured = measure(distances, loader(dataset, 50, 0, seed=0))
    failed = [f"{name}: {result.error}" for name, result in measured.items() if result.error]
    if failed:
        raise ValueError("; ".join(failed))
    preferences = []
    for name, result in measured.items():
        difference = np.subtract(*result.columns, dtype=np.float64)
        if not np.isfinite(difference).all():
            raise ValueError(f"{name}: distances that are not finite")
        preferences.append(difference / max(np.abs(difference).mean(), np.finfo(float).tiny))
    against = np.stack(preferences)
    found: np.ndarray = np.minimum(against.clip(min=0).sum(0), (-against).clip(min=0).sum(0))
    return found


def pick(items: np.ndarray, score: np.ndarray, count: int, random_part: float, seed: int) -> Chosen:
    """Choose rows of `items` (roles, N): a part at random, then those of largest `score` (N,)."""
    order = np.random.default_rng(seed).permutation(len(score))
    drawn = np.sort(order[: round(count * random_part)])
    rest = np.setdiff1d(np.arange(len(score)), drawn)
    shares = np.isin(items[:, rest], items[:, drawn]).any(axis=0)
    # the best without a common image first, then the others
    ranked = rest[np.lexsort((-score[rest], shares))][: count - len(drawn)]
    return Chosen(drawn, np.sort(ranked), int(np.isin(ranked, rest[shares]).sum()))


def _write(folder: Path, table: Table, algorithms: list[tuple[str, ...]] | None, chosen: Chosen) -> None:
    rows = np.concatenate([chosen.random, chosen.disagreed])
    taken = table.take(rows)
    used, place = np.unique(taken.items, return_inverse=True)
    names, _ = write_images(table, folder / IMAGES, used.tolist())
    files = [[f"{IMAGES}/{names[i]}" for i in row] for row in place.reshape(taken.items.shape).T]
    splits = [RANDOM] * len(chosen.random) + [DISAGREED] * len(chosen.disagreed)
    csv_cells.write_file(
        folder / "manifest.csv",
        [*table.kind.roles, table.kind.on_disk, "subset", "split", *(ALGORITHMS if algorithms else ())],
        (
            [*images, "", table.subsets[table.subset[row]], split, *(algorithms[row] if algorithms else ())]
            for images, row, split in zip(files, rows.tolist(), splits, strict=True)
        ),
    )
