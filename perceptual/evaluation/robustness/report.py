"""The trust report: its numbers by method, a table and a picture."""

from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from torch import Tensor, nn

from perceptual.data.kinds import TWO_AFC
from perceptual.data.module import JudgedDataModule
from perceptual.data.settings import one_of
from perceptual.distance.attacks import STRENGTHS
from perceptual.evaluation.evaluate import Build, Findings, Study
from perceptual.evaluation.methods import Asked
from perceptual.evaluation.plots import Panel, entitle, intervals
from perceptual.evaluation.results import TRUST, DataResults, Estimate, Result
from perceptual.evaluation.robustness import trust
from perceptual.evaluation.scoring import device_of
from perceptual.evaluation.statistics import bootstrap, clusters, ends
from perceptual.evaluation.tables import Table, estimate, markdown, number
from perceptual.files.progress import Progress
from perceptual.names import CLASSIC

PARTS = 6  # of a report
NO_ATTACK = "no gradient: not attacked"
# heading: what it is the mean of, by the beginning of names
COLUMNS = {
    "shift 1": "shift 1: flips",
    "shift 2": "shift 2: flips",
    "shift 3": "shift 3: flips",
    "d(x, shifted 1)": "shift 1: distance",
    "JPEG 95": "jpeg 95: flips",
    "resized 5 %": "resized 5 %: flips",
    "brighter 2 %": "brighter 2 %: flips",
    "attack 2/255": "attack 2/255",
    "attack 4/255": "attack 4/255",
    "attack l2 2/255": "attack l2 2/255",
    "transfer 4/255": "transfer 4/255",
    "order": "order",
    "asymmetry": "asymmetry",
    "triangle": "triangle",
    "clean": "clean",
    **{f"right {ball}": f"right {ball}" for ball in trust.BALLS},
}
RIGHT = ("clean", "right")  # columns of the table of attacks alone
SHOWN = ("shift 1", "shift 3", "JPEG 95", "brighter 2 %", "attack 2/255", "transfer 4/255")  # in the picture


class Robustness(Study):
    """What shifts, slight changes and attacks do to decisions, with 95 % intervals.

    The perturbation of `transfer` is made on the first deep method of those asked for that is of another
    family.

    Args:
        data: triplets, set up.
        seed: chooses the triplets, directions and starts.
        attacks: how strong they are: `fast` (PGD), `standard` (and APGD from one start, also within a
            Euclidean norm) or `strong` (from five starts, with more steps).

    Raises:
        ValueError: an unknown strength; `data` has no triplets, or its images are too small.
    """

    part = TRUST

    def __init__(self, data: JudgedDataModule, seed: int = 0, attacks: str = "standard") -> None:
        super().__init__(data)
        if data.kind != TWO_AFC:
            raise ValueError("robustness=true needs judged triplets; these items are none")
        one_of("attacks", attacks, STRENGTHS)
        self.seed, self.attacks = seed, attacks
        self._rivals: dict[str, dict[int, Tensor]] = {}

    @cached_property
    def chosen(self) -> trust.Judged:
        """The triplets that all methods are tried on."""
        return trust.choose(self.judged, self.seed)

    def find(self, distances: dict[str, nn.Module], asked: Mapping[str, Asked], build: Build) -> Findings:
        """Examine the distances."""
        chosen = self.chosen
        for name, distance in distances.items():
            try:
                with Progress(f"Examining {name}", PARTS) as progress:
                    rival, values = _rival(name, asked), dict[str, np.ndarray]()
                    if rival is not None and rival not in self._rivals:
                        confident = chosen.to(device_of(distance)).confident
                        self._rivals[rival] = trust.perturbations(build(rival), confident, self.seed)
                    made = self._rivals.get(rival or "")
                    for _, part in trust.examine(distance, chosen, made, self.seed, STRENGTHS[self.attacks]):
                        values |= part
                        progress.advance()
                yield name, summary(values, chosen) | {"rival": rival}
            except Exception as error:  # whatever it is, the others go on
                yield name, error

    def show(self, results: Sequence[Result]) -> tuple[list[Any], dict[str, Any]]:
        """A line for each method; the report, and its picture."""
        title = f"Trust, {self.items.description}"
        report = tables(results, title)
        return [*said(results), *report[1:2]], {
            "trust.md": markdown(*report),
            "trust.png": draw(results, title),
        }


def kept(place: DataResults) -> list[Result]:
    """The reports in a folder, of the strongest attacks; most trusted under shifts first."""
    order = list(STRENGTHS)
    found = sorted(place.all(TRUST), key=lambda result: order.index(result.attacks))
    strongest = {(result.method, result.seed): result for result in found}
    return sorted(strongest.values(), key=lambda result: result.trust["shift 1"][0])


