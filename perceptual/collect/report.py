"""A report on the quality of votes, in Markdown with pictures."""

from collections import Counter
from collections.abc import Mapping, Sequence
from itertools import groupby
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from perceptual.collect import bradley_terry
from perceptual.collect.quality import Person, Rules, summary, tally
from perceptual.collect.rows import VoteRow
from perceptual.collect.stopping import Count
from perceptual.collect.study import Study
from perceptual.data.contact_sheets import contact_sheet
from perceptual.distance.markdown import escaped

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
        *_facts(study, summary(votes, study.config, excluded)),
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


def _facts(study: Study, facts: dict[str, Any]) -> list[str]:
    first = '"Same" chosen' if study.config.kind == "jnd" else "Left chosen"
    interval = "too few participants for an interval"
    if facts["first_choice_interval"]:
        interval = " to ".join(map(_percent, facts["first_choice_interval"]))
    rows = {
        "Items with votes": f"{facts['items']:,}",
        "Votes": f"{facts['votes']:,}",
        "Participants": f"{facts['participants']:,}",
        "Two people agree (unbiased, items with two votes or more)": _percent(facts["agreement"]),
        f"Same answer when asked again ({facts['repeats']:,} repeats)": _percent(facts["consistency"]),
        f"{first} (95 % interval, by participant)": f"{_percent(facts['first_choice'])} ({interval})",
        "Median response time": f"{facts['median_ms'] / 1000:.2f} s",
        "Votes per hour of work": _per_hour(facts["per_hour"]),
        "Votes on images shown smaller than native": f"{facts['shrunk']:,}",
    }
    if study.config.stop_when_sure:
        rows["Judgments"] = "unbiased under early stopping, see the documentation; not votes over votes"
    return ["| | |", "|---|---|", *(f"| {name} | {value} |" for name, value in rows.items())]


def _excluded(people: Sequence[Person], rules: Rules, votes: int, kept: int) -> list[str]:
    lines = ["## Who is excluded", "", "A participant is left out of the manifest who", ""]
    lines += [f"- {rule}" + (";" if rule != rules.say()[-1] else ".") for rule in rules.say()]
    out = [person for person in people if person.excluded]
    lines += [
        "",
        f"These are {len(out)} of {len(people)} participants, with {votes - kept:,} of {votes:,} votes; "
        "practice, sentinels and repeats included. `votes.csv` has all of them.",
    ]
    if people:
        lines += [
            "",
            "| participant | votes | sentinels missed | median time | first choice | repeats | excluded |",
            "|---|---|---|---|---|---|---|",
        ]
    for one in people:
        median = "–" if one.median_ms is None else f"{one.median_ms / 1000:.2f} s"
        lines.append(
            f"| {escaped(one.participant)} | {one.votes} | {one.missed} of {one.sentinels} | {median} | "
            f"{_percent(one.first_choice)} | {one.consistent} of {one.repeats} | {one.excluded} |"
        )
    return lines


def _interval(one: bradley_terry.Ranked) -> str:
    return "too few references" if np.isnan(one.low) else f"{one.low:+.2f} to {one.high:+.2f}"


def _ranking(study: Study, counts: Mapping[int, Count]) -> list[str]:
    named = [item for item in counts if all(study.items[item].algorithms)]
    if not named or study.config.kind == "jnd":
        return []
    items = [study.items[item] for item in named]
    _, cluster = np.unique([item.images["ref"] for item in items], return_inverse=True)
    first, second = ([item.algorithms[side] for item in items] for side in (0, 1))
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
        lines += ["| algorithm | strength | interval | votes won |", "|---|---|---|---|"]
        lines += [
            f"| {escaped(one.name)} | {one.strength:+.2f} | {_interval(one)} | {one.won:,} of {one.asked:,} |"
            for one in group
        ]
        lines += [""]
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


def _per_hour(value: float | None) -> str:
    return "too little work to say" if value is None else f"{value:,.0f}"


def _percent(value: float | None) -> str:
    return "–" if value is None else f"{value:.1%}"
