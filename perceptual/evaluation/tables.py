"""Tables in the terminal, in Markdown and in HTML, and how numbers and names are written in them."""

import html
import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from rich import box
from rich.console import Console, ConsoleOptions, Group, RenderResult
from rich.table import Table as RichTable
from rich.text import Text

from perceptual.distance.saving.markdown import escaped, table_row
from perceptual.evaluation.scoring import JND
from perceptual.metrics import SCORES

NARROWEST, GAP = 12, 2  # characters of a name, and between columns, in a terminal
LABEL = 40  # characters of a name in a picture: a date, a time and `checkpoints/last.ckpt` fit
TOO_FEW = "too few"
TIED = " ≈"  # marks what does not differ significantly from the best
STYLE = (
    "body{font:15px/1.5 system-ui,sans-serif;margin:2em;color:#222}table{border-collapse:collapse}"
    "th,td{padding:.25em .7em;border-bottom:1px solid #ddd;text-align:right}"
    ".name{text-align:left}"
)


@dataclass
class Table:
    """A table of methods; printed by rich, it fits the width of the terminal.

    There no name or number is broken across lines: headings are cut before names, names down to
    `NARROWEST`, numbers never.
    """

    title: str | None
    header: Sequence[str]
    rows: Sequence[Sequence[str]]
    notes: Sequence[str] = ()
    """Paragraphs below it; a terminal does not show them."""
    name: int = 0
    """The column of names. What stands before it ranks them; a terminal leaves it out."""
    words: int = 1
    """How many columns are of words, from the names on; all others are of numbers."""
    narrow: int | None = None
    """How many columns a terminal shows at most."""

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        header, *rows = [row[self.name : self.narrow] for row in (self.header, *self.rows)]
        numbers = range(1, len(header))
        cells = [max((len(row[i]) for row in rows), default=0) for i in range(len(header))]
        space = options.max_width - sum(cells[i] + GAP for i in numbers)
        width = min(max(cells[0], len(header[0])), max(space, NARROWEST))
        heading = (options.max_width - width) // max(len(numbers), 1) - GAP
        result = RichTable(
            title=self.title and Text(self.title),
            box=box.SIMPLE_HEAD,
            padding=(0, 1, 0, 0),
            pad_edge=False,
            show_edge=False,
        )
        result.add_column(Text(_cut(header[0], width)), no_wrap=True, min_width=width)
        for i in numbers:
            if i < self.words:
                result.add_column(Text(header[i]), overflow="fold", min_width=4)
                continue
            most = max(cells[i], heading)
            shown = Text(header[i] if len(header[i]) <= most else f"{header[i][: most - 1]}…")
            result.add_column(shown, justify="right", no_wrap=True, min_width=len(shown))
        for row in rows:
            result.add_row(Text(_cut(row[0], width)), *map(Text, row[1:]))
        yield result


def markdown(*tables: Table) -> str:
    """Tables in Markdown, each with its notes below it."""
    parts = []
    for table in tables:
        aligned = ["--:"] * len(table.header)
        aligned[table.name] = ":--"
        lines = [table_row(table.header), f"|{'|'.join(aligned)}|", *map(table_row, table.rows)]
        title = [f"### {escaped(table.title)}"] if table.title else []
        parts += [*title, "\n".join(lines), *map(escaped, table.notes)]
    return "\n\n".join(parts) + "\n"


def html_page(*tables: Table) -> str:
    """A page of tables in HTML, each with its notes below it."""
    parts = []
    for table in tables:
        parts += [f"<h2>{html.escape(table.title)}</h2>"] if table.title else []
        parts.append("<table>")
        for number, row in enumerate((table.header, *table.rows)):
            tag = "td" if number else "th"
            classes = [' class="name"' if i == table.name else "" for i in range(len(row))]
            cells = [f"<{tag}{of}>{html.escape(cell)}</{tag}>" for of, cell in zip(classes, row, strict=True)]
            parts.append(f"<tr>{''.join(cells)}</tr>")
        parts += ["</table>", *(f"<p>{html.escape(note)}</p>" for note in table.notes)]
    head = f'<meta charset="utf-8"><title>Perceptual distances</title><style>{STYLE}</style>'
    return f"<!doctype html>\n{head}\n" + "\n".join(parts) + "\n"


