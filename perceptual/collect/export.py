"""Export a study: the manifest that training reads, the votes, and a report on their quality."""

import shutil
from collections import Counter
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import NamedTuple

import numpy as np

from perceptual.collect.database import Database
from perceptual.collect.quality import Person, Rules, assess, tally
from perceptual.collect.report import write_report
from perceptual.collect.stopping import Count
from perceptual.collect.study import IMAGES, Study
from perceptual.collect.votes import as_csv, read_votes
from perceptual.data.kinds import ALGORITHMS
from perceptual.files import csv_cells
from perceptual.files.writing import refuse_existing, whole_folder

MANIFEST, MAJORITY, VOTES, REPORT = "manifest.csv", "majority.csv", "votes.csv", "report.md"


class Exported(NamedTuple):
    """What an export holds."""

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
        _write_manifest(partial, MANIFEST, study, counts, lambda one: one.judgment)
        if study.config.stop_when_sure:
            _write_manifest(partial, MAJORITY, study, counts, _majority)
        (partial / VOTES).write_text(as_csv(votes, excluded), "utf-8")
        write_report(partial, study, votes, people, rules)
    return Exported(len(counts), sum(one.n for one in counts.values()), people)


def _majority(one: Count) -> float:
    return float(1 + np.sign(2 * one.k - one.n)) / 2


def _write_manifest(
    folder: Path, name: str, study: Study, counts: Mapping[int, Count], judge: Callable[[Count], float]
) -> None:
    chosen, config = [study.items[item] for item in counts], study.config
    kind = config.asked.kind
    columns = [*kind.roles, kind.on_disk, "subset"]
    # judgments that are unbiased in spite of early stopping are not votes over votes
    columns += [] if config.stop_when_sure else ["votes"]
    columns += ["split"] if all(item.split for item in chosen) else []
    columns += [*ALGORITHMS] if all(all(item.algorithms) for item in chosen) else []
    with (folder / name).open("w", newline="", encoding="utf-8") as file:
        rows = csv_cells.Rows(file, columns)
        for item in chosen:
            if not study.is_intact(item.id):
                continue  # the votes were of other pixels
            for image in item.images.values():
                if not (folder / IMAGES / image).exists():
                    shutil.copyfile(study.image(image), folder / IMAGES / image)
            rows.write_named(
                {
                    **{role: f"{IMAGES}/{image}" for role, image in item.images.items()},
                    kind.on_disk: f"{judge(counts[item.id]):.6g}",
                    "votes": counts[item.id].n,
                    "subset": item.subset or study.folder.name,
                    "split": item.split,
                    **dict(zip(ALGORITHMS, item.algorithms, strict=True)),
                }
            )
