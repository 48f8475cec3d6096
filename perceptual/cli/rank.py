"""`perceptual rank REF IMG…`: which of some images people would find nearest to a reference."""

import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated

import typer

from perceptual.cli.options import Csv, Json, Method, Resize

if TYPE_CHECKING:
    from torch import nn

    from perceptual.cli.method import Chosen
    from perceptual.cli.output import Cell

COLUMNS = ("rank", "image", "distance")
SURE = "preferred_to_next"


def rank(
    ref: Annotated[str, typer.Argument(metavar="REF", help="The reference.", show_default=False)],
    images: Annotated[list[str], typer.Argument(metavar="IMG...", help="Candidates.", show_default=False)],
    method: Method = None,
    resize: Resize = False,
    json: Json = False,
    csv: Csv = False,
) -> None:
    """Order images by their distance from a reference, the nearest first.

    A checkpoint contains a ranking network. With it, the last column is the share of people who are expected
    to prefer an image to the next one (the mean of asking it both ways round).

    Example: `perceptual rank original.png q90.jpg q50.jpg q10.jpg`

    Example: `perceptual rank original.png out/*.png --method runs/…/last.ckpt --json`
    """
    from perceptual.cli.method import choose
    from perceptual.cli.output import note, print_json, print_table, write_csv

    chosen = choose(method)
    distances, problems = _measure(chosen, ref, images, resize)
    for problem in problems:
        note(f"not measured: {problem}")
    order = sorted(distances, key=lambda pair: pair[1])
    columns = [*COLUMNS]
    rows: list[list[Cell]] = [[place, *pair] for place, pair in enumerate(order, 1)]
    if chosen.ranking and rows:
        columns.append(SURE)
        for row, sure in zip(rows, [*_preferences(chosen.ranking, [d for _, d in order]), None], strict=True):
            row.append(sure)
    if json:
        ranked = [dict(zip(columns, row, strict=True)) for row in rows]
        print_json({"ref": ref, "method": chosen.name, "images": ranked, "problems": problems})
    elif csv:
        write_csv(sys.stdout, columns, rows)
    else:
        print_table([column.replace("_", " ") for column in columns], rows)
    if problems:
        raise ValueError(f"{len(problems):,} of {len(images):,} images could not be measured")


def _measure(
    chosen: "Chosen", ref: str, images: Sequence[str], resize: bool
) -> tuple[list[tuple[str, float]], list[str]]:
    from perceptual.cli.batches import Pair, measure_all
    from perceptual.cli.images import fit, pixels, read_image
    from perceptual.cli.output import progress

    reference = read_image(ref)
    held = pixels(reference)

    def read(path: str) -> Pair:
        return Pair(held, pixels(fit(read_image(path), path, reference.size, ref, resize)))

    found: list[tuple[str, float]] = []
    problems: list[str] = []
    for path, value in progress(measure_all(chosen.measure, images, read), "Images", len(images)):
        if isinstance(value, ValueError):
            problems.append(str(value))
        else:
            found.append((path, value))
    return found, problems


def _preferences(ranking: "nn.Module", distances: Sequence[float]) -> list[float]:
    """Expected share of people who prefer each image to the next, given their rising distances."""
    import torch

    with torch.inference_mode():
        nearer, farther = torch.tensor(distances[:-1]), torch.tensor(distances[1:])
        prefer_farther = ranking(nearer, farther).sigmoid()
        prefer_nearer = ranking(farther, nearer).sigmoid()
        shares: list[float] = ((prefer_nearer + 1 - prefer_farther) / 2).tolist()
    return shares
