"""Scores as a table in the terminal."""

import math
import os
from collections.abc import Mapping, Sequence

from rich import box
from rich.console import Console, ConsoleOptions, Group, RenderResult
from rich.table import Table
from rich.text import Text

from perceptual.evaluation.scoring import JND
from perceptual.metrics import SCORES

NARROWEST, NUMBER, GAP = 12, 5, 2  # characters of a name, a number, and between columns
LABEL = 40  # characters of a name in a picture: a date, a time and `checkpoints/last.ckpt` fit


TOO_FEW = "too few"


def number(value: float) -> str:
    """A score in [0, 1] or a correlation as tables show it, × 100; a dash where there is none."""
    return "–" if math.isnan(value) else f"{100 * value:.1f}"


def ends(low: float, high: float) -> str:
    """An interval as tables show it, × 100; "too few" where too few references are known to say one."""
    return TOO_FEW if math.isnan(low) else f"{100 * low:.1f} – {100 * high:.1f}"


def estimate(value: float, low: float, high: float, digits: int) -> str:
    """A number with its interval, "too few" in its place as in `ends`; a dash where there is no number."""
    if math.isnan(value):
        return "–"
    interval = TOO_FEW if math.isnan(low) else f"{low:.{digits}f} – {high:.{digits}f}"
    return f"{value:.{digits}f} ({interval})"


class ScoreTable:
    """Scores in percent, fitted to the width of the console: no name or number is broken across lines.

    Headings are cut before names, names down to `NARROWEST`; numbers never.
    """

    def __init__(self, scores: Mapping[str, Mapping[str, float]], title: str | None, header: str) -> None:
        self.scores, self.title, self.header = scores, title, header

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        columns = list(next(iter(self.scores.values()), {}))
        longest = max(map(len, [self.header, *self.scores]))
        space = options.max_width - (NUMBER + GAP) * len(columns)
        width = min(longest, max(space, NARROWEST))
        heading = max(NUMBER, (options.max_width - width) // max(len(columns), 1) - GAP)
        result = Table(
            title=self.title and Text(self.title),
            box=box.SIMPLE_HEAD,
            padding=(0, 1, 0, 0),
            pad_edge=False,
            show_edge=False,
        )
        result.add_column(Text(_cut(self.header, width)), no_wrap=True, min_width=width)
        for column in columns:
            shown = Text(column if len(column) <= heading else f"{column[: heading - 1]}…")
            result.add_column(shown, justify="right", no_wrap=True, min_width=len(shown))
        for name, values in self.scores.items():
            result.add_row(Text(_cut(name, width)), *(number(values[column]) for column in columns))
        yield result


def table(
    scores: Mapping[str, Mapping[str, float]], title: str | None = None, header: str = "2AFC in %"
) -> ScoreTable:
    """Scores in percent: one row per method, one column per subset, then the macro mean and the micro mean.

    Args:
        scores: by method and subset, fractions in [0, 1], all with the same subsets (see `score`).
        title: shown above.
        header: of the column of names: what the scores are.
    """
    return ScoreTable(scores, title, header)


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


def tables(scores: Mapping[str, Mapping[str, float]], title: str | None = None) -> Group:
    """What `score` gives, as a `table` of 2AFC scores and, where there are some, one of JND below it."""
    kinds: dict[str, dict[str, dict[str, float]]] = {"2afc": {}, "jnd": {}}
    for name, values in scores.items():
        for column, value in values.items():
            kind = "jnd" if column.startswith(JND) else "2afc"
            kinds[kind].setdefault(name, {})[column.removeprefix(JND)] = value
    titles = {"2afc": title, "jnd": None}
    return Group(*(table(part, titles[kind], SCORES[kind].heading) for kind, part in kinds.items() if part))
