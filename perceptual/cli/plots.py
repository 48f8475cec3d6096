"""Pictures of the commands, by matplotlib."""

import textwrap
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from perceptual.files.writing import check_writable, ending_of, save_picture

if TYPE_CHECKING:
    from matplotlib.colors import Colormap
    from matplotlib.figure import Figure

    from perceptual.evaluation.notice import Fitted

HEAT = "inferno"
SHOWN = 20  # points of a curve
NAMED = 80  # images; the names of more cannot be read


def check_picture(path: Path) -> None:
    """Refuse a picture that could not be written, before any work.

    Raises:
        ValueError: matplotlib does not know the format, or the path is a folder.
        OSError: it cannot be written.
    """
    from matplotlib.backend_bases import FigureCanvasBase

    known = FigureCanvasBase.get_supported_filetypes()
    if ending_of(path) not in known:
        raise ValueError(f"{path} cannot be drawn: its suffix must be one of {', '.join(known)}")
    check_writable(path)


def draw_heatmap(
    images: Sequence[np.ndarray],
    names: Sequence[str],
    maps: np.ndarray,
    distance: str,
    method: str,
    path: Path,
    levels: Sequence[float] = (),
) -> None:
    """Draw two images, and where they differ over a grey first one; below, optionally, each level's map.

    Args:
        images: two of (H, W, 3) uint8.
        names: what they are called.
        maps: (L, H, W), what each level adds to the distance at each position.
        distance: how far they are apart, as it is shown over the overlay.
        method: by what.
        path: picture to write.
        levels: what each level adds to the distance; none draws no strip of levels.
    """
    height, width = maps.shape[1:]
    panel = 4.2
    tall = panel * min(height / width, 3)
    strip = 3 * panel / max(len(levels), 1) * min(height / width, 3) + 0.5 if levels else 0
    figure = _figure(3 * panel + 0.9, tall + 0.6 + strip)
    rows: Any = figure.subfigures(2, 1, height_ratios=(tall + 0.6, strip)) if levels else [figure]
    panels = rows[0].subplots(1, 3)
    for axes, image, name in zip(panels, images, shortened(names), strict=False):
        axes.imshow(image)
        axes.set_title(name, fontsize=10, parse_math=False)
    total = maps.sum(0)
    # pale grey, so that neither black nor white takes the map's colours away
    panels[2].imshow(images[0].mean(2), cmap="gray", vmin=-120, vmax=375)
    heat = panels[2].imshow(total, cmap=_overlay(), vmin=0, vmax=_top(total))
    title = f"distance {distance} ({shortened([method])[0]})"
    panels[2].set_title(title, fontsize=10, parse_math=False)
    rows[0].colorbar(heat, ax=panels[2], label="distance", fraction=0.05)
    if levels:
        _draw_levels(rows[1], maps, levels)
    for axes in figure.axes:
        if axes.images:
            axes.set_axis_off()
    save_picture(figure, path)


def draw_matrix(names: Sequence[str], matrix: np.ndarray, method: str, path: Path) -> None:
    """Draw a dendrogram (average linkage), and beside it the distances (N, N) as a heat map in its order."""
    from scipy.cluster.hierarchy import dendrogram, linkage
    from scipy.spatial.distance import squareform

    condensed = squareform(matrix, checks=False)
    if not np.isfinite(condensed).all():
        raise ValueError(f"{method} has distances that are not finite here: they cannot be drawn as a tree")
    # psnr is negative; linkage is the same, shifted
    tree = linkage(condensed - min(condensed.min(), 0), "average", optimal_ordering=len(names) <= 500)
    named = len(names) <= NAMED
    side = min(max(0.2 * len(names), 4.0), 16.0)
    short = shortened(names)
    around = 0.06 * max(map(len, short)) if named else 0  # inches of 7 points
    figure = _figure(1.6 * side + 2 + around, side + 0.5 + around)
    left, right = figure.subplots(1, 2, width_ratios=(0.6, 1))
    drawn = dendrogram(tree, orientation="left", ax=left, color_threshold=0, above_threshold_color="#444444")
    left.set(yticks=[], xlabel="distance at which groups join")
    left.invert_yaxis()
    left.spines[["top", "left", "right"]].set_visible(False)
    order = drawn["leaves"]
    heat = right.imshow(matrix[np.ix_(order, order)], cmap=HEAT, aspect="auto")
    right.yaxis.tick_right()
    places, labels = (range(len(names)), [short[i] for i in order]) if named else ([], [])
    right.set_xticks(places, labels, rotation=90, fontsize=7, parse_math=False)
    right.set_yticks(places, labels, fontsize=7, parse_math=False)
    bar = figure.colorbar(heat, ax=right, fraction=0.05)
    bar.set_label(f"distance ({shortened([method])[0]})", parse_math=False)
    save_picture(figure, path)


