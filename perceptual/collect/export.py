"""Export a study: the manifest that training reads, the votes, and a report on their quality."""

import shutil
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from itertools import groupby
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from matplotlib.figure import Figure

from perceptual.collect import bradley_terry
from perceptual.collect.database import Database
from perceptual.collect.quality import Person, Rules, assess, facts, summary, tally
from perceptual.collect.stopping import Count
from perceptual.collect.study import IMAGES, Item, Study
from perceptual.collect.votes import VoteRow, as_csv, read_votes
from perceptual.data.contact_sheets import contact_sheet
from perceptual.data.kinds import ALGORITHMS
from perceptual.distance.saving.markdown import escaped, table_row
from perceptual.files import csv_cells
from perceptual.files.writing import refuse_existing, whole_folder

MANIFEST, MAJORITY, VOTES, REPORT = "manifest.csv", "majority.csv", "votes.csv", "report.md"
SHEET, PICTURE = "items.png", "votes.png"
_BAR = "#4878a8"


class Exported(NamedTuple):
    """Contents of an export."""

    items: int
    votes: int
    people: list[Person]


def export(database: Database, folder: Path, rules: Rules) -> Exported:
    """Write a folder with `manifest.csv`, its images, `votes.csv` and `report.md`.

    A study that stops when sure also gets `majority.csv`, with judgments of 0 and 1: what most of all votes
    would have said. Items that have lost an image, see `Study.damaged`, are in neither.

    Args:
        database: of the study, which is left as it is.
        folder: must not exist.
        rules: whose votes the manifest leaves out; `votes.csv` has all of them.

    Raises:
        ValueError: the folder exists, or no item has a vote.
        OSError: a file cannot be written; nothing is left behind.
    """
    refuse_existing(folder)
    study, votes = database.study, read_votes(database)
    people = [person for person in assess(votes, rules) if person.votes]
    excluded = {person.participant: person.excluded for person in people if person.excluded}
    counts = tally(votes, study.config, excluded)
    if not counts:
        by_rule = ", ".join(f"{number:,} {rule}" for rule, number in Counter(excluded.values()).items())
        raise ValueError(
            f"no item of {study.folder} has a vote that counts; participants with answers: {len(people):,}"
            + (f"; excluded: {by_rule}" if by_rule else "")
        )
    with whole_folder(folder) as partial:
        (partial / IMAGES).mkdir(parents=True)
        chosen = [study.items[item] for item in counts if study.is_intact(item)]
        for image in {image for item in chosen for image in item.images.values()}:
            shutil.copyfile(study.image(image), partial / IMAGES / image)
        _write_manifest(
            partial / MANIFEST, study, chosen, {item: counts[item].shares for item in counts}, counts
        )
        if study.config.stop_when_sure:
            majority = {item: counts[item].majority for item in counts}
            _write_manifest(partial / MAJORITY, study, chosen, majority, counts)
        (partial / VOTES).write_text(as_csv(votes, excluded), "utf-8")
        write_report(partial, study, votes, people, rules)
    return Exported(len(counts), sum(one.n for one in counts.values()), people)


def _write_manifest(
    path: Path,
    study: Study,
    chosen: Sequence[Item],
    shares: Mapping[int, Sequence[float]],
    counts: Mapping[int, Count],
) -> None:
    config, kind = study.config, study.config.asked.kind
    cells: dict[str, Iterable[object]] = {
        role: [f"{IMAGES}/{item.images[role]}" for item in chosen] for role in kind.roles
    }
    answers = len(kind.cells)  # of two answers the share of the last one says all
    for number, cell in enumerate(kind.cells, -answers):
        cells[cell] = [f"{shares[item.id][number]:.6g}" for item in chosen]
    cells["subset"] = [item.subset or study.folder.name for item in chosen]
    if not config.stop_when_sure:  # judgments that are unbiased in spite of it are not votes over votes
        cells["votes"] = [counts[item.id].n for item in chosen]
    if all(item.split for item in chosen):
        cells["split"] = [item.split for item in chosen]
    if all(all(item.algorithms) for item in chosen):
        cells |= zip(ALGORITHMS, zip(*(item.algorithms for item in chosen), strict=True), strict=True)
    csv_cells.write_file(path, [*cells], zip(*cells.values(), strict=True))


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
    contact_sheet(folder / MANIFEST, 24, 0).save(folder / SHEET)
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
    (folder / REPORT).write_text("\n".join(lines), "utf-8")


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
