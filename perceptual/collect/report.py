"""A report on the quality of votes, in Markdown with pictures."""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from itertools import groupby
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from perceptual.collect import bradley_terry
from perceptual.collect.quality import Person, Rules, facts, summary, tally
from perceptual.collect.stopping import Count
from perceptual.collect.study import Study
from perceptual.collect.votes import VoteRow
from perceptual.data.contact_sheets import contact_sheet
from perceptual.distance.saving.markdown import escaped, table_row

SHEET, PICTURE = "items.png", "votes.png"
_BAR = "#4878a8"


def write_report(
    folder: Path,
    study: Study,
    votes: Sequence[VoteRow],
    people: Sequence[Person],
    rules: Rules,
) -> None:
    """Write `report.md`, `votes.png` and `items.png` beside the manifest.

    Args:
        folder: of the export, with `manifest.csv`.
        study: the study.
        votes: all of them.
        people: the participants with votes on items, assessed.
        rules: by which they were.
    """
    excluded = {person.participant for person in people if person.excluded}
    counts = tally(votes, study.config, excluded)
    kept = [vote for vote in votes if vote.participant not in excluded]
    _draw(folder / PICTURE, counts, kept, people)
    contact_sheet(folder / "manifest.csv", 24, 0).save(folder / SHEET)
    lines = [
        f"# {escaped(study.config.title)}: quality of the votes",
        "",
        *_facts(study, votes, excluded),
        "",
        f"![Votes per item, response times and sentinels]({PICTURE})",
        "",
        f"![Some items with their votes]({SHEET})",
        "",
        *_excluded(people, rules, len(votes), len(kept)),
        "",
        *_ranking(study, counts),
    ]
    (folder / "report.md").write_text("\n".join(lines), "utf-8")


def _facts(study: Study, votes: Sequence[VoteRow], excluded: set[int]) -> list[str]:
    found = summary(votes, study.config, excluded)
    rows = {
        "Items with votes": f"{found['items']:,}",
        "Votes": f"{found['votes']:,}",
        "Participants": f"{found['participants']:,}",
    }
    rows |= facts(found, study.config)
    if study.config.stop_when_sure:
        rows["Judgments"] = "unbiased under early stopping, see the documentation; not votes over votes"
    return _table(("", ""), rows.items())


def _table(columns: Iterable[str], rows: Iterable[Iterable[object]]) -> list[str]:
    names = [*columns]
    return [table_row(names), "|---" * len(names) + "|", *map(table_row, rows)]


def _excluded(people: Sequence[Person], rules: Rules, votes: int, kept: int) -> list[str]:
    out = [person for person in people if person.excluded]
    cells = [person.cells() for person in people]
    return [
        "## Who is excluded",
        "",
        "A participant is left out of the manifest who",
        "",
        ";\n".join(f"- {rule}" for rule in rules.say()) + ".",
        "",
        f"These are {len(out)} of {len(people)} participants, with {votes - kept:,} of {votes:,} votes; "
        "practice, sentinels and repeats included. `votes.csv` has all of them.",
        "",
        *(_table(cells[0], (one.values() for one in cells)) if cells else ()),
    ]


def _ranking(study: Study, counts: Mapping[int, Count]) -> list[str]:
    kind = study.config.asked.kind
    named = [item for item in counts if all(study.items[item].algorithms)]
    if not named or kind.exchanged is None:
        return []
    items = [study.items[item] for item in named]
    _, cluster = np.unique([item.images[kind.roles[0]] for item in items], return_inverse=True)
    first, second = zip(*(item.algorithms for item in items), strict=True)
    ranked = bradley_terry.rank(first, second, [counts[item] for item in named], cluster)
    lines = [
        "## Algorithms",
        "",
        "Strengths by Bradley and Terry's model, as log-odds against the average; all items weigh the same. "
        "The fit uses Jeffreys' prior, which takes away the bias of few votes and is worth one vote less "
        "than there are algorithms. The 95 % intervals take references as independent.",
        "",
    ]
    if any(one.group for one in ranked):
        lines += [
            "Algorithms of different tables were never compared, not even by way of others: strengths are "
            "against the average of one table.",
            "",
        ]
    for _, group in groupby(ranked, key=lambda one: one.group):
        rows = (
            (
                one.name,
                f"{one.strength:+.2f}",
                "too few references" if np.isnan(one.low) else f"{one.low:+.2f} to {one.high:+.2f}",
                f"{one.won:,} of {one.asked:,}",
            )
            for one in group
        )
        lines += [*_table(("algorithm", "strength", "interval", "votes won"), rows), ""]
    return lines


def _draw(path: Path, counts: Mapping[int, Count], kept: Sequence[VoteRow], people: Sequence[Person]) -> None:
    figure = Figure(figsize=(11, 3), layout="constrained")
    per_item, times, missed = figure.subplots(1, 3)
    _bars(per_item, Counter(one.n for one in counts.values()), "Votes per item", "Items")
    seconds = np.array([vote.response_ms for vote in kept if vote.counts]) / 1000
    times.hist(np.clip(seconds, 0.05, 60), np.geomspace(0.05, 60, 30), color=_BAR)
    times.set(xscale="log", title="Response time", xlabel="Seconds", ylabel="Votes")
    _bars(missed, Counter(one.missed for one in people), "Sentinels missed", "Participants")
    figure.savefig(path, dpi=120)


def _bars(axes: Any, counts: Counter[int], title: str, label: str) -> None:
    axes.bar(list(counts), list(counts.values()), color=_BAR)
    axes.set(title=title, ylabel=label, xticks=sorted(counts))