def draw_frames(
    seconds: Sequence[float], distances: Sequence[float], names: Sequence[str], method: str, path: Path
) -> None:
    """Draw the distance of each frame of two videos over its time in seconds."""
    figure = _figure(9, 3.2)
    axes = figure.subplots()
    axes.plot(seconds, distances, color="#3b528b", lw=1, marker="o" if len(seconds) < 60 else "", ms=3)
    axes.set(xlabel="seconds", ylabel="distance")
    title = f"{' against '.join(shortened(names))} · {shortened([method])[0]}"
    axes.set_title(textwrap.fill(title, 90), fontsize=10, parse_math=False)
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(color="#eeeeee")
    axes.set_ylim(bottom=min(0, *distances))
    save_picture(figure, path)


def draw_noticed(fitted: "Fitted", method: str, path: Path) -> None:
    """Draw the share of people who notice a distance, with its interval, over the shares of bins of pairs."""
    curve, figure = fitted.noticed, _figure(6.4, 4.2)
    axes = figure.subplots()
    mean, share, votes = fitted.bins[:, fitted.bins[0] > 0]
    for part in np.array_split(np.arange(len(mean)), min(SHOWN, len(mean))):
        middle = np.exp(np.average(np.log(mean[part]), weights=votes[part]))
        axes.plot(middle, 100 * np.average(share[part], weights=votes[part]), "o", color="#555555", ms=4)
    axes.fill_between(fitted.distances, 100 * fitted.low, 100 * fitted.high, color="#3b528b", alpha=0.2, lw=0)
    axes.plot(
        fitted.distances, 100 * curve.share(torch.from_numpy(fitted.distances)).numpy(), color="#3b528b"
    )
    axes.set(xscale="log", ylim=(0, 100), xlabel="distance", ylabel="people who notice, in %")
    title = f"{shortened([method])[0]} · {curve.pairs:,} pairs of {shortened([curve.data])[0]}"
    axes.set_title(title, fontsize=10, parse_math=False)
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(color="#eeeeee")
    save_picture(figure, path)


def _draw_levels(figure: Any, maps: np.ndarray, levels: Sequence[float]) -> None:
    """Draw a strip of the levels, shallow to deep, on one scale."""
    panels = figure.subplots(1, len(levels), squeeze=False)[0]
    for number, (axes, level, value) in enumerate(zip(panels, maps, levels, strict=True), 1):
        heat = axes.imshow(level, cmap=HEAT, vmin=0, vmax=_top(maps))
        axes.set_title(f"level {number} adds {value:.3f}", fontsize=9)
    figure.colorbar(heat, ax=panels, fraction=0.02)


def shortened(names: Sequence[str]) -> list[str]:
    """Names that fit above a panel, as `short_names`; bytes that are not UTF-8 are escaped."""
    from perceptual.evaluation.tables import short_names

    return short_names([name.encode(errors="backslashreplace").decode() for name in names])


def overlay(image: np.ndarray, heat: np.ndarray) -> np.ndarray:
    """A map (H, W) of where images differ over a pale grey one of them, (H, W, 3) uint8 both."""
    pale = 64 + image.mean(2, keepdims=True) * 0.5
    colors = _overlay()(heat / _top(heat))
    opaque = colors[..., 3:]
    mixed: np.ndarray = (255 * colors[..., :3] * opaque + pale * (1 - opaque)).round().astype(np.uint8)
    return mixed


def _overlay() -> "Colormap":
    """Return the colours of heat, clear at 0 and dense at the top, so that equal parts stay visible."""
    from matplotlib import colormaps
    from matplotlib.colors import ListedColormap

    colors = colormaps[HEAT](np.linspace(0.1, 1, 256))
    colors[:, 3] = np.linspace(0, 0.9, 256) ** 0.7
    return ListedColormap(colors)


def _top(values: np.ndarray) -> float:
    """Upper end of a colour scale, which must lie above 0 also where images are equal."""
    return max(float(values.max()), 1e-6)


def _figure(width: float, height: float) -> "Figure":
    from matplotlib.figure import Figure

    return Figure((width, height), dpi=150, layout="constrained")
