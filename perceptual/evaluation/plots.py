"""Pictures of a leaderboard, one colour a family."""

import re
import textwrap
from collections.abc import Callable, Mapping, Sequence
from operator import attrgetter
from pathlib import Path
from typing import Any, NamedTuple

import matplotlib as mpl
import numpy as np
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.text import Annotation
from matplotlib.ticker import EngFormatter, NullFormatter
from matplotlib.transforms import Bbox

from perceptual.data.kinds import JND, TWO_AFC
from perceptual.evaluation.board import Board, Entry
from perceptual.evaluation.leaderboard import called
from perceptual.evaluation.tables import short_names
from perceptual.files.writing import save_picture
from perceptual.metrics import SCORES

GREY = "#888888"
_AROUND = [(1, 0), (-1, 0), (0, 1.2), (0, -1.2), (0.8, 0.9), (0.8, -0.9), (-0.8, 0.9), (-0.8, -0.9)]
_RING = [(r * x, r * y) for r in (7, 13, 20, 28) for x, y in _AROUND]  # offsets of a name, in points
Point = tuple[float, float, str]
STYLES = (":", "--", "-.", "-", (0, (1, 4)))  # of the lines that show how people agree
CHARACTER = 0.07  # inches of one in a label, of 8 points
LEGEND = 2.6  # inches of the legend


def save(boards: Sequence[Board], folder: Path) -> list[Path]:
    """Write every picture that the boards have the numbers for, as PNG, and return their paths.

    Args:
        boards: of one or several sets of judged items.
        folder: where to; made if need be.
    """
    folder.mkdir(parents=True, exist_ok=True)
    written = []
    for board in boards:
        pictures: dict[str, Callable[[Board], Figure | None]] = {
            "scores": scores,
            "cost": cost,
            "levels": levels,
        }
        for name, draw in pictures.items():
            if figure := draw(board):
                written.append(folder / f"{name}-{board.data.name}.png")
                save_picture(figure, written[-1])
    triplets = [board for board in boards if board.data.kind == TWO_AFC.name]
    pairs = [board for board in boards if board.data.kind == JND.name]
    if triplets and pairs and (figure := two_afc_against_jnd(triplets[-1], pairs[-1])):
        written.append(folder / "2afc-jnd.png")
        save_picture(figure, written[-1])
    return written


class Panel(NamedTuple):
    """A column of numbers with their intervals, one for each method; NaN where there is none."""

    title: str
    value: Sequence[float] | np.ndarray
    low: Sequence[float] | np.ndarray
    high: Sequence[float] | np.ndarray


def intervals(
    panels: Sequence[Panel], methods: Sequence[str], colors: Sequence[Any] | None = None, free: float = 0.4
) -> Figure:
    """Numbers of methods with their intervals, a panel a column, a line a method.

    Args:
        panels: the columns.
        methods: their names.
        colors: of the methods; one for all if None.
        free: inches beside the panels and the names.
    """
    labels = short_names(methods)
    width = max(5, free + label_width(labels) + 2.0 * len(panels))
    figure = Figure((width, height(len(methods))), dpi=150, layout="constrained")
    rows = np.arange(len(methods))
    for axes, panel in zip(
        figure.subplots(1, len(panels), squeeze=False, sharey=True)[0], panels, strict=True
    ):
        of_all = colors or ["C0"] * len(methods)
        axes.hlines(rows, panel.low, panel.high, color=of_all, lw=2, alpha=0.5)
        # a point at the end of an axis is not cut off
        axes.scatter(panel.value, rows, c=of_all, s=25, clip_on=False, zorder=3)
        for row in np.flatnonzero(np.isnan(panel.value)):
            axes.text(0.5, row, "–", transform=axes.get_yaxis_transform(), va="center", color=GREY)
        axes.set_title(panel.title, fontsize=10, parse_math=False)
        axes.set(yticks=rows, ylim=(len(rows) - 0.5, -0.5))
        axes.set_yticklabels(labels, parse_math=False)
        axes.grid(axis="x", color="#eeeeee")
        plain(axes)
    return figure


def plain(axes: Axes) -> None:
    """Leave out the frame above and at the right, and write small numbers."""
    axes.spines[["top", "right"]].set_visible(False)
    axes.tick_params(which="both", labelsize=8)


