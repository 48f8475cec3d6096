"""Scores as tables: in the terminal, in Markdown and in HTML."""

import html
from collections.abc import Mapping, Sequence

from rich import box
from rich.console import Group
from rich.table import Table

from perceptual.leaderboard import published
from perceptual.leaderboard.board import Board, Entry
from perceptual.leaderboard.score import JND

NAMES = {"2afc": "2AFC in %", "jnd": "JND mAP in %", "dmos": "SRCC × 100"}
STYLE = (
    "body{font:15px/1.5 system-ui,sans-serif;margin:2em;color:#222}table{border-collapse:collapse}"
    "th,td{padding:.25em .7em;border-bottom:1px solid #ddd;text-align:right}"
    "th:nth-child(2),td:nth-child(2){text-align:left}"
)


def table(
    scores: Mapping[str, Mapping[str, float]], title: str | None = None, header: str = "2AFC in %"
) -> Table:
    """Scores in percent: a row a method, a column a subset, then the macro mean and the micro mean.

    Args:
        scores: by method and subset, fractions in [0, 1], all with the same subsets (see `score`).
        title: shown above.
        header: of the column of names: what the scores are.
    """
    columns = list(next(iter(scores.values()), {}))
    result = Table(title=title, box=box.SIMPLE_HEAD, pad_edge=False)
    # in a narrow terminal headings and paths fold, numbers stay whole
    result.add_column(header, overflow="fold", min_width=12)
    for column in columns:
        result.add_column(column, justify="right", overflow="fold", min_width=4)
    for name, values in scores.items():
        result.add_row(name, *(f"{100 * values[column]:.1f}" for column in columns))
    return result


def tables(scores: Mapping[str, Mapping[str, float]], title: str | None = None) -> Group:
    """What `score` gives, as a `table` of 2AFC scores and, where there are some, one of JND below it."""
    kinds: dict[str, dict[str, dict[str, float]]] = {"2afc": {}, "jnd": {}}
    for name, values in scores.items():
        for column, value in values.items():
            kind = "jnd" if column.startswith(JND) else "2afc"
            kinds[kind].setdefault(name, {})[column.removeprefix(JND)] = value
    titles = {"2afc": title, "jnd": None}
    return Group(*(table(part, titles[kind], NAMES[kind]) for kind, part in kinds.items() if part))


def markdown(board: Board) -> str:
    """The leaderboard in Markdown, with what its columns mean below it."""
    rows = [_header(board), *_body(board)]
    lines = ["| " + " | ".join(row) + " |" for row in rows]
    lines.insert(1, "|--:|:--" + "|--:" * (len(rows[0]) - 2) + "|")
    return "\n".join([f"### {_title(board)}", "", *lines, "", *_notes(board)]) + "\n"


def html_page(boards: Sequence[Board]) -> str:
    """A page with every leaderboard."""
    parts = []
    for board in boards:
        header = "".join(f"<th>{html.escape(cell)}</th>" for cell in _header(board))
        body = [
            "<tr>" + "".join(f"<td>{html.escape(cell)}</td>" for cell in row) + "</tr>"
            for row in _body(board)
        ]
        notes = [f"<p>{html.escape(note)}</p>" for note in _notes(board) if note]
        title = html.escape(_title(board))
        parts += [f"<h2>{title}</h2>\n<table>\n<tr>{header}</tr>", *body, "</table>", *notes]
    head = f'<meta charset="utf-8"><title>Perceptual distances</title><style>{STYLE}</style>'
    return f"<!doctype html>\n{head}\n" + "\n".join(parts) + "\n"


def _title(board: Board) -> str:
    return f"{NAMES[board.data['kind']]}, {board.data['name']}"


def _header(board: Board) -> list[str]:
    single = len(board.data["subsets"]) == 1
    columns = board.data["subsets"] if single else board.columns
    return ["group", "method", *columns, "95 % of the mean", "behind the best", "images/s", "parameters"]


def _body(board: Board) -> list[list[str]]:
    body = [_entry(board, entry) for entry in board.entries]
    scores = [("–", name, score) for name, score in board.references.items()]
    scores += [("published", name, score) for name, score in published.rows(board.data).items()]
    width = len(_header(board)) - 2
    for group, name, score in scores:
        shown = [f"{100 * value:.1f}" for value in score[: len(_header(board)) - 6]]
        body.append([group, name, *shown, *[""] * (width - len(shown))])
    return body


def _entry(board: Board, entry: Entry) -> list[str]:
    macro = board.columns.index("mean")
    shown = len(_header(board)) - 6
    low, high = (100 * bound for bound in entry.gap)
    return [
        str(entry.group),
        f"{entry.row['method']}",
        *(f"{100 * value:.1f}" for value in entry.score[:shown]),
        f"{100 * entry.low[macro]:.1f} – {100 * entry.high[macro]:.1f}",
        "" if entry is board.entries[0] else f"{low:.1f} – {high:.1f}",
        f"{entry.row['images_per_second']:,.0f}",
        _count(entry.row["parameters"]),
    ]


def _count(number: int) -> str:
    return f"{number / 1e6:.1f} M" if number >= 1e5 else f"{number:,}"


def _notes(board: Board) -> list[str]:
    drawn = "references, each with all its items (references recur)" if board.recurring else "items"
    notes = [
        f"{board.data['description']}; images {board.data['size']}×{board.data['size']}. "
        f"Intervals: 95 %, paired bootstrap over {drawn}. "
        "Methods of one group cannot be told from the group's best; “behind the best” is the interval of the "
        "difference to the first row. Mean is over subsets, micro over items.",
    ]
    if published.rows(board.data):
        notes += ["", "Published rows are from Zhang et al. 2018, Table 5; they were not measured here."]
    if board.failed:
        notes += ["", "Not scored: " + "; ".join(f"{row['method']} ({row['error']})" for row in board.failed)]
    return notes
