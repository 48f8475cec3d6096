"""Trust reports of many methods: a folder each, `results/<data>/trust/<method>/`; a table, a picture."""

from collections.abc import Iterable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
import torch
from matplotlib.figure import Figure

from perceptual.chance import FEWEST
from perceptual.data.kinds import TWO_AFC
from perceptual.distance.saving.markdown import escaped, table_row
from perceptual.evaluation import methods as grammar
from perceptual.evaluation import provenance, trust
from perceptual.evaluation.evaluate import place_of
from perceptual.evaluation.identity import Asked, called
from perceptual.evaluation.plots import entitle, label_width
from perceptual.evaluation.results import AGAIN, OF_METHODS, DataResults, Row, folder_name, publish, read
from perceptual.evaluation.score_table import estimate, number, short_names
from perceptual.evaluation.statistics import clusters, ends, resample
from perceptual.features.backbone import Precision
from perceptual.files.messages import first_line
from perceptual.files.progress import Progress
from perceptual.files.writing import save_picture
from perceptual.metrics.two_afc import weighted_mean
from perceptual.names import CLASSIC, Method

VERSION = 1  # of the numbers; reports of another version are made again
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
    "transfer 4/255": "transfer 4/255",
    "order": "order",
    "asymmetry": "asymmetry",
    "triangle": "triangle",
}
SHOWN = ("shift 1", "shift 3", "JPEG 95", "brighter 2 %", "attack 2/255", "transfer 4/255")  # in the picture


def report(
    methods: Iterable[str | Method],
    data: Any,
    results: str,
    device: torch.device | str = "cpu",
    precision: Precision = "32-true",
    compile: bool = False,
    seed: int = 0,
) -> tuple[list[Row], dict[str, str]]:
    """Examine methods; what `results` has already is not done again.

    The perturbation of `transfer` is made on the first deep method of the list that is of another family.

    Args:
        methods: names, see `perceptual.names`.
        data: triplets, set up.
        results: folder of all results.
        device: where distances are computed.
        precision, compile: of deep features, see `methods.build`.
        seed: chooses the triplets, directions and starts.

    Returns:
        a row for each method, and why others have none.

    Raises:
        ValueError: `data` has no triplets, or its images are too small.
    """
    if data.kind != TWO_AFC:
        raise ValueError("robustness=true needs judged triplets; these items are none")
    place = place_of(data, results)
    names = called(grammar.expand(methods), precision, partial(_row_of, place, seed))
    missing = [name for name in names if _row_of(place, seed, name) is None]
    lost: dict[str, str] = {}
    if missing:
        judged = trust.choose(data.val_set, seed)
        rivals: dict[str, dict[int, torch.Tensor]] = {}
        for name in missing:
            try:
                with Progress(f"Examining {name}", PARTS) as progress:
                    distance = grammar.build(names[name].method, precision, compile).to(device)
                    rival = _rival(name, names)
                    if rival is not None and rival not in rivals:
                        other = grammar.build(names[rival].method, precision, compile).to(device)
                        rivals[rival] = trust.perturbations(
                            other, judged.to(torch.device(device)).confident, seed
                        )
                    values: trust.Values = {}
                    for _, part in trust.examine(distance, judged, rivals.get(rival or ""), seed):
                        values |= part
                        progress.advance()
                row = _row(name, values, judged, rival, seed) | provenance.describe(distance)
                row |= {"weights_file": names[name].weights}
                row |= provenance.surroundings(torch.device(device))
                publish(_folder(place, name, seed), row, {})
            except Exception as error:  # whatever it is, the others go on
                lost[name] = first_line(error)
    found = (_row_of(place, seed, name) for name in names)
    return [row for row in found if row is not None], lost


def kept(place: DataResults) -> list[Row]:
    """The reports in a folder of results, most trusted under shifts first."""
    folders = [path.parent for path in sorted((place.folder / "trust").glob("[!.]*/row.json"))]
    rows = [row for folder in folders if (row := _report_in(place, folder))]
    return sorted(rows, key=lambda row: row["trust"]["shift 1"][0])


def table(rows: Sequence[Row]) -> list[list[str]]:
    """Header and body of the report: means, with their 95 % intervals, in percent but for correlations."""
    columns = [column for column in COLUMNS if any(column in row["trust"] for row in rows)]
    body = []
    for row in rows:
        cells = [row["method"]]
        for column in columns:
            if column not in row["trust"]:
                cells.append("–")
                continue
            factor, digits = (1, 2) if column == "order" else (100, 1)
            value, low, high = (factor * part for part in row["trust"][column])
            cells.append(estimate(value, low, high, digits))
        body.append(cells)
    return [["method", *columns], *body]


def markdown(rows: Sequence[Row], title: str) -> str:
    """The report in Markdown, with what its columns mean and the families that no distance orders well."""
    header, *body = table(rows)
    lines = [header, ["--:"] * len(header), *body]
    attacked = [row["method"] for row in rows if "attack 2/255" not in row["trust"]]
    notes = [
        "In brackets: 95 % intervals by bootstrap over references. Shift (pixels, real margins), JPEG at "
        "quality 95, resizing by 5 % and brightness by 2 %: % of decisions that flip when ref, p0 or p1 is "
        "changed. d(x, shifted 1): in % of the median judged distance. Attack: % of decisions on which all "
        "votes agree that flip as the nearer image moves within ±2/255 or ±4/255; transfer: the same by the "
        "perturbation made on another method. Order: Spearman correlation of distance and severity, mean of "
        "the families of distortion. Asymmetry: |d(x, y) − d(y, x)| in % of the median distance. Triangle: % "
        "of triplets that violate the inequality.",
    ]
    if attacked:
        notes += ["", f"Not attacked, having no gradient: {escaped(', '.join(attacked))}."]
    text = "\n".join(map(table_row, lines))
    families = _families(rows)
    return "\n".join([f"### {escaped(title)}", "", text, "", *notes, "", *families]) + "\n"


