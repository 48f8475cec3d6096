"""A leaderboard as tables: every method's scores with intervals, people beside them, and notes."""

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from perceptual.evaluation import published
from perceptual.evaluation.board import Board, Entry
from perceptual.evaluation.opinion_protocol import STATISTICS
from perceptual.evaluation.results import Result
from perceptual.evaluation.tables import TIED, Table, estimate, interval, number, resolution
from perceptual.metrics import SCORES
from perceptual.metrics.kinds import ESTIMATED

PROTOCOL = (
    "SRCC, KRCC, and PLCC and RMSE after the logistic of four and five parameters, over all images and as "
    "the mean within references, with 95 % intervals (references drawn); RMSE in the unit of the scores."
)


def leaderboard(board: Board) -> list[Table]:
    """The leaderboard with notes; of opinions, below it, how image-quality studies report them."""
    columns = _columns(board)
    header = ["group", "method", *board.settings, *columns, "95 % of the mean", "behind the best"]
    timed = [entry.result.images_per_second for entry in board.entries]
    cost = [*(["images/s"] if any(timed) else []), "parameters"]
    rows = [[*_entry(board, entry), *_cost(entry.result)[-len(cost) :]] for entry in board.entries]
    scores = [("–", name, score) for name, score in board.references.items()]
    scores += [("published", name, score) for name, score in published.rows(board.data).items()]
    for group, name, score in scores:
        row = [group, name, *[""] * len(board.settings), *map(number, score[: len(columns)])]
        if name == ESTIMATED and board.ceiling:
            row.append(interval(board.ceiling.low, board.ceiling.high))
        rows.append(row + [""] * (len(header) + len(cost) - len(row)))
    title = f"{SCORES[board.data.kind].heading}, {board.data.name}"
    words = 1 + len(board.settings)
    shown = Table(title, header + cost, rows, _notes(board), 1, words, len(header))
    below = protocol_rows(board)
    return [shown, *([Table(None, below[0], below[1:], [PROTOCOL])] if below else [])]


def of_sweep(board: Board, rows: int = 20) -> Table:
    """The first rows of a leaderboard of runs, for the end of a sweep."""
    table = leaderboard(board)[0]
    settings = [key.rpartition(".")[2] for key in board.settings]
    header = ["group", "run", *settings, *_columns(board), "95 %", "behind"]
    return Table(
        table.title,
        header,
        [row[: len(header)] for row in table.rows[: len(board.entries)][:rows]],
        (),
        1,
        table.words,
    )


def protocol_rows(board: Board) -> list[list[str]]:
    """How image-quality studies report opinions: a header, then a row for each method; [] of other kinds."""
    entries = [entry for entry in board.entries if entry.result.protocol]
    if not entries:
        return []
    rows = [["method", *(f"{name}, {by}" for name in STATISTICS for by in ("all", "within"))]]
    for entry in entries:
        estimates = [entry.result.protocol[name][by] for name in STATISTICS for by in ("all", "within")]
        micro = board.columns.index("micro")  # the same statistic has the same interval in both tables
        estimates[0] = [entry.score[micro], entry.low[micro], entry.high[micro]]
        rows.append(
            [
                called(board, entry.result),
                *(estimate(numbers, 3, 1) for numbers in estimates),
            ]
        )
    return rows


def _columns(board: Board) -> list[str]:
    """Names of the score columns: a mean over one subset says nothing new."""
    return board.data.subsets if len(board.data.subsets) == 1 else board.columns


def _entry(board: Board, entry: Entry) -> list[str]:
    macro = board.columns.index("mean")
    behind = f"{interval(*entry.gap)}{TIED if entry.tied else ''}"
    ends = interval(entry.low[macro], entry.high[macro])
    if math.isnan(entry.score[macro]) and not math.isnan(board.entries[0].score[macro]):
        # not for too few references: this distance is constant
        ends = behind = number(math.nan)
    return [
        str(entry.group or "–"),
        called(board, entry.result),
        *(setting(entry.result.settings or {}, key) for key in board.settings),
        *map(number, entry.score[: len(_columns(board))]),
        ends,
        "" if entry is board.entries[0] else behind,
    ]


def _cost(result: Result) -> list[str]:
    """Images per second, and parameters."""
    speed, count = result.images_per_second, result.parameters
    return [
        "" if speed is None else f"{speed:,.0f}",
        f"{count / 1e6:.1f} M" if count >= 1e5 else f"{count:,}",
    ]


def called(board: Board, result: Result) -> str:
    """Name a row: a method by its name, a run by its place in the folder of all."""
    if board.folder is None or result.settings is None:
        return result.method
    name = str(Path(result.method).relative_to(board.folder))
    return f"{name} (mean of {result.seeds} seeds)" if result.seeds > 1 else name


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
    entries = [entry for entry in board.entries if entry.result.settings is not None]
    if len(entries) < 2 or len(entries) < len(board.entries):
        return None
    macro = board.columns.index("mean")
    best, second = entries[:2]
    low, high = (100 * bound for bound in second.gap)
    top, ahead = 100 * best.score[macro], 100 * (best.score[macro] - second.score[macro])
    several = any(entry.result.seeds > 1 for entry in entries)
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
    chosen = [f"{key}={setting(entry.result.settings or {}, key)}" for key in board.settings]
    return f"{called(board, entry.result)} ({' '.join(chosen) or 'the same settings'})"


def _here(folder: Path | None) -> str:
    """A folder as the user would write it."""
    here = Path.cwd()
    return f"{folder.relative_to(here) if folder and folder.is_relative_to(here) else folder}"


def _notes(board: Board) -> list[str]:
    drawn = "references, each with all its items (references recur)" if board.recurring else "items"
    notes = [
        f"{board.data.description}; {resolution(board.data.size)}. "
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
        luck = "The best of many runs is an optimistic number; the corrected one is what others would give."
        notes = [best, luck, *notes]
    if board.ceiling:
        _, lower, upper = (100 * value for value in board.ceiling.value)
        notes.append(
            "The estimated ceiling is the best mean that any distance can have, see the documentation of "
            f"evaluation; few votes per item leave open {lower:.1f} to {upper:.1f}, and its interval counts "
            "few references too. The raw one takes the votes for the truth and is too high."
        )
    if published.rows(board.data):
        notes.append("Published rows are from Zhang et al. 2018, Table 5; they were not measured here.")
    if board.failed:
        reasons = [f"{called(board, failure)} ({failure.error})" for failure in board.failed]
        notes.append(f"Not scored: {'; '.join(reasons)}")
    return notes
