"""Trust in a distance: what shifts, slight changes and attacks do to its decisions.

Ghildyal and Liu 2022, "Shift-tolerant perceptual similarity metric", https://arxiv.org/abs/2207.13686;
Ghildyal and Liu 2023, "Attacking perceptual similarity metrics", https://arxiv.org/abs/2305.08840.

Attacks are white box, see `perceptual.distance.attacks`: they raise the distance of the image that a decision
prefers, and so lower its margin.
"""

import io
from collections.abc import Iterator, Mapping
from functools import partial
from itertools import chain
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from scipy.stats import spearmanr
from torch import Generator, Tensor, nn

from perceptual.data.batch import Batch, JudgedDataset
from perceptual.data.kinds import TWO_AFC
from perceptual.data.synthetic.distortions import FAMILIES, distort
from perceptual.distance.attacks import STRENGTHS, Ball, Norm, Strength, ascend, auto_ascend
from perceptual.metrics.opinion import correlation

ITEMS = 200  # triplets, drawn by the seed, that are shifted and slightly changed
ATTACKED = 100  # triplets on which all votes agree
ORDERED = 12  # reference images that each family of distortion changes
SEVERITIES = (0.2, 0.4, 0.6, 0.8, 1.0)
SHIFTS, RADII = (1, 2, 3), (2, 4)  # pixels; of 255
MARGIN, BATCH = max(SHIFTS), 25
ROLES = TWO_AFC.roles
STEPS = 20  # of PGD
# by name, the norm and the radius (of 255) of each ball; l2: the root of the mean square change
BALLS: dict[str, tuple[Norm, int]] = {
    "2/255": ("max", 2),
    "4/255": ("max", 4),
    "l2 2/255": ("l2", 2),
}
DIRECTIONS = torch.tensor([(0, 1), (0, -1), (1, 0), (-1, 0)])

Values = dict[str, np.ndarray]


class Triplets(NamedTuple):
    """N triplets of images, (N, 3, S, S) each."""

    ref: Tensor
    p0: Tensor
    p1: Tensor

    @classmethod
    def of(cls, batch: Batch) -> "Triplets":
        """Those of a batch."""
        return cls(*map(batch.role, ROLES))

    def to(self, device: torch.device) -> "Triplets":
        """The same on another device."""
        return Triplets(*(images.to(device) for images in self))


class Judged(NamedTuple):
    """The triplets of a report, and the clusters (by reference) that their values are resampled by."""

    shifted: Triplets
    confident: Triplets
    clusters: np.ndarray
    """(N,) of the shifted triplets."""
    answers: np.ndarray
    """(N,) of the confident triplets."""
    confident_clusters: np.ndarray
    references: Tensor
    """(ORDERED, 3, S, S)."""
    worse: dict[str, list[Tensor]]
    """By family of distortion, the references at each of `SEVERITIES`."""

    def to(self, device: torch.device) -> "Judged":
        """The same on another device."""
        worse = {family: [images.to(device) for images in steps] for family, steps in self.worse.items()}
        return self._replace(
            shifted=self.shifted.to(device),
            confident=self.confident.to(device),
            references=self.references.to(device),
            worse=worse,
        )


def choose(judged: JudgedDataset, seed: int = 0) -> Judged:
    """The triplets that all methods are tried on, drawn by the seed.

    Raises:
        ValueError: images in their own sizes, or too small to be shifted with real margins.
    """
    side = judged.images.resolution
    if not isinstance(side, int):
        raise ValueError("robustness=true compares squares of one size: give data.size=64 or another")
    if side < 4 * MARGIN:
        raise ValueError(f"images of {side} pixels are too small to be shifted by {MARGIN}")
    rng, table = np.random.default_rng(seed), judged.table.same_content()
    rows = np.sort(rng.permutation(len(table))[:ITEMS])
    agree = (table.answer == 0) | (table.answer == 1)
    if table.votes is not None:
        agree &= table.votes >= 2  # one vote always agrees
    sure = np.sort(rng.permutation(np.flatnonzero(agree))[:ATTACKED])
    _, first = np.unique(table.role("ref"), return_index=True)
    references = judged.__getitems__(np.sort(rng.permutation(first)[:ORDERED])).role("ref")
    shifted, confident = (Triplets.of(judged.__getitems__(chosen)) for chosen in (rows, sure))
    worse: dict[str, list[Tensor]] = {}
    for family in FAMILIES:
        for severity in SEVERITIES:
            generator = Generator().manual_seed(seed)  # the same noise and direction, only stronger
            worse.setdefault(family, []).append(distort(references, [(family, severity)], generator))
    ref = table.role("ref")
    return Judged(shifted, confident, ref[rows], table.answer[sure], ref[sure], references, worse)


