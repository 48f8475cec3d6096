"""The calibration curve of the ranking network: do people prefer p1 as often as it predicts?"""

from typing import NamedTuple

import numpy as np

from callbacks.report import Judged, Report, Trained, on_boards
from perceptual.files import csv_cells
from perceptual.files.writing import save_picture, whole_file

BINS = 10


class Curve(NamedTuple):
    """Triplets by their predicted preference; one number a bin that holds some."""

    predicted: np.ndarray
    """Mean predicted preference for p1."""
    judged: np.ndarray
    """Fraction of votes for p1."""
    error: np.ndarray
    """Standard error of `judged`, of the triplets as they differ within the bin."""
    triplets: np.ndarray
    """How many there are."""
    votes: np.ndarray
    """How many votes they carry."""


class PreferenceCurve(Report):
    """Draws `preference.png` and writes its numbers to `preference.csv`."""

    def make(self, trained: Trained) -> None:
        """Draw and keep the curve."""
        curve = preference_curve(trained.judged)
        with whole_file(self.path("preference.csv")) as partial:
            rows = zip(*(column.round(6).tolist() for column in curve), strict=True)
            csv_cells.write_file(partial, curve._fields, rows)
        self._draw(curve)
        self.show("preference", trained.trainer)
        step, error = trained.trainer.global_step, calibration_error(curve)
        on_boards(trained.trainer, lambda board: board.number("preference_error", error, step))

    def _draw(self, curve: Curve) -> None:
        from matplotlib.figure import Figure

        figure = Figure((4.6, 5.2), dpi=120, layout="constrained")
        above, below = figure.subplots(2, sharex=True, height_ratios=(4, 1))
        above.plot([0, 100], [0, 100], color="#888888", lw=0.9, ls="--", label="as predicted")
        predicted, judged = 100 * curve.predicted, 100 * curve.judged
        above.errorbar(predicted, judged, 196 * curve.error, fmt="o-", ms=4, lw=1.2, label="people, 95 %")
        above.set(ylabel="votes for p1 in %", ylim=(0, 100), xlim=(0, 100))
        above.set_title(
            f"mean distance from the diagonal {100 * calibration_error(curve):.1f} points", size=9
        )
        above.legend(fontsize=8, frameon=False, loc="upper left")
        below.bar(predicted, curve.triplets, width=5)
        below.set(xlabel="predicted preference for p1 in %", ylabel="triplets")
        for panel in (above, below):
            panel.tick_params(labelsize=8)
            panel.spines[["top", "right"]].set_visible(False)
        save_picture(figure, self.path("preference.png"))


def preference_curve(judged: Judged, bins: int = BINS) -> Curve:
    """Votes for p1 against the preference predicted, in bins of equal width.

    The standard error is that of a ratio of sums over triplets, Σ votes (judgment − mean) squared:
    triplets of one bin differ, and their votes are not independent.
    """
    place = np.minimum((judged.preference * bins).astype(int), bins - 1)
    rows = []
    for number in np.unique(place):
        of = place == number
        votes, judgment = judged.votes[of].astype(float), judged.judgment[of].astype(float)
        mean = np.average(judgment, weights=votes)
        error = np.sqrt(((votes * (judgment - mean)) ** 2).sum()) / votes.sum()
        rows.append((judged.preference[of].mean(), mean, error, of.sum(), votes.sum()))
    return Curve(*map(np.array, zip(*rows, strict=True)))


def calibration_error(curve: Curve) -> float:
    """Mean distance of predicted from judged preference over the votes, in [0, 1]."""
    return float(np.average(np.abs(curve.predicted - curve.judged), weights=curve.votes))