def tables(results: Sequence[Result], title: str) -> list[Table]:
    """Means with their 95 % intervals, in percent but for correlations; and those of each family."""
    every = [column for column in COLUMNS if any(column in one.trust for one in results)]
    columns = [column for column in every if not column.startswith(RIGHT)]
    body = [[one.method, *(_cell(one, column) for column in columns)] for one in results]
    notes = [
        "In brackets: 95 % intervals by bootstrap over references. Shift (pixels, real margins), JPEG at "
        "quality 95, resizing by 5 % and brightness by 2 %: % of decisions that flip when ref, p0 or p1 "
        "is changed. d(x, shifted 1): in % of the median judged distance. Attack: % of decisions on which "
        "all votes agree that flip as the nearer image moves within ±2/255 or ±4/255 (l2: by 2/255 in the "
        "root mean square), by the worst attack; transfer: the same by the perturbation made on another "
        "method, no attack on this one. Order: Spearman correlation of distance and severity, mean of the "
        "families of distortion. Asymmetry: |d(x, y) − d(y, x)| in % of the median distance. Triangle: % "
        "of triplets that violate the inequality.",
    ]
    if attacked := [one.method for one in results if "attack 2/255" not in one.trust]:
        notes.append(f"Not attacked, having no gradient: {', '.join(attacked)}.")
    families = dict.fromkeys(family for one in results for family in one.order)
    rows = [
        [family, *(_correlation(one.order.get(family, np.nan)) for one in results)] for family in families
    ]
    header = ["order of severities", *(one.method for one in results)]
    return [
        Table(title, ["method", *columns], body, notes),
        attacks(results, every),
        Table(None, header, rows),
    ]


def attacks(results: Sequence[Result], columns: Sequence[str]) -> Table:
    """2AFC of unanimous decisions, as they are and under attack, and flips, in percent."""
    shown = [column for column in columns if column.startswith((*RIGHT, "attack", "transfer"))]
    shown = sorted(shown, key=lambda column: [not column.startswith(one) for one in (*RIGHT, "attack")])
    said = [
        f"2AFC, {column.replace('right', 'attack')}" if column.startswith(RIGHT) else f"flips, {column}"
        for column in shown
    ]
    body = [[one.method, one.attacks, *(_cell(one, column) for column in shown)] for one in results]
    note = (
        "Of decisions on which all votes agree; under attack one is right if it is right and does not flip. "
        "Attacks: fast, projected gradient ascent; standard, also APGD; strong, APGD from five starts. A "
        "transfer is made on another method: what holds against it alone may not hold."
    )
    return Table(None, ["method", "attacks", *said], body, [note])


def said(results: Sequence[Result]) -> list[str]:
    """A line for each method, for the terminal."""
    lines = []
    for one in results:
        flips = [
            f"{column} {number(one.trust[column][0])} %"
            for column in ("shift 1", "JPEG 95", "attack 2/255")
            if column in one.trust
        ]
        order = _correlation(one.trust["order"][0])
        note = f"; {one.note}" if one.note else ""
        lines.append(f"Trust     {one.method}: flips by {', '.join(flips)}; order {order}{note}")
    return lines


def draw(results: Sequence[Result], title: str) -> Figure:
    """Flips by shift, slight change and attack: a panel for each that any method has, a line per method."""
    seen = [column for column in SHOWN if any(column in one.trust for one in results)]
    nothing = [np.nan] * 3
    panels = [
        Panel(column, *(100 * np.array([one.trust.get(column, nothing) for one in results]).T))
        for column in seen
    ]
    figure = intervals(panels, [one.method for one in results])
    entitle(figure, [title])
    for axes in figure.axes:
        axes.set_xlim(left=0)
    figure.supxlabel("decisions that flip, in %", fontsize=10)
    return figure


def summary(values: trust.Values, judged: trust.Judged) -> dict[str, Any]:
    """Fields of a result: means over items with their intervals, and the order by family."""
    found = {}
    for column, beginning in COLUMNS.items():
        parts = [value for key, value in values.items() if key.startswith(beginning)]
        if not parts:
            continue
        mean = np.mean(parts, axis=0)
        cluster = judged.clusters
        if column == "order":  # a value for each reference, and none of a constant distance
            mean = np.ma.masked_invalid(parts).mean(0).compressed()
            cluster = np.arange(len(mean))
        elif column.startswith((*RIGHT, "attack", "transfer")):
            cluster = judged.confident_clusters
        found[column] = _interval(mean, cluster)
    order = {key.removeprefix("order "): v for key, v in values.items() if key.startswith("order ")}
    return {
        "items": len(judged.clusters),
        "attacked": len(judged.confident_clusters),
        "trust": found,
        "order": {key: float(np.nanmean(v)) if np.isfinite(v).any() else np.nan for key, v in order.items()},
        "note": None if "attack 2/255" in values else NO_ATTACK,
    }


def _interval(values: np.ndarray, cluster: np.ndarray) -> Estimate:
    """Mean of values (N,), and its bootstrap interval over clusters; NaN of too few of them."""
    if not len(values):
        return [np.nan] * 3
    cluster, _ = clusters(cluster)
    found = bootstrap(values[None], np.zeros(len(values), int), cluster)
    return [float(values.mean()), *ends(found.draws[:, 0, -1]).tolist()]


def _rival(name: str, asked: Mapping[str, Asked]) -> str | None:
    """The first deep method among those asked for that is of another family."""
    other_than = (asked[name].method.family, CLASSIC)
    return next((other for other, one in asked.items() if one.method.family not in other_than), None)


def _cell(result: Result, column: str) -> str:
    form = {"digits": 2, "factor": 1} if column == "order" else {}
    return estimate(result.trust.get(column, [np.nan] * 3), **form)


def _correlation(value: float) -> str:
    return "–" if np.isnan(value) else f"{value:.2f}"
