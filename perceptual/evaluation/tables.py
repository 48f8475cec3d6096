"""Scores as tables: in the terminal, in Markdown and in HTML."""

import html
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rich import box
from rich.table import Table
from rich.text import Text

from perceptual.distance.saving.markdown import escaped, table_row
from perceptual.evaluation import published
from perceptual.evaluation.board import Board, Entry
from perceptual.evaluation.opinion_protocol import STATISTICS
from perceptual.evaluation.people import ESTIMATED
from perceptual.evaluation.results import Row
from perceptual.evaluation.score_table import ends, estimate, number
from perceptual.metrics import SCORES

TIED = " ≈"  # marks what does not differ significantly from the best
PROTOCOL = (
    "SRCC, KRCC, and PLCC and RMSE after the logistic of four and five parameters, over all images and as "
    "the mean within references, with 95 % intervals (references drawn); RMSE in the unit of the scores."
)
STYLE = (
    "body{font:15px/1.5 system-ui,sans-serif;margin:2em;color:#222}table{border-collapse:collapse}"
    "th,td{padding:.25em .7em;border-bottom:1px solid #ddd;text-align:right}"
    "th:nth-child(2),td:nth-child(2){text-align:left}"
)


def markdown(board: Board) -> str:
    """The leaderboard in Markdown, with what its columns mean below it."""
    rows = [_header(board), *_body(board)]
    lines = ranked(rows)
    more = []
    if protocol := protocol_rows(board):
        more = list(map(table_row, protocol))
        more.insert(1, "|:--" + "|--:" * (len(protocol[0]) - 1) + "|")
        more = ["", *more, "", PROTOCOL]
    return (
        "\n".join([f"### {escaped(_title(board))}", "", *lines, *more, "", *map(escaped, _notes(board))])
        + "\n"
    )


def ranked(rows: Sequence[Sequence[str]]) -> list[str]:
    """Lines of a table in Markdown: a header and rows of a group, a method, and numbers."""
    lines = list(map(table_row, rows))
    return [lines[0], "|--:|:--" + "|--:" * (len(rows[0]) - 2) + "|", *lines[1:]]


def html_table(rows: Sequence[Sequence[str]]) -> str:
    """A table in HTML, of a header and rows."""
    lines = [
        "<tr>" + "".join(f"<{tag}>{html.escape(cell)}</{tag}>" for cell in row) + "</tr>"
        for row, tag in zip(rows, ("th", *["td"] * (len(rows) - 1)), strict=True)
    ]
    return "\n".join(["<table>", *lines, "</table>"])


def terminal(board: Board, rows: int = 20) -> Table:
    """The first rows of a leaderboard of runs, in 80 columns, for the end of a sweep."""
    result = Table(title=Text(_title(board)), box=box.SIMPLE_HEAD, pad_edge=False)
    result.add_column("run", no_wrap=True)
    for key in board.settings:
        result.add_column(key.rpartition(".")[2], overflow="fold", min_width=4)
    for column in (*_scores(board), "95 %", "behind"):
        result.add_column(column, justify="right", no_wrap=True)
    for entry in board.entries[:rows]:
        row = _entry(board, entry)
        result.add_row(*map(Text, row[1 : len(result.columns) + 1]))
    return result


def html_page(boards: Sequence[Board]) -> str:
    """A page with every leaderboard."""
    parts = []
    for board in boards:
        notes = [f"<p>{html.escape(note)}</p>" for note in _notes(board) if note]
        title = html.escape(_title(board))
        parts += [f"<h2>{title}</h2>", html_table([_header(board), *_body(board)])]
        if protocol := protocol_rows(board):
            rows = [[html.escape(cell) for cell in row] for row in protocol]
            parts += ["<table>", *("<tr><td>" + "</td><td>".join(row) + "</td></tr>" for row in rows)]
            parts += ["</table>", f"<p>{html.escape(PROTOCOL)}</p>"]
        parts += notes
    head = f'<meta charset="utf-8"><title>Perceptual distances</title><style>{STYLE}</style>'
    return f"<!doctype html>\n{head}\n" + "\n".join(parts) + "\n"


