"""A report on the quality of votes, in Markdown with pictures."""

from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from perceptual.collect import bradley_terry
from perceptual.collect.quality import Person, Rules, summary, tally
from perceptual.collect.rows import VoteRow
from perceptual.collect.study import Study
from perceptual.data.contact_sheets import contact_sheet
from perceptual.distance.markdown import escaped

SHEET, PICTURE = "items.png", "votes.png"
_BAR = "#4878a8"


def write_report(
    folder: Path,
    study: Study,
    votes: Sequence[VoteRow],
    kept: Sequence[VoteRow],
    people: Sequence[Person],
    rules: Rules,
) -> None:
    """Write `report.md`, `votes.png` and `items.png` beside the manifest.

    Args:
        folder: of the export, with `manifest.csv`.
        study: the study.
        votes: all of them.
        kept: those that count for the manifest.
        people: the participants, assessed.
        rules: by which they were.
    """
    _draw(folder / PICTURE, kept, people)
    contact_sheet(folder / "manifest.csv", 24, 0).save(folder / SHEET)
    lines = [
        f"# {escaped(study.config.title)}: quality of the votes",
        "",
        *_facts(study, kept),
        "",
        f"![Votes per item, response times and sentinels]({PICTURE})",
        "",
        f"![Some items with their votes]({SHEET})",
        "",
        *_excluded(people, rules, len(votes), len(kept)),
        "",
        *_ranking(study, kept),
    ]
    (folder / "report.md").write_text("\n".join(lines), "utf-8")


def _facts(study: Study, kept: Sequence[VoteRow]) -> list[str]:
    facts = summary(kept)
    first = '"Same" chosen' if study.config.kind == "jnd" else "Left chosen"
    interval = "too few participants for an interval"
    if facts["first_choice_interval"]:
        interval = " to ".join(map(_percent, facts["first_choice_interval"]))
    rows = {
        "Items with votes": f"{facts['items']:,}",
        "Votes": f"{facts['votes']:,}",
        "Participants": f"{len({vote.participant for vote in kept}):,}",
        "Two people agree (unbiased, items with two votes or more)": _percent(facts["agreement"]),
        f"Same answer when asked again ({facts['repeats']:,} repeats)": _percent(facts["consistency"]),
        f"{first} (95 % interval, by participant)": f"{_percent(facts['first_choice'])} ({interval})",
        "Median response time": f"{facts['median_ms'] / 1000:.2f} s",
        "Votes per hour of work": f"{facts['per_hour']:.0f}" if facts["per_hour"] else "–",
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


def _ranking(study: Study, kept: Sequence[VoteRow]) -> list[str]:
    counts = tally(kept)
    named = [item for item in counts if all(study.items[item].algorithms)]
    if not named or study.config.kind == "jnd":
        return []
    items = [study.items[item] for item in named]
    n, k = np.array([counts[item] for item in named], float).T
    _, cluster = np.unique([item.images["ref"] for item in items], return_inverse=True)
    first, second = ([item.algorithms[side] for item in items] for side in (0, 1))
    ranked = bradley_terry.rank(first, second, n, k, cluster)
    return [
        "## Algorithms",
        "",
        "Strengths by Bradley and Terry's model, as log-odds against the average, with 95 % intervals by "
        "drawing references.",
        "",
        "| algorithm | strength | interval | votes won |",
        "|---|---|---|---|",
        *(
            f"| {escaped(one.name)} | {one.strength:+.2f} | {_interval(one)} | "
            f"{one.won:.0f} of {one.asked:.0f} |"
            for one in ranked
        ),
        "",
    ]


def _draw(path: Path, kept: Sequence[VoteRow], people: Sequence[Person]) -> None:
    figure = Figure(figsize=(11, 3), layout="constrained")
    per_item, times, missed = figure.subplots(1, 3)
    counts = Counter(n for n, _ in tally(kept).values())
    _bars(per_item, counts, "Votes per item", "Items")
    seconds = np.array([vote.response_ms for vote in kept if vote.counts]) / 1000
    times.hist(np.clip(seconds, 0.05, 60), np.geomspace(0.05, 60, 30), color=_BAR)
    times.set(xscale="log", title="Response time", xlabel="Seconds", ylabel="Votes")
    _bars(missed, Counter(one.missed for one in people), "Sentinels missed", "Participants")
    figure.savefig(path, dpi=120)


def _bars(axes: Any, counts: Counter[int], title: str, label: str) -> None:
    axes.bar(list(counts), list(counts.values()), color=_BAR)
    axes.set(title=title, ylabel=label, xticks=sorted(counts))


def _percent(value: float | None) -> str:
    return "–" if value is None else f"{value:.1%}"
