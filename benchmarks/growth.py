"""Cost over a decade of sizes, which should grow linearly: `python -m benchmarks.growth`.

`calibration`: `Trainer.fit` of train.py with an empty cache, extraction and ten epochs, by triplets of 64×64.
`pairwise`: `LPIPS.embed`, the part of `LPIPS.pairwise` that passes images through the backbone, by images.
The exponent is the slope of the logarithms once the constant of a straight line is taken away. Writes
growth.json and growth.png.
"""

import os
import tempfile
from collections.abc import Mapping
from pathlib import Path
from unittest.mock import patch

import numpy as np
import torch
from matplotlib.figure import Figure

from benchmarks.calibration import store, train, write_weights
from benchmarks.timing import arguments, medians, report, same_weights
from perceptual.files.writing import save_picture

TRIPLETS = (1000, 2000, 5000, 10_000)
IMAGES = (200, 500, 1000, 2000)

Seconds = dict[int, float]


def calibration(name: str) -> Seconds:
    """Seconds of extraction and fit by number of triplets; one small run before is not counted."""
    theirs, _ = same_weights(name)
    taken = {}
    with tempfile.TemporaryDirectory() as place:
        weights = write_weights(theirs, name, Path(place))
        for turn, count in enumerate((TRIPLETS[0], *TRIPLETS)):
            choices = [f"backbone={name}", f"backbone.weights={weights}", "model=lin", "data=bapps"]
            choices += [f"data.root={store(count)}", f"runs={place}/runs"]
            choices += ["data.train_subsets=[train/photos]", "data.val_subsets=[val/photos]"]
            with patch.dict(os.environ, PERCEPTUAL_CACHE=f"{place}/{turn}"):
                taken[count] = train(*choices)[1]
    return taken


def pairwise(name: str) -> Seconds:
    """Seconds of the embeddings by number of images."""
    _, ours = same_weights(name)
    images = torch.rand(max(IMAGES), 3, 64, 64, generator=torch.Generator().manual_seed(0))
    calls = {str(n): lambda n=n: ours.embed(images[:n]) for n in IMAGES}
    return {int(n): seconds for n, seconds in medians(calls, rounds=3).items()}


def straight(seconds: Seconds) -> tuple[float, float, float]:
    """(a, b) of the line a + b·n nearest to the seconds, relatively, and the exponent of seconds − a."""
    n, t = np.array(list(seconds)), np.array(list(seconds.values()))
    b, a = np.polyfit(n, t, 1, w=1 / t)
    return float(a), float(b), float(np.polyfit(np.log(n), np.log(np.maximum(t - a, 1e-9)), 1)[0])


def draw(curves: Mapping[str, Seconds]) -> Figure:
    """One panel for each curve, with the straight line through it."""
    figure = Figure((9, 3.6), dpi=150, layout="constrained")
    panels = figure.subplots(1, len(curves), squeeze=False)[0]
    for panel, (name, seconds) in zip(panels, curves.items(), strict=True):
        a, b, exponent = straight(seconds)
        ends = np.array([0, max(seconds)])
        panel.plot(
            ends, a + b * ends, color="0.7", label=f"{a:.2g} s and {1000 * b:.3g} ms each".replace("-", "−")
        )
        panel.plot(list(seconds), list(seconds.values()), "o", label="measured")
        panel.set(title=f"{name}, exponent {exponent:.2f}", ylabel="seconds", xlim=0, ylim=0)
        panel.set_xlabel("triplets" if "fit" in name else "images")
        panel.legend(frameon=False)
    return figure


if __name__ == "__main__":
    options = arguments(__doc__, "growth.json")
    rows, curves = [], {}
    for net in options.nets:
        curves = {f"{net}: extraction and fit": calibration(net), f"{net}: embed": pairwise(net)}
        for what, seconds in curves.items():
            a, b, exponent = straight(seconds)
            fits = {"constant s": a, "ms each": 1000 * b, "exponent": exponent}
            rows.append({"what": what, **fits, "seconds": {str(n): round(s, 3) for n, s in seconds.items()}})
        suffix = f".{net}.png" if len(options.nets) > 1 else ".png"
        save_picture(draw(curves), options.output.with_suffix(suffix))
    report(rows, options.output)
