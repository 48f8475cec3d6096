"""Hold out triplets for validation, so that memorised images do not raise the score."""

from collections.abc import Callable, Sequence
from functools import partial

import numpy as np
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from perceptual.data.settings import SplitBy
from perceptual.data.table import Table


def split_by_image(table: Table, fraction: float, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Choose triplets so that no image is on both sides; those that straddle are on neither.

    Images that occur together stay together where that is possible: images linked by triplets form groups,
    and groups are held out whole. A group with more than `fraction` of all triplets is held out image by
    image, which is where triplets come to straddle.

    Args:
        table: the triplets, N.
        fraction: share of the images to hold out, in (0, 1).
        seed: chooses the images.

    Returns:
        masks (N,) of the training and the validation triplets.

    Raises:
        ValueError: one side would be empty.
    """
    _, items = np.unique(table.items, return_inverse=True)
    items = items.reshape(table.items.shape)
    first, *others = items
    image_count = int(items.max()) + 1
    start, end = np.tile(first, len(others)), np.concatenate(others)
    links = coo_array((np.ones(len(start), bool), (start, end)), (image_count, image_count))
    group_count, group = connected_components(links, directed=False)
    too_large = np.bincount(group[first], minlength=group_count) > fraction * len(table)
    unit = np.where(too_large[group], group_count + np.arange(image_count), group)

    _, unit = np.unique(unit, return_inverse=True)
    rank = np.random.default_rng(seed).permutation(unit.max() + 1)[unit]
    held_out = rank < np.sort(rank)[round(fraction * image_count)]
    shown = held_out[items]
    return _both((~shown).all(axis=0), shown.all(axis=0), f"by image with fraction={fraction}")


def split_by_triplet(table: Table, fraction: float, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Choose triplets at random; their images are on both sides.

    Repeats of a triplet, in either order of p0 and p1, stay on one side. Arguments, result and errors as in
    `split_by_image`, with `fraction` a share of the distinct triplets.
    """
    items = table.items.copy()
    if table.kind.exchanged:
        either = [table.kind.roles.index(role) for role in table.kind.exchanged]
        items[either] = np.sort(items[either], axis=0)
    triplets, which = np.unique(items, axis=1, return_inverse=True)
    rank = np.random.default_rng(seed).permutation(triplets.shape[1])
    held_out = (rank < round(fraction * len(rank)))[which.reshape(-1)]
    return _both(~held_out, held_out, f"by triplet with fraction={fraction}")


def split_by_condition(
    table: Table, fraction: float, seed: int, judged: Sequence[str] | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """Choose all triplets of some conditions; images that conditions share are on both sides.

    Arguments, result and errors as in `split_by_image`, with `fraction` a share of the conditions, at least
    one; `judged` names them instead.
    """
    if table.condition is None:
        raise ValueError("split_by=condition needs a column condition, and there is none")
    names = np.unique(table.condition).tolist()
    if absent := [name for name in judged or [] if name not in names]:
        raise ValueError(f"val_conditions must be some of {', '.join(names)}, got {absent[0]!r}")
    drawn = np.random.default_rng(seed).permutation(names)[: max(1, round(fraction * len(names)))]
    held_out = np.isin(table.condition, drawn if judged is None else list(judged))
    return _both(~held_out, held_out, "by condition")


def split(
    table: Table, by: SplitBy, fraction: float, seed: int, conditions: Sequence[str] | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """Split triplets as `by` says; of two rules, such as condition+image, both hold on both sides.

    Arguments, result and errors as in `split_by_image` and `split_by_condition`.
    """
    rules: dict[str, Callable[..., tuple[np.ndarray, np.ndarray]]] = {
        "image": split_by_image,
        "triplet": split_by_triplet,
        "condition": partial(split_by_condition, judged=conditions),
    }
    train, val = np.logical_and.reduce([rules[rule](table, fraction, seed) for rule in by.split("+")])
    return _both(train, val, f"by {by} with fraction={fraction}")


def _both(train: np.ndarray, val: np.ndarray, how: str) -> tuple[np.ndarray, np.ndarray]:
    if not (train.any() and val.any()):
        raise ValueError(
            f"split {how} leaves {train.sum():,} training and {val.sum():,} validation triplets "
            f"of {len(train):,}; both sides need some"
        )
    return train, val
