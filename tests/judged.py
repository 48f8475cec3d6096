"""Small tables and batches of judged items for tests."""

import numpy as np
import torch
from torch import Tensor

from perceptual.data import JND, TWO_AFC, Batch, Kind, Table
from perceptual.data.images import Images, Pixels

ODD = Kind(
    name="threes",
    roles=("a", "b", "c"),
    compared=(("a", "b"), ("a", "c"), ("b", "c")),
    columns=("ab", "ac", "bc"),
    answer="odd_c",
    on_disk="third",
    plural="threes",
)
"""Which of three is the odd one? The answer is the share who said c."""


def make_table(kind: Kind, images: Tensor | Images | list[str], **columns) -> Table:
    """A table from a column for each role and for the answer, over squares in memory, images or paths."""
    items = np.stack([np.asarray(columns.pop(role), np.int64) for role in kind.roles])
    answer = np.asarray(columns.pop(kind.answer), np.float32)
    place = {"paths": images} if isinstance(images, list) else {"opened": images}
    if isinstance(images, Tensor):
        place = {"opened": Pixels.squares(images)}
    columns.setdefault("subset", np.zeros(len(answer), np.int64))
    columns.setdefault("subsets", ["all"])
    return Table(kind=kind, items=items, answer=answer, **place, **columns)


def triplets(ref: Tensor, p0: Tensor, p1: Tensor, *columns: Tensor) -> Batch:
    """A batch of triplets; judgment, weight and subset are 0, 1 and 0 where they are not given."""
    count = len(ref)
    default = (torch.zeros(count), torch.ones(count), torch.zeros(count, dtype=torch.int64))
    return Batch(TWO_AFC, torch.cat([ref, p0, p1]), None, *columns, *default[len(columns) :])


def pairs(p0: Tensor, p1: Tensor) -> Batch:
    """A batch of JND pairs that nobody calls the same."""
    return triplets(p0, p0, p1)._replace(kind=JND, images=torch.cat([p0, p1]))


def apart(batch: Batch) -> Batch:
    """The same items, each with its own copy of its images."""
    images = torch.cat([batch.role(role) for role in batch.kind.roles])
    return batch._replace(images=images, items=None)


def pixels(table: Table) -> Tensor:
    """All squares of a table, (M, 3, S, S) uint8."""
    return table.images.batch(torch.arange(len(table.images)))


def equal(a: Batch, b: Batch) -> bool:
    """Whether two batches are the same to the bit."""
    items = a.items is b.items or torch.equal(a.items, b.items)
    return a.kind == b.kind and items and all(map(torch.equal, (a.images, *a[3:6]), (b.images, *b[3:6])))


def ready(data, stage="fit"):
    """A data module after `setup`."""
    data.setup(stage)
    return data