def examine(
    distance: nn.Module,
    judged: Judged,
    rivals: Mapping[int, Tensor] | None,
    seed: int = 0,
    strength: Strength = STRENGTHS["fast"],
) -> Iterator[tuple[str, Values]]:
    """Parts of a report, one after the other: their name, and values of each triplet or image.

    Args:
        distance: (x, y) → (N,), of images (N, 3, H, W) in [0, 1], on the device of the images.
        judged: see `choose`.
        rivals: by radius, what `attacked` made of the nearer images by another distance; None without one.
        seed: of directions and starts.
        strength: of the attacks.
    """
    device = next(chain(distance.parameters(), distance.buffers()), torch.empty(0)).device
    judged = judged.to(device)
    yield "shift", shifts(distance, judged.shifted, Generator().manual_seed(seed))
    yield "nuisance", nuisances(distance, judged.shifted)
    yield "order", order(distance, judged)
    yield "axioms", axioms(distance, judged.shifted)
    if rivals is not None:
        yield "transfer", transfer(distance, judged.confident, rivals)
    try:
        pgd = attacked(distance, judged.confident, seed)
        yield "attack", attack(distance, judged, strength, seed, pgd)
    except (TypeError, RuntimeError) as error:  # no gradient, or none of an operation in it
        if "gradient" not in str(error) and "derivative" not in str(error):
            raise


@torch.no_grad()
def decide(distance: nn.Module, triplets: Triplets) -> tuple[Tensor, Tensor]:
    """(d0, d1), float64, in batches."""
    columns = zip(*(images.split(BATCH) for images in triplets), strict=True)
    parts = [(distance(ref, p0), distance(ref, p1)) for ref, p0, p1 in columns]
    d0, d1 = (torch.cat(column).cpu().double() for column in zip(*parts, strict=True))
    return d0, d1


@torch.no_grad()
def apart(distance: nn.Module, x: Tensor, y: Tensor) -> Tensor:
    """Distance (N,) of each pair, float64, in batches."""
    pairs = zip(x.split(BATCH), y.split(BATCH), strict=True)
    return torch.cat([distance(a, b) for a, b in pairs]).cpu().double()


def shifts(distance: nn.Module, triplets: Triplets, generator: Generator) -> Values:
    """Flips of decisions, and d(x, shifted x), for shifts by 1, 2 and 3 pixels in one of four directions.

    The images are windows within the triplets' own, `MARGIN` smaller on each side, so that what comes in
    at an edge is real.
    """
    directions = DIRECTIONS[torch.randint(4, (len(triplets.ref),), generator=generator)]
    still = torch.zeros_like(directions)
    windows = triplets._replace(**{role: _window(getattr(triplets, role), still) for role in ROLES})
    moved = {
        f"shift {k}": {role: _window(getattr(triplets, role), k * directions) for role in ROLES}
        for k in SHIFTS
    }
    return _changed(distance, windows, moved)


def nuisances(distance: nn.Module, triplets: Triplets) -> Values:
    """The same for JPEG at quality 95, resizing by 5 % and back, and 2 % more light."""
    changes = {
        "jpeg 95": _jpeg,
        "resized 5 %": _resized,
        "brighter 2 %": lambda images: (1.02 * images).clamp(max=1),
    }
    changed = {
        name: {role: change(getattr(triplets, role)) for role in ROLES} for name, change in changes.items()
    }
    return _changed(distance, triplets, changed)


