"""Many pairs of images, read and measured by threads in batches of one size, in order."""

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import NamedTuple, TypeVar

import torch
from torch import Tensor

PIXELS = 4 * 256 * 256  # of one side of a batch: larger ones are no faster, and take memory
WAIT = 256  # pairs that come in before one of an odd size is measured in a smaller batch
# One thread per core, each with its own batches: all threads on one batch would wait for those that also
# read.
WORKERS = max(2, min(8, torch.get_num_threads()))
Item = TypeVar("Item")


class Pair(NamedTuple):
    """Two images (3, H, W) uint8 of one size, and what of them counts, (1, H, W) uint8; None: all."""

    x: Tensor
    y: Tensor
    mask: Tensor | None = None


Read = Pair | ValueError
Measure = Callable[..., list[float]]


def measure_all(
    measure: Measure, items: Iterable[Item], read: Callable[[Item], Pair]
) -> Iterator[tuple[Item, float | ValueError]]:
    """Measure the distance of each item's pair, in order, or yield the ValueError that explains why not.

    Memory does not depend on how many items there are.

    Args:
        measure: images (N, 3, H, W) uint8, twice, and masks if there are any, to N distances; called in
            threads.
        items: what `read` takes, one after the other.
        read: an item to its images; called in threads.
    """
    done: dict[int, tuple[Item, float | ValueError]] = {}
    following = 0
    for measured in _in_threads(measure, read, items):
        done |= {number: (item, value) for number, item, value in measured}
        while following in done:
            yield done.pop(following)
            following += 1


def stack(images: Sequence[Tensor]) -> Tensor:
    """(N, C, H, W) of (C, H, W), with the channels last in memory, where they are in files."""
    return torch.stack([image.permute(1, 2, 0) for image in images]).permute(0, 3, 1, 2)


def _in_threads(
    measure: Measure, read: Callable[[Item], Pair], items: Iterable[Item]
) -> Iterator[list[tuple[int, Item, float | ValueError]]]:
    """Groups of numbered items with their distances; as many groups are under way as there are threads."""
    threads = torch.get_num_threads()
    torch.set_num_threads(max(1, threads // WORKERS))
    pool = ThreadPoolExecutor(WORKERS)  # neither Pillow nor PyTorch holds the GIL while it computes
    running: deque[Future[list[tuple[int, Item, float | ValueError]]]] = deque()
    try:
        for group in _by_size(_read_ahead(pool, read, items)):
            running.append(pool.submit(_measured, measure, group))
            if len(running) >= WORKERS:
                yield running.popleft().result()
        while running:
            yield running.popleft().result()
    finally:
        pool.shutdown(cancel_futures=True)  # after Ctrl-C, do not first do what is left
        torch.set_num_threads(threads)


def _measured(
    measure: Measure, group: Sequence[tuple[int, Item, Read]]
) -> list[tuple[int, Item, float | ValueError]]:
    """Measure a group of `_by_size`: distances in place of images."""
    values: list[float | ValueError] = [pair for _, _, pair in group if isinstance(pair, ValueError)]
    if not values:
        parts = zip(*(pair for _, _, pair in group), strict=True)
        try:
            values = [*measure(*(stack(part) for part in parts if part[0] is not None))]
        except ValueError as error:  # such as images too small for the backbone
            values = [error] * len(group)
    return [(number, item, value) for (number, item, _), value in zip(group, values, strict=True)]


def _read_ahead(
    pool: ThreadPoolExecutor, read: Callable[[Item], Pair], items: Iterable[Item]
) -> Iterator[tuple[int, Item, Read]]:
    """Numbered items with what was read of them, in order; a batch for each thread is read ahead."""
    pending: deque[tuple[int, Item, Future[Pair]]] = deque()
    ahead = WORKERS
    for number, item in enumerate(items):
        pending.append((number, item, pool.submit(read, item)))
        while len(pending) > ahead:
            yield (found := _result(*pending.popleft()))
            if isinstance(found[2], Pair):
                ahead = max(WORKERS, min(WORKERS * PIXELS // _area(found[2]), WAIT))
    while pending:
        yield _result(*pending.popleft())


def _result(number: int, item: Item, future: "Future[Pair]") -> tuple[int, Item, Read]:
    try:
        return number, item, future.result()
    except ValueError as error:
        return number, item, error


def _by_size(found: Iterator[tuple[int, Item, Read]]) -> Iterator[list[tuple[int, Item, Read]]]:
    """Groups of pairs of one size, as they fill or the first has waited long; errors by themselves."""
    waiting: dict[torch.Size, list[tuple[int, Item, Read]]] = {}
    for number, item, pair in found:
        if isinstance(pair, ValueError):
            yield [(number, item, pair)]
            continue
        group = waiting.setdefault(pair.x.shape, [])
        group.append((number, item, pair))
        if (len(group) + 1) * _area(pair) > PIXELS:
            yield waiting.pop(pair.x.shape)
        if waiting:
            oldest = next(iter(waiting))
            if number - waiting[oldest][0][0] >= WAIT or _waiting_area(waiting) > 4 * PIXELS:
                yield waiting.pop(oldest)
    yield from waiting.values()


def _waiting_area(waiting: dict[torch.Size, list[tuple[int, Item, Read]]]) -> int:
    return sum(shape[1] * shape[2] * len(group) for shape, group in waiting.items())


def _area(pair: Pair) -> int:
    return pair.x.shape[1] * pair.x.shape[2]