def score_table(
    scores: Mapping[str, Mapping[str, float]], title: str | None = None, header: str = "2AFC in %"
) -> Table:
    """Scores in percent: one row per method, one column per subset, then the macro mean and the micro mean.

    Args:
        scores: by method and subset, fractions in [0, 1], all with the same subsets (see `score`).
        title: shown above.
        header: of the column of names: what the scores are.
    """
    columns = list(next(iter(scores.values()), {}))
    rows = [[name, *(number(values[column]) for column in columns)] for name, values in scores.items()]
    return Table(title, [header, *columns], rows)


def score_tables(
    scores: Mapping[str, Mapping[str, float]], kind: str = "2afc", title: str | None = None
) -> Group:
    """What `score` gives, as a table of scores of one kind and, where there are some, one of JND below it."""
    kinds: dict[str, dict[str, dict[str, float]]] = {kind: {}, "jnd": {}}
    for name, values in scores.items():
        for column, value in values.items():
            of = "jnd" if column.startswith(JND) else kind
            kinds[of].setdefault(name, {})[column.removeprefix(JND)] = value
    return Group(
        *(
            score_table(part, title if of == kind else None, SCORES[of].heading)
            for of, part in kinds.items()
            if part
        )
    )


def number(value: float) -> str:
    """A score in [0, 1] or a correlation as tables show it, × 100; a dash where there is none."""
    return "–" if math.isnan(value) else f"{100 * value:.1f}"


def interval(low: float, high: float) -> str:
    """An interval as tables show it, × 100; "too few" where too few references are known to say one."""
    return TOO_FEW if math.isnan(low) else f"{100 * low:.1f} – {100 * high:.1f}"


def estimate(numbers: Sequence[float], digits: int = 1, factor: float = 100) -> str:
    """A number with its interval, "too few" in its place as above; a dash where there is no number."""
    value, low, high = (factor * part for part in numbers)
    if math.isnan(value):
        return "–"
    ends = TOO_FEW if math.isnan(low) else f"{low:.{digits}f} – {high:.{digits}f}"
    return f"{value:.{digits}f} ({ends})"


def resolution(size: int | str) -> str:
    """The size of images in words: a side of squares, or how images keep their shapes."""
    if isinstance(size, int):
        return f"images {size}×{size}"
    return "images in their own sizes" if size == "native" else f"images resized to a {size}"


def short_names(names: Sequence[str], width: int = LABEL) -> list[str]:
    """Shorten names for a picture, so that those that differ still do.

    Of a path the last folders stay, else the beginning and the end, else the part where the names differ.
    """
    long = [name for name in names if len(name) > width]
    begin = len(os.path.commonprefix(long))  # noqa: RUF071, of characters
    for way in (_last_folders, _cut, lambda name, width: _cut(f"…{name[begin:]}", width)):
        short = [way(name, width) if name in long else name for name in names]
        if len(set(short)) == len(set(names)):
            return short
    return list(names)


def _last_folders(path: str, width: int) -> str:
    parts = path.split("/") if ":" not in path else [path]
    ends = (f"…/{'/'.join(parts[start:])}" for start in range(1, len(parts)))
    return next((end for end in ends if len(end) <= width), _cut(path, width))


def _cut(text: str, width: int) -> str:
    """A text in so many characters; what differs between names is often at their ends, so the middle goes."""
    if len(text) <= width:
        return text
    end = (width - 1) // 2
    return f"{text[: width - 1 - end]}…{text[len(text) - end :]}"
