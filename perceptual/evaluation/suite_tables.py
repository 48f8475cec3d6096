"""The table of a suite, and its picture."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from perceptual.evaluation.leaderboard import setting
from perceptual.evaluation.results import DataResults, Result
from perceptual.evaluation.runs import varied
from perceptual.evaluation.suites import Suite, tabulate
from perceptual.evaluation.tables import (
    TIED,
    Table,
    estimate,
    html_page,
    interval,
    markdown,
    number,
    resolution,
)
from perceptual.files.writing import save_picture, write_text
from perceptual.metrics import SCORES

if TYPE_CHECKING:
    from matplotlib.figure import Figure

TRAINED = "†"
LEFT_OUT = "data.val_conditions"


def table(suite: Suite) -> Table:
    """Scores × 100, a column for each set."""
    ends_of = [cell for name in suite.summaries for cell in (f"95 % of {name}", "behind the best")]
    columns = ["place", "method", *suite.columns, *suite.absent]
    rows = []
    for i, method in enumerate(suite.methods):
        cells = [
            number(suite.score[i, c]) + (TRAINED if (method, column) in suite.shared else "")
            for c, column in enumerate(suite.columns)
        ]
        cells += ["absent"] * len(suite.absent)
        for name, behind in zip(suite.summaries, suite.behind[i], strict=True):
            c = suite.columns.index(name)
            known = np.isfinite(suite.score[i, c])
            best = suite.score[i, c] >= np.nan_to_num(suite.score[:, c], nan=-np.inf).max()
            cells.append(interval(suite.low[i, c], suite.high[i, c]) if known else "")
            cells.append(f"{interval(*behind)}{TIED if behind[0] <= 0 else ''}" if known and not best else "")
        rows.append(["–" if np.isnan(suite.place[i]) else f"{suite.place[i]:.3g}", method, *cells])
    # intervals are for wider pages
    return Table("Suite, × 100", columns + ends_of, rows, notes(suite), 1, narrow=len(columns))


def left_out(places: Sequence[DataResults]) -> Table | None:
    """Runs that were each judged on conditions left out of their training, a column for each, as a table.

    None if the places are no such runs, or several have the same conditions.
    """
    found = {place: place.all() for place in places}
    runs = [one for results in found.values() for one in results]
    if LEFT_OUT not in varied(runs) or not all((run.settings or {})[LEFT_OUT] for run in runs):
        return None
    others = [key for key in varied(runs) if key != LEFT_OUT]

    def called(run: Result) -> str:
        return " ".join(f"{key}={setting(run.settings or {}, key)}" for key in others) or "trained"

    by_condition = {
        ", ".join((one[0].settings or {})[LEFT_OUT]): place for place, one in found.items() if one
    }
    if len(by_condition) < len(places):
        return None
    suite = tabulate(by_condition, {}, list(dict.fromkeys(map(called, runs))), called=called)
    numbers = np.stack([suite.score, suite.low, suite.high], axis=-1)
    rows = [
        [method, *map(estimate, row)] for method, row in zip(suite.methods, numbers.tolist(), strict=True)
    ]
    note = (
        "A column for each condition, by runs trained on the others; then the mean. In brackets: 95 % "
        "intervals by bootstrap over references."
    )
    return Table("Conditions left out of training, 2AFC in %", ["run", *suite.columns], rows, [note])


def notes(suite: Suite) -> list[str]:
    """What the columns are, which sets are absent, and what was trained on what."""
    described = [
        f"{name}: {SCORES[items.kind].heading}, {items.description}; {resolution(items.size)}"
        for name, items in suite.sets.items()
    ]
    described += [f"{name}: absent ({reason})" for name, reason in suite.absent.items()]
    described.append(
        "Scores are means over the subsets of a set, × 100; the mean of a kind is that of its sets. Scores "
        "of two kinds have no mean: methods are sorted by their place, the mean of their ranks in the kinds. "
        f"Intervals: 95 %, paired bootstrap within each set;{TIED} marks methods that do not differ "
        "significantly from the best of that kind."
    )
    described += [
        f"{TRAINED} {method} was trained on {count:,} of the images of {name}"
        for (method, name), count in suite.shared.items()
    ]
    return described + [f"not scored: {where} ({reason})" for where, reason in suite.failed.items()]


def draw(suite: Suite) -> "Figure":
    """A panel for each column, methods by their place, with intervals."""
    from perceptual.evaluation.plots import Panel, intervals

    panels = [
        Panel(column, *(100 * numbers[:, i] for numbers in (suite.score, suite.low, suite.high)))
        for i, column in enumerate(suite.columns)
    ]
    figure = intervals(panels, suite.methods)
    for axes, column in zip(figure.axes, suite.columns, strict=True):
        heading = SCORES[suite.sets[column].kind].heading if column in suite.sets else "mean × 100"
        axes.set_xlabel(heading, fontsize=8)
    return figure


def write(suite: Suite, folder: Path, name: str) -> Sequence[Path]:
    """Write `suite-NAME` as .md, .html and .png into a folder; returns the paths."""
    paths = [folder / f"suite-{name}{ending}" for ending in (".md", ".html", ".png")]
    write_text(paths[0], markdown(table(suite)))
    write_text(paths[1], html_page(table(suite)))
    save_picture(draw(suite), paths[2])
    return paths
