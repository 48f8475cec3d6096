"""Run work in a process of its own and kill it."""

import os
import signal
import time
from collections.abc import Callable
from hashlib import sha256
from pathlib import Path


def in_process(work: Callable[[], object]) -> int:
    """Begin the work in a process of its own; its number."""
    pid = os.fork()
    if pid == 0:
        try:
            work()
        finally:
            os._exit(0)
    return pid


def run_and_kill(work: Callable[[], object], seconds: float) -> None:
    """SIGKILL, unless the work is done before."""
    pid = in_process(work)
    time.sleep(seconds)
    os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)


def tree_bytes(folder: Path) -> dict[str, str]:
    """Hash of every file below a folder."""
    files = (path for path in sorted(folder.rglob("*")) if path.is_file())
    return {str(path.relative_to(folder)): sha256(path.read_bytes()).hexdigest() for path in files}


def run_and_kill_when(work: Callable[[], object], reached: Callable[[], bool]) -> None:
    """SIGKILL as soon as the work has reached a point; it must not be done before."""
    pid = in_process(work)
    while not reached():
        assert os.waitpid(pid, os.WNOHANG) == (0, 0), "the work ended before it was killed"
        time.sleep(0.001)
    os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)