def scores(board: Board) -> Figure:
    """Score of each method with its interval: a panel a column, methods by their macro mean."""
    columns = board.columns[:1] if len(board.data.subsets) == 1 else board.columns[:-1]
    colors, of = _colors(board.entries), (attrgetter("score"), attrgetter("low"), attrgetter("high"))
    panels = [
        Panel(column, *(100 * np.array([numbers(entry)[i] for entry in board.entries]) for numbers in of))
        for i, column in enumerate(columns)
    ]
    figure = intervals(
        panels,
        [called(board, entry.result) for entry in board.entries],
        [colors[entry.result.family] for entry in board.entries],
        LEGEND + 0.4,
    )
    entitle(figure, [board.data.description], free=LEGEND)
    for i, axes in enumerate(figure.axes):
        for reference, style in zip(board.references.values(), STYLES, strict=False):
            axes.axvline(100 * reference[i], color=GREY, lw=0.9, ls=style)
    figure.supxlabel(SCORES[board.data.kind].heading, fontsize=10)
    lines = [
        mpl.lines.Line2D([], [], color=GREY, lw=0.9, ls=style, label=name)
        for name, style in zip(board.references, STYLES, strict=False)
    ]
    _legend(figure, colors, lines)
    return figure


def cost(board: Board) -> Figure | None:
    """Score against throughput and against parameters; None for training runs, whose speed is not known."""
    if not all(entry.result.images_per_second for entry in board.entries):
        return None
    entries = [entry for entry in board.entries if entry.result.parameters]
    figure, panels = _figure(2, 12, 5.5, [board])
    points = [
        _scatter(panels[0], board, board.entries, lambda entry: entry.result.images_per_second or 0),
        _scatter(panels[1], board, entries, lambda entry: entry.result.parameters),
    ]
    device = str(board.entries[0].result.device).partition(" ")[0]
    panels[0].set(xlabel=f"images per second ({device})", ylabel=_axis(board))
    panels[1].set(xlabel="parameters")
    _legend(figure, _colors(board.entries))
    _label(figure, panels, points)
    return figure


def levels(board: Board) -> Figure | None:
    """Mean share of each level in the distance, shallow to deep; None without such methods."""
    entries = [entry for entry in board.entries if entry.result.level_shares]
    if not entries:
        return None
    labels = _labels(board, entries)
    figure, (panel,) = _figure(1, 6 + label_width(labels), height(len(entries)), [board])
    depth = max(len(entry.result.level_shares or ()) for entry in entries)
    shades = mpl.colormaps["viridis"](np.linspace(0.95, 0.1, depth))
    for row, entry in enumerate(entries):
        shares = 100 * np.array(entry.result.level_shares)
        lefts = np.cumsum(shares) - shares
        panel.barh(row, shares, left=lefts, color=shades[: len(shares)], edgecolor="white", height=0.75)
        for level, (left, share) in enumerate(zip(lefts, shares, strict=True)):
            if share >= 5:
                dark = level + 0.5 > depth / 2
                panel.text(
                    left + share / 2,
                    row,
                    f"{level + 1}",
                    ha="center",
                    va="center",
                    fontsize=7,
                    color="white" if dark else "black",
                )
    panel.set(yticks=range(len(entries)), ylim=(len(entries) - 0.5, -0.5), xlim=(0, 100))
    panel.set_yticklabels(labels, parse_math=False)
    panel.set_xlabel("share of the distance in %, levels from shallow (1) to deep")
    return figure


def two_afc_against_jnd(triplets: Board, pairs: Board) -> Figure | None:
    """2AFC against JND of the methods that both boards have; None if there are none."""
    precision = {entry.result.method: entry.score[-2] for entry in pairs.entries}
    entries = [entry for entry in triplets.entries if entry.result.method in precision]
    if not entries:
        return None
    figure, (panel,) = _figure(1, 7.5, 5.5, [triplets, pairs])
    points = _scatter(panel, triplets, entries, lambda entry: 100 * precision[entry.result.method], log=False)
    panel.set(xlabel="JND mAP in %, mean", ylabel=_axis(triplets))
    _legend(figure, _colors(entries))
    _label(figure, [panel], [points])
    return figure


def _scatter(
    panel: Axes, board: Board, entries: Sequence[Entry], x_of: Callable[[Entry], float], log: bool = True
) -> list[Point]:
    colors, macro = _colors(board.entries), board.columns.index("mean")
    points = [
        (x_of(entry), 100 * entry.score[macro], name)
        for entry, name in zip(entries, _labels(board, entries), strict=True)
    ]
    for entry, (x, y, _) in zip(entries, points, strict=True):
        color = colors[entry.result.family]
        panel.plot([x, x], [100 * entry.low[macro], 100 * entry.high[macro]], color=color, lw=1, alpha=0.4)
        panel.plot(x, y, "o", color=color, ms=6)
    if log:
        panel.set_xscale("log")
        panel.xaxis.set_major_formatter(EngFormatter(sep=""))
        panel.xaxis.set_minor_formatter(NullFormatter())
    panel.grid(color="#eeeeee")
    panel.margins(x=0.12)
    return points


