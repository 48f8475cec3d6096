"""Lightning callbacks of the training app: what to show and log, never what the algorithm needs."""

from callbacks.checkpoint import LastCheckpoint
from callbacks.ema import EMA
from callbacks.guard import InverseGuard
from callbacks.progress import Progress

__all__ = ["EMA", "InverseGuard", "LastCheckpoint", "Progress"]