def protocol_rows(board: Board) -> list[list[str]]:
    """How image-quality studies report opinions: a header, then a row for each method; [] of other kinds."""
    entries = [entry for entry in board.entries if "protocol" in entry.row]
    if not entries:
        return []
    rows = [["method", *(f"{name}, {by}" for name in STATISTICS for by in ("all", "within"))]]
    for entry in entries:
        estimates = [entry.row["protocol"][name][by] for name in STATISTICS for by in ("all", "within")]
        micro = board.columns.index("micro")  # the same statistic has the same interval in both tables
        estimates[0] = [entry.score[micro], entry.low[micro], entry.high[micro]]
        rows.append(
            [
                called(board, entry.row),
                *(estimate(value, low, high, 3) for value, low, high in estimates),
            ]
        )
    return rows


def _title(board: Board) -> str:
    return f"{SCORES[board.data['kind']].heading}, {board.data['name']}"


def _header(board: Board) -> list[str]:
    return [
        "group",
        "method",
        *board.settings,
        *_scores(board),
        "95 % of the mean",
        "behind the best",
        *(["images/s"] if _timed(board) else []),
        "parameters",
    ]


def _scores(board: Board) -> list[str]:
    """Names of the score columns: a mean over one subset says nothing new."""
    return board.data["subsets"] if len(board.data["subsets"]) == 1 else board.columns


def _timed(board: Board) -> bool:
    return any("images_per_second" in entry.row for entry in board.entries)


def _body(board: Board) -> list[list[str]]:
    body = [_entry(board, entry) for entry in board.entries]
    scores = [("–", name, score) for name, score in board.references.items()]
    scores += [("published", name, score) for name, score in published.rows(board.data).items()]
    before = [""] * len(board.settings)
    for group, name, score in scores:
        shown = [number(value) for value in score[: len(_scores(board))]]
        row = [group, name, *before, *shown]
        if name == ESTIMATED and board.ceiling:
            row.append(ends(board.ceiling.low, board.ceiling.high))
        body.append(row + [""] * (len(_header(board)) - len(row)))
    return body


def _entry(board: Board, entry: Entry) -> list[str]:
    macro = board.columns.index("mean")
    behind = f"{ends(*entry.gap)}{TIED if entry.tied else ''}"
    interval = ends(entry.low[macro], entry.high[macro])
    if math.isnan(entry.score[macro]) and not math.isnan(board.entries[0].score[macro]):
        # not for too few references: this distance is constant
        interval, behind = number(math.nan), number(math.nan)
    return [
        str(entry.group or "–"),
        called(board, entry.row),
        *(setting(entry.row.get("settings", {}), key) for key in board.settings),
        *(number(value) for value in entry.score[: len(_scores(board))]),
        interval,
        "" if entry is board.entries[0] else behind,
        *([_speed(entry.row.get("images_per_second"))] if _timed(board) else []),
        _count(entry.row["parameters"]),
    ]


def called(board: Board, row: Row) -> str:
    """What a row is called: a method by its name, a run by its place in the folder of all."""
    if board.folder is None or "settings" not in row:
        return str(row["method"])
    name = str(Path(row["method"]).relative_to(board.folder))
    return f"{name} (mean of {row['seeds']} seeds)" if row.get("seeds", 1) > 1 else name


def setting(settings: Mapping[str, Any], key: str) -> str:
    """A setting as it is written on the command line; empty where a run has no such setting."""
    if key not in settings:
        return ""
    value = settings[key]
    return "null" if value is None else f"{value:g}" if isinstance(value, float) else f"{value}"


