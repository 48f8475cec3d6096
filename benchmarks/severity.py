"""How far each family of distortion goes, by several methods, and the ranges that design `paper` draws from.

    PERCEPTUAL_WEIGHTS=path/to/weights python -m benchmarks.severity [--output docs/results/severity]

For every family and severities from 0 to 1: the mean distance of 40 patches of packaged photographs from
their distortions, by L2, SSIM, AlexNet and SqueezeNet uncalibrated, and LPIPS, which is calibrated on people.
Ends of a range: the severities at which LPIPS is `LOWEST` and `HIGHEST`, or 1. Then triplets of design
`paper`: how often AlexNet, SqueezeNet and SSIM do not all choose the same patch, and how each agrees with
the simulated observer. Writes a table (.md) and a picture (.png).
"""

import argparse
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from matplotlib.figure import Figure
from torch import Tensor

from perceptual.data import TWO_AFC
from perceptual.data.batch import JudgedDataset
from perceptual.data.synthetic.distortions import FAMILIES, RANGES, distort
from perceptual.data.synthetic.making import make_items
from perceptual.data.synthetic.photographs import packaged, patches
from perceptual.evaluation.methods import create_metric
from perceptual.files.writing import save_picture
from perceptual.metrics.two_afc import two_afc_agreement

METHODS = ("l2", "ssim", "alexnet-uncalibrated", "squeezenet1_1-uncalibrated", "alexnet-v0.1")
PEOPLE = METHODS[-1]  # calibrated on people's judgments
LOWEST, HIGHEST = 0.02, 0.35
SEVERITIES = np.linspace(0, 1, 11)
PATCHES, TRIPLETS = 40, 2000

Distance = Callable[[Tensor, Tensor], Tensor]


def curves(methods: dict[str, Distance], family: str) -> dict[str, np.ndarray]:
    """Mean distance at each severity, by each method."""
    images = patches(packaged(), PATCHES, seed=7)
    distorted = [distort(images, [(family, float(s))], torch.Generator().manual_seed(0)) for s in SEVERITIES]
    with torch.no_grad():
        return {
            name: np.array([method(images, each.clamp(0, 1)).mean().item() for each in distorted])
            for name, method in methods.items()
        }


def ends(curve: np.ndarray) -> tuple[float, float]:
    """The range of severities between the two distances, rounded to hundredths."""
    low, high = (float(np.interp(level, curve, SEVERITIES)) for level in (LOWEST, HIGHEST))
    return round(low, 2), round(high, 2)


def difficulty(methods: dict[str, Distance]) -> tuple[float, dict[str, float]]:
    """Share of triplets on which the three do not agree, and 2AFC of each with the observer."""
    data = JudgedDataset(make_items(TWO_AFC, packaged(), TRIPLETS, seed=5))
    first: dict[str, list[Tensor]] = {name: [] for name in methods}
    scores: dict[str, list[Tensor]] = {name: [] for name in methods}
    for start in range(0, len(data), 100):
        batch = data.__getitems__(range(start, min(start + 100, len(data))))
        for name, method in methods.items():
            with torch.no_grad():
                d0, d1 = batch.distances(method)
            first[name].append(d0 < d1)
            scores[name].append(two_afc_agreement(d0, d1, batch.answer))
    votes = torch.stack([torch.cat(first[name]) for name in METHODS[1:4]])
    together = (votes == votes[0]).all(0)
    return 1 - together.float().mean().item(), {
        name: 100 * torch.cat(parts).mean().item() for name, parts in scores.items()
    }


def picture(found: dict[str, dict[str, np.ndarray]]) -> Figure:
    """A panel for each family; distances relative to their largest anywhere, on a root scale."""
    figure = Figure((14, 11), dpi=100, layout="constrained")
    top = {name: max(curves[name].max() for curves in found.values()) for name in METHODS}
    for panel, (family, of_methods) in zip(figure.subplots(4, 5).flat, found.items(), strict=True):
        for name, curve in of_methods.items():
            panel.plot(SEVERITIES, np.sqrt(np.clip(curve, 0, None) / top[name]), label=name)
        panel.axvspan(*RANGES[family], color="0.9")
        panel.set(title=said(family), ylim=(0, 1), xlim=(0, 1))
    figure.legend(*panel.get_legend_handles_labels(), loc="outside upper center", ncols=len(METHODS))
    figure.supxlabel("severity; grey: the range of design paper")
    figure.supylabel("√(distance / largest)")
    return figure


def said(family: str) -> str:
    """The name of a family as prose has it."""
    return family.replace("_", " ").replace("color", "colour")


def main(output: Path) -> None:
    """Measure, print and write."""
    methods = {name: create_metric(name).distance for name in METHODS}
    found = {family: curves(methods, family) for family in FAMILIES}
    lines = [
        "# Severity and distance",
        "",
        "Mean distances at severity ½ and 1, and the range of severities that design `paper` draws from, "
        f"where LPIPS (`{PEOPLE}`) is between {LOWEST} and {HIGHEST}.",
        "",
        "```bash",
        "python -m benchmarks.severity",
        "```",
        "",
        f"| family | {' | '.join(f'{name} ½ · 1' for name in METHODS)} | range |",
        f"|---|{'---|' * (len(METHODS) + 1)}",
    ]
    for family, of_methods in found.items():
        cells = [f"{curve[5]:.3g} · {curve[-1]:.3g}" for curve in of_methods.values()]
        low, high = ends(of_methods[PEOPLE])
        lines.append(f"| {said(family)} | {' | '.join(cells)} | {low:.2f} – {high:.2f} |")
        print(f'    "{family}": ({low}, {high}),')
        for name, curve in of_methods.items():
            if (np.diff(curve) < 0).any():
                print(f"      {name} does not grow: {np.round(curve, 4)}")
    split, scores = difficulty(methods)
    each = ", ".join(f"{name} {score:.1f} %" for name, score in scores.items())
    lines += [
        "",
        f"On {TRIPLETS:,} triplets of design `paper`, AlexNet, SqueezeNet (both uncalibrated) and SSIM "
        f"do not all choose the same patch on {split:.1%}. 2AFC with the simulated observer: {each}.",
        "",
        "![Distance against severity for each family](severity.png)",
    ]
    print("\n".join(lines[-4:]))
    output.with_suffix(".md").write_text("\n".join(lines) + "\n")
    save_picture(picture(found), output.with_suffix(".png"))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--output", type=Path, default=Path("docs/results/severity"))
    main(parser.parse_args().output)