def _label(figure: Figure, panels: Sequence[Axes], points: Sequence[Sequence[Point]]) -> None:
    """Name each point at the first place around it where the name covers nothing; without one, not at all."""
    figure.draw_without_rendering()
    for panel, named in zip(panels, points, strict=True):
        dots = [panel.transData.transform((x, y)) for x, y, _ in named]
        taken = [Bbox([dot - 5, dot + 5]) for dot in dots]
        for x, y, name in named:
            for dx, dy in _RING:
                text = _name(panel, x, y, name, dx, dy)
                box = text.get_window_extent().padded(3)  # or two names read as one
                inside = panel.bbox.x0 < box.x0 and box.x1 < panel.bbox.x1
                if inside and not any(box.overlaps(other) for other in taken):
                    taken.append(box)
                    break
                text.remove()


def _name(panel: Axes, x: float, y: float, name: str, dx: float, dy: float) -> Annotation:
    far = abs(dx) + abs(dy) > 15
    return panel.annotate(
        name,
        (x, y),
        (dx, dy),
        textcoords="offset points",
        fontsize=7,
        va="center",
        ha="left" if dx > 0 else "right" if dx < 0 else "center",
        arrowprops={"arrowstyle": "-", "color": GREY, "lw": 0.4} if far else None,
        parse_math=False,
    )


def _labels(board: Board, entries: Sequence[Entry]) -> list[str]:
    return short_names([called(board, entry.result) for entry in entries])


def label_width(labels: Sequence[str]) -> float:
    """Inches that labels beside an axis take, so that a figure can be that much wider."""
    return CHARACTER * max(map(len, labels), default=0)


def entitle(figure: Figure, lines: Sequence[str], free: float = 0) -> None:
    """Write a title at the left; of a path only the last folder and the file are shown.

    Args:
        figure: without a title.
        lines: what to write.
        free: inches at the right that stay free.
    """
    across = int((figure.get_figwidth() - free) / 0.09)  # characters of 10 points
    shown = [re.sub(r"\S*/([^/\s]+/[^/\s]+)", r"\1", line) for line in lines]
    title = "\n".join(textwrap.fill(line, across) for line in shown)
    figure.suptitle(title, x=0.01, ha="left", fontsize=10, parse_math=False)


def _figure(columns: int, width: float, height: float, boards: Sequence[Board]) -> tuple[Figure, list[Axes]]:
    figure = Figure((width, height), dpi=150, layout="constrained")
    kinds = [f"{SCORES[board.data.kind].heading}: " if len(boards) > 1 else "" for board in boards]
    lines = [kind + board.data.description for kind, board in zip(kinds, boards, strict=True)]
    entitle(figure, lines, free=LEGEND)
    panels = figure.subplots(1, columns, squeeze=False, sharey=True)[0]
    for panel in panels:
        plain(panel)
    return figure, list(panels)


def height(rows: int) -> float:
    """Inches of a figure with so many lines."""
    return max(2.6, 1.5 + 0.24 * rows)


def _axis(board: Board) -> str:
    return SCORES[board.data.kind].heading + (", mean over subsets" if len(board.data.subsets) > 1 else "")


def _colors(entries: Sequence[Entry]) -> dict[str, Any]:
    families = sorted({entry.result.family for entry in entries})
    if len(families) <= 20:
        palette = mpl.colormaps["tab10" if len(families) <= 10 else "tab20"]
        return {family: palette(i) for i, family in enumerate(families)}
    hues = np.linspace(0, 1, len(families), endpoint=False)
    return {
        family: mpl.colors.hsv_to_rgb((hue, 1 if i % 2 else 0.6, 0.6 if i % 3 else 0.9))
        for i, (family, hue) in enumerate(zip(families, hues, strict=True))
    }


def _legend(figure: Figure, colors: Mapping[str, Any], lines: Sequence[Artist] = ()) -> None:
    handles: list[Artist] = [
        mpl.lines.Line2D([], [], marker="o", ls="", color=color, label=family)
        for family, color in colors.items()
    ]
    figure.legend(handles=[*handles, *lines], loc="outside right upper", fontsize=8, frameon=False)
