"""The leaderboard of one set of judged items: every method's scores with intervals, best first."""

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch

from perceptual.evaluation.intervals import (
    Intervals,
    bootstrap,
    bootstrap_correlation,
    bootstrap_precision,
    clusters,
    rank_groups,
)
from perceptual.evaluation.results import Arrays, DataResults, Row
from perceptual.evaluation.runs import common_folder, varied
from perceptual.metrics import ceiling_score, human_score, two_afc_agreement, two_people_agreement

MEANS = ["mean", "micro"]


class Entry(NamedTuple):
    """A method's place on a leaderboard; scores in [0, 1], a number a column."""

    row: Row
    score: list[float]
    low: list[float]
    """Lower ends of the 95 % intervals."""
    high: list[float]
    group: int
    """Rises down the board where the macro mean differs significantly from the best of the group above."""
    gap: tuple[float, float]
    """Paired interval of the best method's macro mean minus this one's."""

    @property
    def tied(self) -> bool:
        """Whether the macro mean does not differ significantly from the best one."""
        return self.gap[0] <= 0


class Board(NamedTuple):
    """What `tables` and `plots` show."""

    data: Row
    columns: list[str]
    """Subsets, then `mean` (macro) and `micro`."""
    entries: list[Entry]
    """Methods that were scored, best macro mean first."""
    references: dict[str, list[float]]
    """Rows about the people: how well a person, two people and the best possible distance agree with them."""
    failed: list[Row]
    recurring: bool
    """Whether references recur, so that the bootstrap draws references rather than items."""
    settings: list[str]
    """Keys of the settings in which the rows of training runs differ, see `runs`."""
    folder: Path | None
    """What holds all training runs among the rows; their names are relative to it."""


def make(results: DataResults, lost: Sequence[Row] = ()) -> Board:
    """The leaderboard of the results on one set of items.

    Args:
        results: of the methods, or of training runs.
        lost: rows of training runs that gave no score, see `runs.without_score`.

    Raises:
        ValueError: no method has been scored on it.
    """
    data, items = results.items()
    scored = results.scored()
    if not scored:
        raise ValueError(f"{results.folder} holds no scored method, only {len(results.failed())} failures")
    recurring, found = intervals(data["kind"], [result.arrays for result in scored], items)
    macro = len(data["subsets"])
    group = rank_groups(found.score[:, macro], found.draws[:, :, macro])
    best = int(found.score[:, macro].argmax())
    gaps = np.quantile(found.draws[:, [best], macro] - found.draws[:, :, macro], [0.025, 0.975], axis=0)
    columns = zip(
        [result.row for result in scored],
        *(part.tolist() for part in (found.score, found.low, found.high)),
        group,
        [(low, high) for low, high in gaps.T.tolist()],
        strict=True,
    )
    entries = sorted(
        (Entry(*column) for column in columns), key=lambda entry: (entry.group, -entry.score[macro])
    )
    people = _people(items, data["subsets"]) if data["kind"] == "2afc" else {}
    failed = [*results.failed(), *lost]
    rows = [entry.row for entry in entries]
    settings, folder = varied(rows), common_folder([*rows, *lost])
    return Board(data, data["subsets"] + MEANS, entries, people, failed, recurring, settings, folder)


def intervals(kind: str, scored: list[Arrays], items: Arrays) -> tuple[bool, Intervals]:
    """Bootstrap of methods on the same items, and whether references recur, so that those are drawn."""
    cluster, recurring = clusters(items["cluster"])
    draw = {"2afc": _triplets, "jnd": _pairs, "opinion": _opinions}
    return recurring, draw[kind](scored, items, cluster)


def _triplets(scored: list[Arrays], items: Arrays, cluster: np.ndarray) -> Intervals:
    judgment = torch.from_numpy(items["judgment"])
    agreement = [
        two_afc_agreement(torch.from_numpy(a["d0"]), torch.from_numpy(a["d1"]), judgment).numpy()
        for a in scored
    ]
    return bootstrap(np.stack(agreement), items["subset"], cluster)


def _pairs(scored: list[Arrays], items: Arrays, cluster: np.ndarray) -> Intervals:
    distance = np.stack([arrays["distance"] for arrays in scored])
    return bootstrap_precision(distance, items["same"], items["subset"], cluster)


def _opinions(scored: list[Arrays], items: Arrays, cluster: np.ndarray) -> Intervals:
    distance = np.stack([arrays["distance"] for arrays in scored])
    return bootstrap_correlation(distance, items["score"], items["subset"], cluster)


def _people(items: Arrays, subsets: list[str]) -> dict[str, list[float]]:
    """Rows that say how far the judgments themselves agree, see `perceptual.metrics`."""
    judgment, subset = torch.from_numpy(items["judgment"]), torch.from_numpy(items["subset"])
    parts = [subset == i for i in range(len(subsets))]
    everything = torch.ones_like(subset, dtype=torch.bool)

    def row(score: list[float], pooled: float) -> list[float]:
        return [*score, float(np.mean(score)), pooled]

    rows = {
        "a person, own vote included": row(
            [human_score(judgment[p]).item() for p in parts], human_score(judgment).item()
        ),
        "best possible distance": row(
            [ceiling_score(judgment[p]).item() for p in parts], ceiling_score(judgment).item()
        ),
    }
    if "votes" in items:
        votes = torch.from_numpy(items["votes"])
        both = [two_people_agreement(judgment[p], votes[p]).item() for p in [*parts, everything]]
        rows["two people (unbiased)"] = row(both[:-1], both[-1])
    return rows