def _changed(distance: nn.Module, triplets: Triplets, changed: Mapping[str, Mapping[str, Tensor]]) -> Values:
    d0, d1 = decide(distance, triplets)
    before, median = torch.sign(d1 - d0), _median(d0, d1)
    least, values = apart(distance, triplets.ref, triplets.ref), {}
    least = torch.where(least.isfinite(), least, 0.0)  # −PSNR of equal images is −∞
    for name, images in changed.items():
        after = [
            decide(distance, triplets._replace(ref=images["ref"])),
            (apart(distance, triplets.ref, images["p0"]), d1),
            (d0, apart(distance, triplets.ref, images["p1"])),
        ]
        flips = [torch.sign(second - first) != before for first, second in after]
        values[f"{name}: flips"] = torch.stack(flips).double().mean(0).numpy()
        moved = apart(distance, triplets.ref, images["ref"]) - least
        values[f"{name}: distance"] = (moved / median).numpy()
    return values


def attacked(distance: nn.Module, triplets: Triplets, seed: int) -> dict[int, Tensor]:
    """By radius (of 255): the image that each decision prefers, moved away from the reference.

    Raises:
        TypeError, RuntimeError: the distance has no gradient.
    """
    nearer, _ = _sides(distance, triplets)
    return {
        radius: _moved(distance, triplets.ref, nearer, radius, Generator().manual_seed(seed))
        for radius in RADII
    }


def attack(
    distance: nn.Module, judged: Judged, strength: Strength, seed: int, pgd: Mapping[int, Tensor]
) -> Values:
    """Whether each unanimous decision flips by the worst of all attacks, and is right despite them.

    Args:
        distance: (x, y) → (N,), differentiable.
        judged: see `choose`.
        strength: of the attacks beyond PGD, which are only tried on decisions that still stand.
        seed: of their starts.
        pgd: what `attacked` made of the nearer images.
    """
    triplets = judged.confident
    d0, d1 = decide(distance, triplets)
    right = np.where(d0 == d1, 0.5, (d1 < d0).numpy() == (judged.answers > 0.5))
    nearer, farther = _sides(distance, triplets)
    values = {"clean": right}
    for name, (norm, radius) in BALLS.items():
        if norm == "l2" and not strength.starts:
            continue
        flips = torch.zeros(len(farther), dtype=torch.bool)
        if norm == "max":
            flips = apart(distance, triplets.ref, pgd[radius]) > farther
        reach = radius / 255 * (1 if norm == "max" else nearer[0].numel() ** 0.5)
        for start in range(strength.starts):
            generator = Generator().manual_seed(seed + 1 + start)
            for rows in torch.nonzero(~flips).flatten().split(BATCH):
                ref, x = triplets.ref[rows], nearer[rows]
                moved = auto_ascend(partial(distance, ref), Ball(x, reach, norm), generator, strength.steps)
                flips[rows] = apart(distance, ref, moved) > farther[rows]
        values[f"attack {name}"] = flips.double().numpy()
        values[f"right {name}"] = right * ~flips.numpy()
    return values


def transfer(distance: nn.Module, triplets: Triplets, changes: Mapping[int, Tensor]) -> Values:
    """Whether each decision flips as the image it prefers gets the perturbation made on another distance.

    Args:
        distance: (x, y) → (N,).
        triplets: N.
        changes: by radius, what another distance's attack adds to p0 and p1, (N, 2, 3, H, W).
    """
    d0, d1 = decide(distance, triplets)
    prefers = (d1 < d0).to(triplets.ref.device)
    nearer = torch.where(prefers.view(-1, 1, 1, 1), triplets.p1, triplets.p0)
    farther, values = torch.maximum(d0, d1), {}
    for radius, both in changes.items():
        added = both[torch.arange(len(both)), prefers.long()]
        flipped = apart(distance, triplets.ref, (nearer + added).clamp(0, 1)) > farther
        values[f"transfer {radius}/255"] = flipped.double().numpy()
    return values


