"""Work on many files: by one process or by several, which end when their parent does, however it ended."""

import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from contextlib import contextmanager
from multiprocessing import get_context, parent_process
from threading import Thread
from typing import Any, TypeVar

from perceptual.files.progress import track

Result = TypeVar("Result")


def each_done(
    work: Callable[..., Result], tasks: Sequence[tuple[Any, ...]], workers: int, label: str
) -> Iterator[tuple[int, Result]]:
    """Call `work(*task)` for every task and yield (number of the task, result) as each is done.

    How many are done is shown on stderr. One worker is this process, with the tasks in order.
    """
    if workers == 1 or len(tasks) < 2:
        yield from track(((n, work(*task)) for n, task in enumerate(tasks)), label, len(tasks))
        return
    with worker_pool(min(workers, len(tasks))) as pool:
        number_of = {pool.submit(work, *task): number for number, task in enumerate(tasks)}
        # popped, so that no result is kept once it was given out
        results = ((number_of.pop(done), done.result()) for done in as_completed(list(number_of)))
        yield from track(results, label, len(tasks))


def all_done(
    work: Callable[..., Result], tasks: Sequence[tuple[Any, ...]], workers: int, label: str
) -> list[Result]:
    """Call `work(*task)` for every task, as `each_done` does, and return the results in order."""
    results = dict(each_done(work, tasks, workers, label))
    return [results[number] for number in range(len(tasks))]


@contextmanager
def worker_pool(workers: int) -> Iterator[ProcessPoolExecutor]:
    """A pool of spawned processes: nothing of the parent's threads or locks is copied into them."""
    pool = ProcessPoolExecutor(workers, get_context("spawn"), initializer=_end_with_parent)
    try:
        yield pool
    finally:
        pool.shutdown(cancel_futures=True)  # after Ctrl-C, do not finish the tasks that wait


def _end_with_parent() -> None:
    Thread(target=_wait_for_parent, daemon=True).start()


def _wait_for_parent() -> None:
    parent = parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)  # a killed parent sends its workers nothing: they would wait for tasks forever
