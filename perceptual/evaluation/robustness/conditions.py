"""Conditions that a recipe was not chosen on: the same judged images, photographed or rendered otherwise.

People judged the images as they are; a good distance keeps most of its score where all three images of a
triplet are changed alike. A recipe chosen under one condition often loses in the next: score it on images
never seen *and* under conditions never seen.
"""

from collections.abc import Callable, Mapping, Sequence
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
from perceptual.data.module import JudgedDataModule
from perceptual.distance.lpips import LPIPS
from perceptual.evaluation.evaluate import Findings, Study
from perceptual.evaluation.results import CONDITIONS as PART
from perceptual.evaluation.results import Estimate, Result
from perceptual.evaluation.scoring import compare, device_of
from perceptual.evaluation.statistics import bootstrap, clusters
from perceptual.evaluation.tables import Table, estimate, markdown, score_table
from perceptual.files.messages import first_line
from perceptual.files.progress import Progress
from perceptual.metrics import two_afc_agreement

FEW = 256  # images whose features are held at once
BATCH = 100  # pairs

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
            apart = _apart(name, distance, change(images), which, condition)
            d0, d1 = torch.from_numpy(apart[of_items])
            rows.append(two_afc_agreement(d0, d1, judgment).numpy())
            progress.advance()
    return np.stack(rows)


class UnderConditions(Study):
    """2AFC scores under every condition, then `mean`, that over conditions, with 95 % intervals.

    Raises:
        ValueError: `data` has no triplets.
    """

    part = PART

    def __init__(self, data: JudgedDataModule) -> None:
        super().__init__(data)
        if data.kind != TWO_AFC:
            raise ValueError("conditions=true needs judged triplets; these items are none")

    def find(self, distances: dict[str, nn.Module], *_: Any) -> Findings:
        """Score the distances."""
        for name, distance in distances.items():
            try:
                yield name, {"conditions": self._estimates(agreement_under(name, distance, self.judged))}
            except Exception as error:  # whatever it is, the others go on
                yield name, error

    def show(self, results: Sequence[Result]) -> tuple[list[Any], dict[str, Any]]:
        """A table with a column for each method, and means; the same with all intervals."""
        title = f"Under conditions, {self.items.description}"
        by_condition = {
            key: {result.method: result.conditions[key][0] for result in results}
            for key in results[0].conditions
        }
        means = [f"Mean      {result.method}: {estimate(result.conditions['mean'])}" for result in results]
        files = {"conditions.md": markdown(table(results, title))}
        return [score_table(by_condition, title), *means], files

    def _estimates(self, agreement: np.ndarray) -> dict[str, Estimate]:
        """Score and ends of its interval by condition, then `mean`: all from the same draws of references."""
        cluster, _ = clusters(self.judged.table.same_content().items[0])
        every = np.vstack([agreement, agreement.mean(0)])
        found = bootstrap(every, np.zeros(len(cluster), int), cluster)
        values = np.stack([found.score[:, -1], found.low[:, -1], found.high[:, -1]], axis=1).tolist()
        return dict(zip([*CONDITIONS, "mean"], values, strict=True))


def table(results: Sequence[Result], title: str) -> Table:
    """Scores with intervals: a row for each condition, a column for each method."""
    rows = [
        [condition, *(estimate(one.conditions[condition]) for one in results)]
        for condition in results[0].conditions
    ]
    return Table(
        title,
        ["2AFC in %", *(one.method for one in results)],
        rows,
        ["In brackets: 95 % intervals by bootstrap over references. Mean: over the conditions."],
    )


def _apart(name: str, distance: nn.Module, images: Tensor, pairs: Tensor, condition: str) -> np.ndarray:
    """Distance (P,) of each pair; where few images are in many pairs, each is in one backbone pass."""
    device = device_of(distance)
    if isinstance(distance, LPIPS) and len(images) <= FEW:
        first, second = pairs.T.to(device)
        with torch.no_grad():
            return distance.among(images.to(device), first, second).cpu().numpy()
    parts = []
    try:
        for rows in pairs.split(BATCH):
            nothing = torch.zeros(len(rows))
            batch = Batch(PAIR, images[rows.T.flatten()], None, nothing, nothing, nothing)
            parts.append(compare(distance, batch)[0])
    except Exception as error:  # a network may fail in any way
        raise ValueError(f"{name} under the condition {condition!r}: {first_line(error)}") from error
    return torch.cat(parts).numpy()
