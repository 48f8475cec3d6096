"""Progress of long work: a bar where a person watches, else a line every half minute."""

import sys
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from operator import length_hint
from threading import Event, Thread
from typing import Any, TypeVar

Item = TypeVar("Item")
EVERY = 30.0  # seconds between two lines


def run_number() -> str:
    """Return `#3  ` in run 3 of a sweep, whose output may be between that of others; else nothing."""
    hydra = sys.modules.get("hydra.core.hydra_config")
    if hydra is None or not hydra.HydraConfig.initialized():
        return ""
    config = hydra.HydraConfig.get()
    return f"#{config.job.num}  " if config.mode.name == "MULTIRUN" else ""


@contextmanager
def lines(say: Callable[[], str]) -> Iterator[None]:
    """Print what `say` returns every `EVERY` seconds while the work is done, unless stderr is a terminal."""
    if sys.stderr.isatty():
        yield
        return
    done = Event()

    def speak() -> None:
        while not done.wait(EVERY):
            print(f"{run_number()}{say()}", file=sys.stderr, flush=True)

    thread = Thread(target=speak, daemon=True)  # also where one step takes longer than that
    thread.start()
    try:
        yield
    finally:
        done.set()
        thread.join()


class Progress:
    """Shows how far work is on stderr, in a `with` block: a bar on a terminal, else lines.

    Args:
        label: what is done, such as "Scoring l2".
        total: steps of the work; None: not known.
        done: steps that an earlier run did.
    """

    def __init__(self, label: str, total: float | None = None, done: float = 0) -> None:
        self.label, self.total, self.done = label, total, done
        self._before = done

    def __enter__(self) -> "Progress":
        from rich import progress  # not at the top: worker processes import this module
        from rich.console import Console
        from rich.markup import escape

        self._start = time.monotonic()
        self._lines = lines(self.line)
        self._lines.__enter__()
        console = Console(stderr=True)
        self._bar = progress.Progress(console=console, transient=True, disable=not sys.stderr.isatty())
        self._task = self._bar.add_task(escape(self.label), total=self.total, completed=int(self.done))
        self._bar.start()
        return self

    def __exit__(self, *error: Any) -> None:
        self._bar.stop()
        self._lines.__exit__(None, None, None)

    def advance(self, steps: float = 1) -> None:
        """Count steps that were done."""
        self.reach(self.done + steps)

    def reach(self, done: float) -> None:
        """Say how many steps have been done; `total` may have become known."""
        self.done = done
        self._bar.update(self._task, completed=done, total=self.total)

    def line(self) -> str:
        """Say how far the work is, and how long it has taken or will take."""
        spent = time.monotonic() - self._start
        new = self.done - self._before
        if not self.total or not new:
            return f"{self.label}: {_shown(spent)} so far"
        left = spent / new * (self.total - self.done)
        return f"{self.label}: {100 * self.done / self.total:.0f} %, about {_shown(left)} left"


def track(items: Iterable[Item], label: str, total: float | None = None) -> Iterator[Item]:
    """Yield the items, showing how many have come."""
    with Progress(label, total or length_hint(items) or None) as progress:
        for item in items:
            yield item
            progress.advance()


def _shown(seconds: float) -> str:
    return str(timedelta(seconds=round(seconds)))
