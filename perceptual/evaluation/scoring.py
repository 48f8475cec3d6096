"""Score distances on judged images, reading each batch once for all of them."""

import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import chain
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torchmetrics import Metric

from perceptual.data.loading import Batches
from perceptual.data.table import Table
from perceptual.evaluation.begun import Begun
from perceptual.files.messages import first_line
from perceptual.files.progress import Progress
from perceptual.metrics import SCORES, PerSubset

Distance = Callable[[Tensor, Tensor], Tensor]
Columns = list[np.ndarray]
"""(N,) arrays in the order of the items: d0 and d1 of triplets, the distance of pairs."""
JND = "jnd/"  # what the names of JND scores begin with, beside those of 2AFC
PIECE = 3 * 50 * 64**2  # pixels that a CPU compares at once: those of the paper's batch


@dataclass
class Measured:
    """Distances by one method, and what they cost."""

    columns: Columns = field(default_factory=list)
    seconds: float = 0.0
    """Time spent in the distance alone."""
    error: str | None = None
    """Why the method gave no distances, in one line."""


def measure(
    distances: Mapping[str, Distance], batches: Batches[Any], begun: Begun | None = None
) -> dict[str, Measured]:
    """Distances of every item by each method; one that fails is left with its reason, the others go on.

    Args:
        distances: (x, y) → (N,) by method name.
        batches: of judged items, which may come in any order.
        begun: what an earlier run had computed, which is not computed again; this run adds to it.
    """
    count, sampler = len(batches.dataset), batches.sampler
    measured = {name: Measured() for name in distances}
    found = {
        name: columns
        for name in distances
        if begun is not None and (columns := begun.read(name, count)) is not None
    }
    if found:
        missing = [np.isnan(columns).any(0) for columns in found.values()]
        sampler.wanted = np.any(missing, axis=0) if len(found) == len(distances) else None
    rows_of_batches = list(sampler)
    try:
        what = next(iter(distances)) if len(distances) == 1 else f"{len(distances)} methods"
        for rows, batch in zip(rows_of_batches, _shown_by_size(batches, rows_of_batches, what), strict=True):
            for name, distance in distances.items():
                if name in found and not np.isnan(found[name][:, rows]).any():
                    continue
                if parts := _compare_timed(measured[name], distance, batch):
                    if name not in found:
                        found[name] = np.full((len(parts), count), np.nan, np.float32)
                    found[name][:, rows] = np.stack(parts)
            if begun is not None:
                begun.keep(found)
    except BaseException:  # Ctrl-C too: nothing that was computed is lost
        if begun is not None:
            begun.keep(found, now=True)
        raise
    finally:
        sampler.wanted = None
    for name, result in measured.items():
        if not result.error:
            result.columns = list(found[name])
    return measured


def _compare_timed(measured: Measured, distance: Distance, batch: Any) -> list[np.ndarray] | None:
    """Distances of a batch, the time added up; None after a failure, whose reason is kept."""
    if measured.error:
        return None
    start = time.perf_counter()
    try:
        return [column.numpy() for column in compare(distance, batch)]
    except Exception as error:  # a network may fail in any way; it must not stop the others
        measured.error = first_line(error)
        return None
    finally:
        measured.seconds += time.perf_counter() - start


@torch.no_grad()
def compare(distance: Distance, batch: Any) -> tuple[Tensor, ...]:
    """(d0, d1) of a batch of triplets, or (distance,) of pairs, computed on the device of the distance."""
    device = device_of(distance)
    pieces = (piece.to(device) for piece in in_pieces(batch, device))
    columns = zip(*(piece.distances(distance) for piece in pieces), strict=True)
    return tuple(torch.cat(column).cpu() for column in columns)


def in_pieces(batch: Any, device: torch.device) -> list[Any]:
    """A batch as a device compares it: on a CPU at most `PIECE` pixels at once, or one item; else all.

    A CPU gets the memory of larger feature maps anew from the system for every operation.
    """
    return batch.pieces(PIECE) if device.type == "cpu" else [batch]


def _shown_by_size(batches: Batches[Any], rows: Sequence[np.ndarray], what: str) -> Iterable[Any]:
    """Yield the batches, showing the time left by the pixels that are left."""
    sizes = getattr(batches.dataset, "sizes", None)
    work = [len(of) if sizes is None else int(sizes[of].prod(1).sum()) for of in rows]
    with Progress(f"Scoring {what}", sum(work)) as progress:
        for batch, done in zip(batches, work, strict=True):
            yield batch
            progress.advance(done)


def columns_of(distances: Mapping[str, Distance], loaders: Any) -> dict[str, list[Columns]]:
    """Distances of everything that a data module validates on, read once for all distances.

    Args:
        distances: (x, y) → (N,) by name.
        loaders: as `val_dataloader()` gives them: of `Batch`es, or of `DifferenceBatch`es if all distances
            are LPIPS on their backbone; where there are items of several kinds, a list.

    Returns:
        by name, for each loader, arrays (N,) in the order of its items.

    Raises:
        ValueError: a distance cannot be computed on some images.
    """
    found: dict[str, list[Columns]] = {name: [] for name in distances}
    for batches in _listed(loaders):
        for name, measured in measure(distances, batches).items():
            if measured.error:
                raise ValueError(f"{name}: {measured.error}")
            found[name].append(measured.columns)
    return found


def scores_of(columns: Columns, table: Table) -> dict[str, dict[str, float]]:
    """Score distances of judged items, as training does: in [0, 1], or correlations.

    Returns:
        by the names that `Result` has (`scores`, then others of that kind of judgment): the score of each
        subset, then `mean` (macro) and `micro`.
    """
    tensors = [torch.from_numpy(column) for column in (*columns, table.answer, table.subset)]
    score, found = SCORES[table.kind.name], {}
    for name, metric in {"scores": score.metric, **score.others}.items():
        by_subset = PerSubset(metric(), table.subsets)
        for part in by_subset.modules():
            if isinstance(part, Metric):  # this process has all items, and others may be gone
                part.distributed_available_fn = lambda: False
        by_subset.update(*tensors[:-1], subset=tensors[-1])
        found[name] = {subset: value.item() for subset, value in by_subset.compute().items()}
    return found


def joined(columns: Sequence[Columns], tables: Sequence[Table]) -> dict[str, float]:
    """Score all that a data module validates on; names of further kinds begin with it, as `jnd/mean`."""
    return {
        (f"{table.kind.name}/" if number else "") + subset: value
        for number, (part, table) in enumerate(zip(columns, tables, strict=True))
        for subset, value in scores_of(part, table)["scores"].items()
    }


def score(distances: Mapping[str, Distance], loaders: Any) -> dict[str, dict[str, float]]:
    """Score each distance on what a data module validates on, see `columns_of` and `joined`."""
    tables = [batches.dataset.table for batches in _listed(loaders)]
    return {name: joined(columns, tables) for name, columns in columns_of(distances, loaders).items()}


def _listed(loaders: Any) -> list[Any]:
    return loaders if isinstance(loaders, list) else [loaders]


def device_of(distance: Distance) -> torch.device:
    """Where a distance computes."""
    if not isinstance(distance, nn.Module):
        return torch.device("cpu")
    return next(chain(distance.parameters(), distance.buffers()), torch.empty(0)).device
