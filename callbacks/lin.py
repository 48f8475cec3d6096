"""The learned channel weights of each level, as a picture."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from callbacks.report import Report, Trained
from perceptual.files.writing import save_picture

if TYPE_CHECKING:
    from matplotlib.figure import Figure

MOST = 5  # panels side by side
DECADES = 1e-8  # of the largest weight: anything smaller is drawn as high as this


class LinFigure(Report):
    """Draws `lin.png`: the weights of each level from the largest to the smallest, and how many are zero."""

    def make(self, trained: Trained) -> None:
        """Draw and keep the figure."""
        figure = draw([vector.detach().float().cpu().numpy() for vector in trained.module.distance.lin])
        save_picture(figure, self.path("lin.png"))
        self.show("lin", trained.trainer)


def draw(levels: Sequence[np.ndarray]) -> "Figure":
    """Draw a panel for each level, on a logarithmic scale: small weights would not be seen on another."""
    from matplotlib.figure import Figure

    top = max(float(weights.max()) for weights in levels) or 1.0
    seen = [np.where(weights > 0, np.maximum(weights, DECADES * top), 0) for weights in levels]
    bottom = (
        min((float(weights[weights > 0].min()) for weights in seen if weights.any()), default=top / 10) / 2
    )
    rows = -(-len(levels) // MOST)
    columns = -(-len(levels) // rows)
    figure = Figure((2.9 * columns + 0.4, 2.3 * rows + 0.4), dpi=120, layout="constrained")
    panels = figure.subplots(rows, columns, sharey=True, squeeze=False).flatten()
    for number, (panel, weights) in enumerate(zip(panels, seen, strict=False), start=1):
        panel.stairs(sorted(weights, reverse=True), fill=True)
        panel.set_title(f"level {number}: {len(weights)} channels, {(weights == 0).sum()} zero", size=9)
        panel.set(xlim=(0, len(weights)), yscale="log", ylim=(bottom, 1.5 * top))
        panel.minorticks_off()  # most of the time of drawing
        panel.tick_params(labelsize=8)
        panel.spines[["top", "right"]].set_visible(False)
    for panel in panels[len(levels) :]:
        panel.remove()
    figure.supxlabel("channels, by weight", size=9)
    figure.supylabel("lin", size=9)
    return figure
