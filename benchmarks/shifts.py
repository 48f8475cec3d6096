"""Decisions that flip as an image is shifted, on photographs: `python -m benchmarks.shifts FILE.csv`.

The middle `CROP` pixels are compared: of each reference, the images of a triplet and one more that other
triplets compare with these, all shifted one way, drawn by reference. As in a trust report, one of the three
images of a triplet is shifted by 1, 2 or 3 pixels, and what comes in at the edge is real. Each image goes
through a network once. Flips in % with 95 % intervals by bootstrap over references, and their ratio to those
of the first network; with all weights 1, and with the published ones of the first.
"""

import argparse
from collections import defaultdict
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor

from perceptual.data.decode import read_rgb
from perceptual.data.readers.manifests import read_manifest
from perceptual.distance.differences import mean_differences
from perceptual.distance.lpips import LPIPS
from perceptual.evaluation.methods import build
from perceptual.evaluation.robustness.trust import DIRECTIONS, MARGIN, SHIFTS
from perceptual.evaluation.statistics import ends, resample

CROP, DRAWS = 256, 2000
STEPS = (0, *SHIFTS)


def images_of(triplets: np.ndarray, rng: np.random.Generator) -> list[int]:
    """A triplet's two candidates and one more, which most triplets (N, 2) compare with them."""
    chosen = triplets[rng.integers(len(triplets))].tolist()
    count: dict[int, int] = defaultdict(int)
    for pair in triplets.tolist():
        for other in set(pair) - set(chosen):
            count[other] += len(set(pair) & set(chosen))
    return [*chosen, *sorted(count, key=lambda other: -count[other])[:1]]


def windows(path: str, direction: list[int]) -> Tensor:
    """The middle of a photograph, still and shifted by 1, 2 and 3 pixels: (4, 3, S, S) in [0, 1]."""
    image = torch.from_numpy(np.array(read_rgb(path))).permute(2, 0, 1) / 255
    side = CROP - 2 * MARGIN
    corner = [(length - side) // 2 for length in image.shape[1:]]
    starts = [[at + step * way for at, way in zip(corner, direction, strict=True)] for step in STEPS]
    return torch.stack([image[:, y : y + side, x : x + side] for y, x in starts])


def flips(found: dict[tuple[int, int, int], float], a: int, b: int) -> list[float]:
    """By shift, the part of the three shifted images with which another of the images a and b is nearer."""
    d0, d1 = found[a, 0, 0], found[b, 0, 0]
    changed = [[(found[a, k, 0], found[b, k, 0]), (found[a, 0, k], d1), (d0, found[b, 0, k])] for k in SHIFTS]
    return [float(np.mean([np.sign(y - x) != np.sign(d1 - d0) for x, y in of])) for of in changed]


def study(asked: argparse.Namespace, network: str, lins: dict[str, Tensor]) -> dict[str, Any]:
    """By weights, flips (N, 3) of decisions; and their references (N,)."""
    table, lpips = read_manifest(asked.path), cast(LPIPS, build(f"{network}-uncalibrated"))
    refs, rows = np.unique(table.role("ref"), return_inverse=True)
    found: dict[str, Any] = {"ref": [], **{name: [] for name in lins}}
    for number, ref in enumerate(refs[: asked.references]):
        rng = np.random.default_rng(number)
        pairs = np.unique(
            np.sort(np.stack([table.role("p0"), table.role("p1")], 1)[rows == number], axis=1), axis=0
        )
        direction = DIRECTIONS[rng.integers(len(DIRECTIONS))].tolist()
        chosen = images_of(pairs, rng)
        pixels = torch.cat([windows(table.paths[image], direction) for image in (ref, *chosen)])
        keys = [(image, i, j) for image in chosen for i, j in [(0, 0), *((k, 0) for k in SHIFTS)]]
        keys += [(image, 0, k) for image in chosen for k in SHIFTS]
        places = [[i, len(STEPS) * (1 + chosen.index(image)) + j] for image, i, j in keys]
        means = torch.cat(list(mean_differences(lpips, [torch.tensor(places)], pixels.__getitem__)))
        judged = [pair for pair in pairs.tolist() if set(pair) <= set(chosen)]
        found["ref"] += [number] * len(judged)
        for name, lin in lins.items():
            distances = dict(zip(keys, (means.double() @ lin.double()).tolist(), strict=True))
            found[name] += [flips(distances, *pair) for pair in judged]
        print(network, number, len(found["ref"]), flush=True)
    return {name: np.array(values) for name, values in found.items()}


def main() -> None:
    """Print flips of each network, and their ratio to the first's, with intervals."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("path", help="manifest of triplets of photographs")
    parser.add_argument("--networks", nargs="+", default=["alexnet", "alexnet[antialias=true]"])
    parser.add_argument("--references", type=int, help="how many; all if not given")
    asked = parser.parse_args()
    published = torch.cat([lin.detach() for lin in cast(LPIPS, build(asked.networks[0])).lin])
    lins = {"all weights 1": torch.ones_like(published), "published weights": published}
    with torch.no_grad():
        studies = {network: study(asked, network, lins) for network in asked.networks}
    first = studies[asked.networks[0]]
    cluster = first["ref"]
    drawn = resample(lambda times: times, cluster, draws=DRAWS)
    pixels = ", ".join(map(str, SHIFTS))
    print(f"{len(cluster)} decisions on {cluster.max() + 1} references; shifts of {pixels} pixels")
    for name in lins:
        for network, of in studies.items():
            draws = drawn @ of[name]
            ratios, flipped = draws / (drawn @ first[name]), 100 * draws / drawn.sum(1, keepdims=True)
            said = [
                " ".join(
                    f"{x:.{digits}f} ({low:.{digits}f} to {high:.{digits}f})"
                    for x, low, high in zip(value, *ends(sample), strict=True)
                )
                for value, sample, digits in (
                    (100 * of[name].mean(0), flipped, 1),
                    (of[name].mean(0) / first[name].mean(0), ratios, 2),
                )
            ]
            print(f"{name}, {network}: {said[0]} % flip; ratio {said[1]}")


if __name__ == "__main__":
    main()
