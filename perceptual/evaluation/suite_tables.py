"""The table of a suite: in the terminal, in Markdown and HTML, and as a picture."""

import html
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from rich import box
from rich.table import Table
from rich.text import Text

from perceptual.distance.saving.markdown import escaped
from perceptual.evaluation.score_table import ends, number, short_names
from perceptual.evaluation.suites import Suite
from perceptual.evaluation.tables import STYLE, TIED, html_table, ranked, resolution
from perceptual.files.writing import save_picture, write_text
from perceptual.metrics import SCORES

if TYPE_CHECKING:
    from matplotlib.figure import Figure

TRAINED = "†"


def terminal(suite: Suite) -> Table:
    """Scores × 100, a column for each set."""
    result = Table(title=Text("Suite, × 100"), box=box.SIMPLE_HEAD, pad_edge=False)
    header, *rows = _rows(suite)
    last = -2 * len(suite.summaries)  # intervals are for wider pages
    for place, cell in enumerate(header[1:last]):
        result.add_column(Text(cell), justify="left" if not place else "right", overflow="fold")
    for row in rows:
        result.add_row(*map(Text, row[1:last]))
    return result


def markdown(suite: Suite) -> str:
    """The table in Markdown, with what its columns mean below it."""
    return (
        "\n".join(
            ["### Suite", "", *ranked(_rows(suite)), "", *(f"* {escaped(note)}" for note in notes(suite))]
        )
        + "\n"
    )


def html_page(suite: Suite) -> str:
    """A page with the table."""
    listed = "".join(f"<li>{html.escape(note)}</li>" for note in notes(suite))
    head = f'<meta charset="utf-8"><title>Perceptual distances</title><style>{STYLE}</style>'
    return f"<!doctype html>\n{head}\n<h2>Suite</h2>\n{html_table(_rows(suite))}\n<ul>{listed}</ul>\n"


def notes(suite: Suite) -> list[str]:
    """What the columns are, which sets are absent, and what was trained on what."""
    described = [
        f"{name}: {SCORES[row['kind']].heading}, {row['description']}; {resolution(row['size'])}"
        for name, row in suite.sets.items()
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
    from matplotlib.figure import Figure

    from perceptual.evaluation.plots import label_width

    columns, methods = suite.columns, short_names(suite.methods)
    width = 0.4 + label_width(methods) + 1.7 * len(columns)
    figure = Figure((max(5, width), max(2.6, 1.3 + 0.26 * len(methods))), dpi=150, layout="constrained")
    panels = figure.subplots(1, len(columns), squeeze=False, sharey=True)[0]
    rows = np.arange(len(methods))
    for i, (panel, column) in enumerate(zip(panels, columns, strict=True)):
        panel.hlines(rows, 100 * suite.low[:, i], 100 * suite.high[:, i], color="C0", lw=2, alpha=0.5)
        panel.plot(100 * suite.score[:, i], rows, "o", color="C0", ms=5)
        kind = suite.sets[column]["kind"] if column in suite.sets else None
        panel.set_title(column, fontsize=10, parse_math=False)
        panel.set_xlabel(SCORES[kind].heading if kind else "mean × 100", fontsize=8)
        panel.set(yticks=rows, ylim=(len(rows) - 0.5, -0.5))
        panel.set_yticklabels(methods, parse_math=False)
        panel.tick_params(labelsize=8)
        panel.grid(axis="x", color="#eeeeee")
        panel.spines[["top", "right"]].set_visible(False)
    return figure


def write(suite: Suite, folder: Path, name: str) -> Sequence[Path]:
    """Write `suite-NAME` as .md, .html and .png into a folder; returns the paths."""
    paths = [folder / f"suite-{name}{ending}" for ending in (".md", ".html", ".png")]
    write_text(paths[0], markdown(suite))
    write_text(paths[1], html_page(suite))
    save_picture(draw(suite), paths[2])
    return paths


def _rows(suite: Suite) -> list[list[str]]:
    ends_of = [cell for name in suite.summaries for cell in (f"95 % of {name}", "behind the best")]
    rows = [["place", "method", *suite.columns, *suite.absent, *ends_of]]
    for i, method in enumerate(suite.methods):
        cells = [
            number(suite.score[i, c]) + (TRAINED if (method, column) in suite.shared else "")
            for c, column in enumerate(suite.columns)
        ]
        cells += ["absent"] * len(suite.absent)
        for name, (low, high) in zip(suite.summaries, suite.behind[i], strict=True):
            c = suite.columns.index(name)
            known = np.isfinite(suite.score[i, c])
            best = suite.score[i, c] >= np.nan_to_num(suite.score[:, c], nan=-np.inf).max()
            cells.append(ends(suite.low[i, c], suite.high[i, c]) if known else "")
            cells.append(f"{ends(low, high)}{TIED if low <= 0 else ''}" if known and not best else "")
        rows.append(["–" if np.isnan(suite.place[i]) else f"{suite.place[i]:.3g}", method, *cells])
    return rows
