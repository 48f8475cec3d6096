"""`perceptual rank REF IMG…`: which of some images people would find nearest to a reference."""

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Annotated

import typer

from perceptual.cli.options import Csv, Json, Mask, Memory, Method, Outside, Resize, is_image

if TYPE_CHECKING:
    from torch import nn

    from perceptual.cli.method import Chosen
    from perceptual.cli.output import Cell, Problems

COLUMNS = ("rank", "image", "distance")
SURE = "preferred_to_next"


def rank(
    ref: Annotated[
        str, typer.Argument(metavar="REF", help="The reference.", show_default=False, callback=is_image)
    ],
    images: Annotated[list[str], typer.Argument(metavar="IMG...", help="Candidates.", show_default=False)],
    method: Method = None,
    mask: Mask = None,
    outside: Outside = "see",
    memory: Memory = None,
    resize: Resize = False,
    json: Json = False,
    csv: Csv = False,
) -> None:
    """Order images by their distance from a reference, the nearest first.

    A checkpoint contains a ranking network. With it, the last column is the share of people who are expected
    to prefer an image to the next one (the mean of asking it both ways round).

    Example: `perceptual rank original.png q90.jpg q50.jpg q10.jpg`

    Example: `perceptual rank original.png out/*.png --method runs/…/last.ckpt --json`

    Example: `perceptual rank original.png out/*.png --mask face.png --outside fill`
    """
    from perceptual.cli.method import choose
    from perceptual.cli.output import Problems, print_for_scripts, print_table

    chosen, problems = choose(method, outside, memory), Problems("images")
    order = sorted(_measure(chosen, ref, images, mask, resize, problems), key=lambda pair: pair[1])
    columns = [*COLUMNS]
    rows: list[list[Cell]] = [[place, *pair] for place, pair in enumerate(order, 1)]
    if chosen.ranking and rows:
        columns.append(SURE)
        for row, sure in zip(rows, [*_preferences(chosen.ranking, [d for _, d in order]), None], strict=True):
            row.append(sure)
    about = {"ref": ref, "method": chosen.name, "problems": problems}
    if not print_for_scripts(columns, rows, json, csv, "images", **about):
        print_table([column.replace("_", " ") for column in columns], rows)
    problems.finish(len(images))


def _measure(
    chosen: "Chosen",
    ref: str,
    images: Sequence[str],
    mask: str | None,
    resize: bool,
    problems: "Problems",
) -> Iterator[tuple[str, float]]:
    from perceptual.cli.batches import Pair, measure_all
    from perceptual.cli.images import fit, pixels, read_image, read_mask
    from perceptual.files.progress import track

    reference = read_image(ref)
    held = pixels(reference)
    weights = None if mask is None else read_mask(mask, reference.size, ref, resize)

    def read(path: str) -> Pair:
        return Pair(held, pixels(fit(read_image(path), path, reference.size, ref, resize)), weights)

    for path, value in track(measure_all(chosen.measure, images, read), "Images", len(images)):
        if isinstance(value, ValueError):
            problems.add(value)
        else:
            yield path, value


def _preferences(ranking: "nn.Module", distances: Sequence[float]) -> list[float]:
    """Expected share of people who prefer each image to the next, given their rising distances."""
    import torch

    with torch.inference_mode():
        nearer, farther = torch.tensor(distances[:-1]), torch.tensor(distances[1:])
        prefer_farther = ranking(nearer, farther).sigmoid()
        prefer_nearer = ranking(farther, nearer).sigmoid()
        shares: list[float] = ((prefer_nearer + 1 - prefer_farther) / 2).tolist()
    return shares
