"""Lightning callbacks of the training app: what to show and log, never what the algorithm needs."""

from callbacks.checkpoints import BestCheckpoint, LastCheckpoint
from callbacks.disagreements import Disagreements
from callbacks.guard import InverseGuard
from callbacks.lin import LinFigure
from callbacks.loggers import RunRecord
from callbacks.preference import PreferenceCurve
from callbacks.progress import Progress
from callbacks.result import Result
from callbacks.sweep import SweepReport
from callbacks.throughput import Throughput

__all__ = [
    "BestCheckpoint",
    "Disagreements",
    "InverseGuard",
    "LastCheckpoint",
    "LinFigure",
    "PreferenceCurve",
    "Progress",
    "Result",
    "RunRecord",
    "SweepReport",
    "Throughput",
]
