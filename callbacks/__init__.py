"""Lightning callbacks of the training app: what to show and log, never what the algorithm needs."""

from callbacks.progress import Progress

__all__ = ["Progress"]
