"""Conditions that a recipe was not chosen on: the same judged images, photographed or rendered otherwise.

People judged the images as they are; a good distance keeps most of its score where all three images of a
triplet are changed alike. A recipe chosen under one condition often loses in the next: score it on images
never seen *and* under conditions never seen.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchvision.transforms import InterpolationMode
from torchvision.transforms.functional import gaussian_blur, rotate

from perceptual.data.batch import Batch, JudgedDataset
from perceptual.data.images import as_floats
from perceptual.data.kinds import PAIR, TWO_AFC
from perceptual.data.loading import Batches
from perceptual.distance.lpips import LPIPS
from perceptual.distance.saving.markdown import escaped, table_row
from perceptual.evaluation import methods as grammar
from perceptual.evaluation import provenance
from perceptual.evaluation.evaluate import place_of
from perceptual.evaluation.identity import called
from perceptual.evaluation.results import DataResults, Row, folder_name, publish, read_method
from perceptual.evaluation.score_table import estimate
from perceptual.evaluation.scoring import measure
from perceptual.evaluation.statistics import Intervals, bootstrap, clusters
from perceptual.features.backbone import Precision
from perceptual.files.messages import first_line
from perceptual.files.progress import Progress
from perceptual.metrics import two_afc_agreement
from perceptual.names import Method

FEW = 256  # images whose features are held at once
BATCH = 100  # pairs
VERSION = 1  # of the conditions; results of another version are computed again

Condition = Callable[[Tensor], Tensor]


def _tinted(red: float, blue: float) -> Condition:
    return lambda images: (images * images.new_tensor([red, 1, blue]).view(1, 3, 1, 1)).clamp(max=1)


def _sized(side: int) -> Condition:
    return lambda images: F.interpolate(images, (side, side), mode="bilinear", antialias=True).clamp(0, 1)


def _lit(axis: int) -> Condition:
    """Light from the side where an axis, −1 or −2, begins: 1.5 times as much there, 0.35 opposite."""

    def change(images: Tensor) -> Tensor:
        gain = torch.linspace(1.5, 0.35, images.shape[axis], device=images.device)
        return (images * (gain if axis == -1 else gain.unsqueeze(1))).clamp(max=1)

    return change


def _zoomed(images: Tensor) -> Tensor:
    side = images.shape[-1]
    edge = round(side / 10)
    inner = images[..., edge : side - edge, edge : side - edge]
    return F.interpolate(inner, (side, side), mode="bilinear", antialias=True).clamp(0, 1)


def _noisy(images: Tensor) -> Tensor:
    noise = torch.randn(images.shape, generator=torch.Generator().manual_seed(0))
    return (images + 0.04 * noise.to(images)).clamp(0, 1)


CONDITIONS: dict[str, Condition] = {
    "as judged": lambda images: images,
    "gamma 1.8": lambda images: images**1.8,
    "gamma 0.55": lambda images: images**0.55,
    "exposure × 1.6": lambda images: (1.6 * images).clamp(max=1),
    "exposure × 0.5": lambda images: 0.5 * images,
    "warm": _tinted(1.35, 0.65),
    "cold": _tinted(0.65, 1.35),
    "lit from the left": _lit(-1),
    "lit from above": _lit(-2),
    "half contrast": lambda images: 0.5 * images + 0.25,
    "blur": lambda images: gaussian_blur(images, [9, 9], [1.2, 1.2]),
    "noise": _noisy,
    "rotated 12°": lambda images: rotate(images, 12, InterpolationMode.BILINEAR),
    "zoomed 25 %": _zoomed,
    "48 pixels": _sized(48),
    "128 pixels": _sized(128),
}


def score_under(
    distances: Mapping[str, nn.Module],
    judged: JudgedDataset,
    conditions: Mapping[str, Condition] = CONDITIONS,
) -> dict[str, dict[str, float]]:
    """2AFC score (micro) of distances on triplets under each condition, then `mean`, that over conditions.

    Args:
        distances: by name, (x, y) → (N,), of images (N, 3, H, W) in [0, 1].
        judged: triplets.
        conditions: by name, images (N, 3, S, S) in [0, 1] → the same images otherwise.

    Returns:
        by name of the distance, then of the condition; fractions in [0, 1].

    Raises:
        ValueError: a distance cannot be computed on some images.
    """
    found = {name: agreement_under(name, distances[name], judged, conditions) for name in distances}
    scores = {name: dict(zip(conditions, rows.mean(1).tolist(), strict=True)) for name, rows in found.items()}
    return {name: {**by, "mean": sum(by.values()) / len(by)} for name, by in scores.items()}


def agreement_under(
    name: str, distance: nn.Module, judged: JudgedDataset, conditions: Mapping[str, Condition] = CONDITIONS
) -> np.ndarray:
    """Agreement of a distance with people on each triplet under each condition, (C, N) in [0, 1].

    Raises:
        ValueError: the distance cannot be computed on some images; `name` says which distance.
    """
    (pairs, of_items), judgment = judged.table.distinct_pairs, torch.from_numpy(judged.table.answer)
    number, which = torch.from_numpy(pairs.T.copy()).unique(return_inverse=True)
    images = as_floats(judged.images.batch(number))
    rows = []
    with Progress(name, len(conditions)) as progress:
        for condition, change in conditions.items():
            changed = _Changed(change(images), which)
            d0, d1 = torch.from_numpy(_apart(name, distance, changed, condition)[of_items])
            rows.append(two_afc_agreement(d0, d1, judgment).numpy())
            progress.advance()
    return np.stack(rows)


def report(
    methods: Iterable[str | Method],
    data: Any,
    results: str,
    device: torch.device | str = "cpu",
    precision: Precision = "32-true",
    compile: bool = False,
) -> tuple[list[Row], dict[str, str]]:
    """Score methods under every condition; what `results` has already is not computed again.

    Args:
        methods: names, see `perceptual.names`.
        data: triplets, set up.
        results: folder of all results; a row for each method in `<data>/conditions/<method>/`.
        device: where distances are computed.
        precision, compile: of deep features, see `methods.build`.

    Returns:
        a row for each method, whose `conditions` are a score and the ends of its 95 % interval by condition,
        then `mean`, that over conditions; and why others have none.

    Raises:
        ValueError: `data` has no triplets, or the folder holds other results.
    """
    judged = data.val_set
    if data.kind != TWO_AFC:
        raise ValueError("conditions=true needs judged triplets; these items are none")
    place = place_of(data, results)
    names = called(grammar.expand(methods), precision, partial(_row_of, place))
    lost: dict[str, str] = {}
    for name in [name for name in names if _row_of(place, name) is None]:
        try:
            distance = grammar.build(names[name].method, precision, compile).to(device)
            row = {"method": name, "version": VERSION, "weights_file": names[name].weights}
            row |= {"conditions": _estimates(agreement_under(name, distance, judged), judged)}
            row |= provenance.describe(distance) | provenance.surroundings(torch.device(device))
            publish(_folder(place, name), row, {})
        except Exception as error:  # whatever it is, the others go on
            lost[name] = first_line(error)
    found = (_row_of(place, name) for name in names)
    return [row for row in found if row is not None], lost


def markdown(rows: Sequence[Row], title: str) -> str:
    """The scores of methods under conditions as a table in Markdown."""
    header = ["2AFC in %", *(row["method"] for row in rows)]
    lines = [header, ["--:"] * len(header)]
    for condition in rows[0]["conditions"]:
        cells = []
        for row in rows:
            value, low, high = (100 * part for part in row["conditions"][condition])
            cells.append(estimate(value, low, high, 1))
        lines.append([condition, *cells])
    table = [table_row(line) for line in lines]
    note = "In brackets: 95 % intervals by bootstrap over references. Mean: over the conditions."
    return "\n".join([f"### {escaped(title)}", "", *table, "", note]) + "\n"


def _estimates(agreement: np.ndarray, judged: JudgedDataset) -> dict[str, list[float]]:
    """Score and ends of its interval by condition, then `mean`: all from the same draws of references."""
    table = judged.table.same_content()
    cluster, _ = clusters(table.items[0])
    micro = bootstrap(agreement, np.zeros(len(cluster), int), cluster)
    score, draws = micro.score[:, -1:], micro.draws[:, :, -1:]
    both = Intervals(np.vstack([score, score.mean(0)]), np.concatenate([draws, draws.mean(1)[:, None]], 1))
    columns = (both.score, both.low, both.high)
    values = np.concatenate(columns, axis=1).tolist()
    return dict(zip([*CONDITIONS, "mean"], values, strict=True))


def _folder(place: DataResults, name: str) -> Path:
    return place.folder / "conditions" / folder_name(name)


def _row_of(place: DataResults, name: str) -> Row | None:
    """The row of a method; None if there is none of this version."""
    folder = _folder(place, name)
    row = read_method(folder).row if folder.is_dir() else None
    return row if row is not None and row["version"] == VERSION else None


def _apart(name: str, distance: nn.Module, changed: "_Changed", condition: str) -> np.ndarray:
    """Distance (P,) of each pair; where few images are in many pairs, each is in one backbone pass."""
    if isinstance(distance, LPIPS) and len(changed.images) <= FEW:
        device = distance.lin[0].device
        first, second = changed.pairs.T.to(device)
        with torch.no_grad():
            return distance.among(changed.images.to(device), first, second).cpu().numpy()
    batches: Batches[Batch] = Batches(changed, BATCH, shared=False)
    found = measure({name: distance}, batches)[name]
    if found.error:
        raise ValueError(f"{name} under the condition {condition!r}: {found.error}")
    return found.columns[0]


class _Changed(torch.utils.data.Dataset[object]):
    """Pairs of images that were changed, as batches."""

    def __init__(self, images: Tensor, pairs: Tensor) -> None:
        self.images, self.pairs = images, pairs

    def __len__(self) -> int:
        return len(self.pairs)

    def __getitems__(self, rows: list[int]) -> Batch:
        nothing = torch.zeros(len(rows))
        images = self.images[self.pairs[torch.as_tensor(rows)].T.flatten()]
        return Batch(PAIR, images, None, nothing, nothing, nothing)