def perturbations(distance: nn.Module, triplets: Triplets, seed: int) -> dict[int, Tensor]:
    """By radius, what the attack on a distance adds to p0 and to p1, (N, 2, 3, H, W), for `transfer`."""
    found = {}
    for radius in RADII:
        generator = Generator().manual_seed(seed)
        sides = (triplets.p0, triplets.p1)
        added = [_moved(distance, triplets.ref, side, radius, generator) - side for side in sides]
        found[radius] = torch.stack(added, dim=1)
    return found


def _moved(distance: nn.Module, ref: Tensor, x: Tensor, radius: int, generator: Generator) -> Tensor:
    """What PGD makes of x within ±radius/255, in batches."""
    parts = zip(ref.split(BATCH), x.split(BATCH), strict=True)
    return torch.cat(
        [ascend(partial(distance, of), Ball(x, radius / 255), generator, STEPS) for of, x in parts]
    )


def order(distance: nn.Module, judged: Judged) -> Values:
    """Spearman's correlation of distance and severity, by family of distortion: a value per image."""
    values = {}
    for family, steps in judged.worse.items():
        rows = torch.stack([apart(distance, judged.references, worse) for worse in steps], dim=1).numpy()
        values[f"order {family}"] = np.array(
            [correlation(spearmanr, row, np.array(SEVERITIES)) for row in rows]
        )
    return values


def axioms(distance: nn.Module, triplets: Triplets) -> Values:
    """|d(x, y) − d(y, x)| over the median distance, and whether the triangle inequality is violated."""
    d0, d1 = decide(distance, triplets)
    back = apart(distance, triplets.p0, triplets.ref)
    sides = [d0, d1, apart(distance, triplets.p0, triplets.p1)]
    longest, total = torch.stack(sides).max(0).values, torch.stack(sides).sum(0)
    return {
        "asymmetry": ((d0 - back).abs() / _median(d0, d1)).numpy(),
        "triangle violations": (longest > (total - longest) * (1 + 1e-6)).double().numpy(),
    }


def _sides(distance: nn.Module, triplets: Triplets) -> tuple[Tensor, Tensor]:
    """The image that each decision prefers, and the distance of the other."""
    d0, d1 = decide(distance, triplets)
    prefers = (d1 < d0).view(-1, 1, 1, 1).to(triplets.ref.device)
    return torch.where(prefers, triplets.p1, triplets.p0), torch.maximum(d0, d1)


def _median(d0: Tensor, d1: Tensor) -> Tensor:
    return torch.cat([d0, d1]).median().abs()


def _window(images: Tensor, offset: Tensor) -> Tensor:
    """Windows of images, `MARGIN` smaller on each side, each moved by its offset (N, 2): down and right."""
    side = images.shape[-1] - 2 * MARGIN
    corners = (MARGIN + offset).tolist()
    return torch.stack(
        [image[:, y : y + side, x : x + side] for image, (y, x) in zip(images, corners, strict=True)]
    )


def _jpeg(images: Tensor) -> Tensor:
    pixels = (images.cpu() * 255).round().byte().permute(0, 2, 3, 1).numpy()
    coded = []
    for image in pixels:
        file = io.BytesIO()
        Image.fromarray(image).save(file, "JPEG", quality=95)
        coded.append(np.asarray(Image.open(file)))
    return (torch.from_numpy(np.stack(coded)).permute(0, 3, 1, 2).float() / 255).to(images.device)


def _resized(images: Tensor) -> Tensor:
    size = images.shape[-1]
    how: dict[str, object] = {"mode": "bilinear", "align_corners": False, "antialias": True}
    smaller = F.interpolate(images, (round(0.95 * size), round(0.95 * size)), **how)  # type: ignore[arg-type]
    return F.interpolate(smaller, (size, size), **how).clamp(0, 1)  # type: ignore[arg-type]