def best_setting(board: Board) -> str | None:
    """In one sentence, which training run was best, by how much, and whether that is more than chance.

    None where the rows are no runs, or there is but one.
    """
    entries = [entry for entry in board.entries if "settings" in entry.row]
    if len(entries) < 2 or len(entries) < len(board.entries):
        return None
    macro = board.columns.index("mean")
    best, second = entries[:2]
    low, high = (100 * bound for bound in second.gap)
    top, ahead = 100 * best.score[macro], 100 * (best.score[macro] - second.score[macro])
    several = any(entry.row.get("seeds", 1) > 1 for entry in entries)
    words = (
        f"Best of {len(entries)} {'settings' if several else 'runs'} in {_here(board.folder)}: "
        f"{_named(board, best)}, {top:.1f} %"
    )
    if board.picked:
        expected, least, most = (100 * value for value in board.picked)
        words += f"; {expected:.1f} % (95 % interval {least:.1f} to {most:.1f}) corrected for the choice"
    words += (
        f". The runner-up, {_named(board, second)}, is {ahead:.2f} behind "
        f"(95 % interval {low:.2f} to {high:.2f})"
    )
    tied = sum(entry.tied for entry in entries[1:])
    if not tied:
        return f"{words}: the best is better than every other run on these items."
    others, verb = ("1 other run", "does") if tied == 1 else (f"{tied} other runs", "do")
    return f"{words}: {others} {verb} not differ significantly from the best on these items."


def _named(board: Board, entry: Entry) -> str:
    chosen = [f"{key}={setting(entry.row['settings'], key)}" for key in board.settings]
    return f"{called(board, entry.row)} ({' '.join(chosen) or 'the same settings'})"


def _here(folder: Path | None) -> str:
    """A folder as the user would write it."""
    here = Path.cwd()
    return f"{folder.relative_to(here) if folder and folder.is_relative_to(here) else folder}"


def _speed(images_per_second: float | None) -> str:
    return "" if images_per_second is None else f"{images_per_second:,.0f}"


def _count(number: int) -> str:
    return f"{number / 1e6:.1f} M" if number >= 1e5 else f"{number:,}"


def resolution(size: int | str) -> str:
    """As rows say it: a side of squares, or how images keep their shapes."""
    if isinstance(size, int):
        return f"images {size}×{size}"
    return "images in their own sizes" if size == "native" else f"images resized to a {size}"


def _notes(board: Board) -> list[str]:
    drawn = "references, each with all its items (references recur)" if board.recurring else "items"
    notes = [
        f"{board.data['description']}; {resolution(board.data['size'])}. "
        f"Intervals: 95 %, paired bootstrap over {drawn}. "
        "A new group begins where a method is significantly worse than the first of the group above. “Behind "
        f"the best” is the interval of the difference to the first row;{TIED} marks methods that do not "
        "differ significantly from it. Mean is over subsets, micro over items.",
    ]
    macro = board.columns.index("mean")
    few = [name for i, name in enumerate(board.columns) if math.isnan(board.entries[0].low[i])]
    if few:
        notes.append(
            f"Too few references to say how far chance goes: {', '.join(few)}. "
            + ("Without an interval of the mean there are no groups." if board.columns[macro] in few else "")
        )
    if best := best_setting(board):
        notes = [
            best,
            "",
            "The best of many runs is an optimistic number; the corrected one is what others would give.",
            "",
            *notes,
        ]
    if board.ceiling:
        _, lower, upper = (100 * value for value in board.ceiling.value)
        notes += [
            "",
            "The estimated ceiling is the best mean that any distance can have, see the documentation of "
            f"evaluation; few votes per item leave open {lower:.1f} to {upper:.1f}. The raw one takes the "
            "votes for the truth and is too high.",
        ]
    if published.rows(board.data):
        notes += ["", "Published rows are from Zhang et al. 2018, Table 5; they were not measured here."]
    if board.failed:
        notes += [
            "",
            "Not scored: " + "; ".join(f"{called(board, row)} ({row['error']})" for row in board.failed),
        ]
    return notes