def picture(rows: Sequence[Row], title: str, path: Path) -> Path:
    """Write the picture of some reports."""
    save_picture(draw(rows, title), path)
    return path


def draw(rows: Sequence[Row], title: str) -> Figure:
    """Flips by shift, slight change and attack: a panel for each that any method has, a line per method."""
    seen = [column for column in SHOWN if any(column in row["trust"] for row in rows)]
    labels = short_names([row["method"] for row in rows])
    width = 0.3 + label_width(labels) + 1.9 * len(seen)
    figure = Figure((max(5, width), max(2.8, 1.6 + 0.3 * len(rows))), dpi=150, layout="constrained")
    entitle(figure, [title])
    panels = figure.subplots(1, len(seen), sharey=True, squeeze=False)[0]
    colors = mpl.colormaps["tab10"]
    for which, (panel, column) in enumerate(zip(panels, seen, strict=True)):
        for place, row in enumerate(rows):
            if column in row["trust"]:
                value, low, high = (100 * part for part in row["trust"][column])
                panel.plot([low, high], [place, place], color=colors(which), lw=2, alpha=0.5)
                # not cut off at 0
                panel.plot(value, place, "o", color=colors(which), ms=5, clip_on=False, zorder=3)
            else:
                panel.text(1, place, "–", va="center", fontsize=8, color="#888888")
        panel.set(title=column, yticks=range(len(rows)), ylim=(len(rows) - 0.5, -0.5))
        panel.set_xlim(left=0)
        panel.spines[["top", "right"]].set_visible(False)
        panel.tick_params(labelsize=8)
        panel.title.set_fontsize(10)
        panel.grid(axis="x", color="#eeeeee")
    panels[0].set_yticklabels(labels, parse_math=False)
    figure.supxlabel("decisions that flip, in %", fontsize=10)
    return figure


def _families(rows: Sequence[Row]) -> list[str]:
    names = list(dict.fromkeys(name for row in rows for name in row["order"]))
    header = ["order of severities", *(row["method"] for row in rows)]
    lines = [header, ["--:"] * len(header)]
    lines += [[name, *(_correlation(row["order"].get(name, np.nan)) for row in rows)] for name in names]
    return list(map(table_row, lines))


def _row(name: str, values: trust.Values, judged: trust.Judged, rival: str | None, seed: int) -> Row:
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
        elif column.startswith(("attack", "transfer")):
            cluster = judged.confident_clusters
        found[column] = _interval(mean, cluster)
    return {
        "method": name,
        "version": VERSION,
        "seed": seed,
        "items": len(judged.clusters),
        "attacked": len(judged.confident_clusters),
        "rival": rival,
        "trust": found,
        "order": {
            key.removeprefix("order "): float(np.nanmean(v)) if np.isfinite(v).any() else np.nan
            for key, v in values.items()
            if key.startswith("order ")
        },
        **({} if "attack 2/255" in values else {"note": NO_ATTACK}),
    }


def _interval(values: np.ndarray, cluster: np.ndarray) -> list[float]:
    """Mean of values (N,), and its bootstrap interval over clusters; NaN of too few of them."""
    if not len(values):
        return [float("nan")] * 3
    cluster, _ = clusters(cluster)
    if cluster.max() + 1 < FEWEST:
        return [float(values.mean()), float("nan"), float("nan")]
    low, high = ends(resample(lambda times: weighted_mean(values[None], values, times), cluster))
    return [float(values.mean()), float(low), float(high)]


def _rival(name: str, names: Mapping[str, Asked]) -> str | None:
    """The first deep method among the names that is of another family."""
    other_than = (names[name].method.family, CLASSIC)
    return next((other for other, asked in names.items() if asked.method.family not in other_than), None)


def _folder(place: DataResults, name: str, seed: int) -> Path:
    return place.folder / "trust" / (folder_name(name) + (f"-seed{seed}" if seed else ""))


def _row_of(place: DataResults, seed: int, name: str) -> Row | None:
    """The row of a report; None if there is none of this version."""
    folder = _folder(place, name, seed)
    return _report_in(place, folder) if folder.is_dir() else None


def _report_in(place: DataResults, folder: Path) -> Row | None:
    """The row in a folder; None if it is of another version. ValueError: the folder is of another report."""
    row = read(folder, OF_METHODS).row
    if row["version"] != VERSION:
        return None
    if folder.name != _folder(place, row["method"], row["seed"]).name:
        raise ValueError(f"{folder} holds the report of another method, {row['method']!r}; {AGAIN}")
    return row


def _correlation(value: float) -> str:
    return "–" if np.isnan(value) else f"{value:.2f}"


def shown(rows: Sequence[Row], lost: Mapping[str, str]) -> list[str]:
    """Lines for the terminal: a method each, then those that failed."""
    lines = []
    for row in rows:
        said = [
            f"{column} {number(row['trust'][column][0])} %"
            for column in ("shift 1", "JPEG 95", "attack 2/255")
            if column in row["trust"]
        ]
        note = f"; {row['note']}" if "note" in row else ""
        lines.append(
            f"Trust     {row['method']}: flips by {', '.join(said)}; "
            f"order {_correlation(row['trust']['order'][0])}{note}"
        )
    return [*lines, *(f"Failed    {name}: {reason}" for name, reason in lost.items())]
