"""`perceptual pairs DIR -o matrix.csv`: the distances of all images of a folder from each other."""

import sys
from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from perceptual.cli.options import Csv, Json, Method, Resize

if TYPE_CHECKING:
    from torch import Tensor

    from perceptual.cli.method import Chosen

COLUMNS = ("image", "nearest", "distance")


def pairs(
    folder: Annotated[str, typer.Argument(metavar="DIR", help="A folder of images.", show_default=False)],
    output: Annotated[
        Path | None, typer.Option("-o", "--output", help="CSV file for the matrix.", show_default=False)
    ] = None,
    nearest: Annotated[int, typer.Option(min=1, help="Neighbours to print for each image.")] = 1,
    plot: Annotated[
        Path | None,
        typer.Option(
            help="Picture to write: a dendrogram (average linkage) beside a heat map of the matrix in its "
            "order.",
            show_default=False,
        ),
    ] = None,
    method: Method = None,
    resize: Resize = False,
    json: Json = False,
    csv: Csv = False,
) -> None:
    """Compare all pairs of images in a folder; print each image's nearest neighbours, closest pairs first.

    An image that cannot be used is reported, the others are measured, and the exit status is 1.

    Example: `perceptual pairs photos/ -o matrix.csv --plot tree.png`

    Example: `perceptual pairs photos/ --nearest 3 --csv`
    """
    from perceptual.cli.method import choose
    from perceptual.cli.output import RowFile, note, print_json, print_table, write_csv

    if plot:
        from perceptual.cli.plots import check_picture

        check_picture(plot)
    names, images, problems = _read(folder, resize)
    for problem in problems:
        note(f"not measured: {problem}")
    if len(names) < 2:
        raise ValueError(f"{folder} has fewer than two images that can be used")
    with RowFile(output, ["image", *names]) if output else nullcontext() as file:
        chosen = choose(method)
        matrix = _matrix(chosen, images)
        if file:
            file.write([[name, *row] for name, row in zip(names, matrix.tolist(), strict=True)])
    if plot:
        from perceptual.cli.plots import draw_matrix

        draw_matrix(names, matrix.numpy(), chosen.name, plot)
    rows = _nearest(names, matrix, nearest)
    if json:
        found = [dict(zip(COLUMNS, row, strict=True)) for row in rows]
        print_json({"method": chosen.name, "images": names, "nearest": found, "problems": problems})
    elif csv:
        write_csv(sys.stdout, COLUMNS, rows)
    else:
        print_table(COLUMNS, rows)
        for path in filter(None, (output, plot)):
            typer.echo(f"{path}: {len(names):,} images · {chosen.name}")
    if problems:
        raise ValueError(f"{len(problems):,} of {len(names) + len(problems):,} images could not be measured")


def _read(folder: str, resize: bool) -> tuple[list[str], "Tensor", list[str]]:
    """Names and pixels (N, 3, H, W) uint8 of the images of a folder, and what is wrong with the others."""
    import torch

    from perceptual.cli.images import fit, list_images, pixels, read_image
    from perceptual.cli.output import progress

    read: dict[str, Tensor] = {}
    problems: list[str] = []
    first = None
    files = list_images(folder)
    for name, path in progress(files.items(), "Reading", len(files)):
        try:
            image = read_image(path)
            first = first or (path, image.size)
            read[name] = pixels(fit(image, path, first[1], first[0], resize))
        except ValueError as error:
            problems.append(str(error))
    return list(read), torch.stack(list(read.values())) if read else torch.empty(0), problems


def _matrix(chosen: "Chosen", images: "Tensor") -> "Tensor":
    """Distances (N, N), on the CPU."""
    import torch

    from perceptual.cli.batches import Pair, measure_all
    from perceptual.cli.output import STDERR, progress
    from perceptual.distance.lpips import LPIPS

    if isinstance(chosen.distance, LPIPS):
        with STDERR.status("All pairs"):
            return chosen.distance.pairwise(images.to(chosen.device)).cpu()
    count = len(images)
    places = [(i, j) for i in range(count) for j in range(i, count)]
    matrix = torch.empty(count, count)
    found = measure_all(chosen.measure, places, lambda place: Pair(images[place[0]], images[place[1]]))
    for (i, j), value in progress(found, "Pairs", len(places)):
        if isinstance(value, ValueError):
            raise value
        matrix[i, j] = matrix[j, i] = value
    return matrix


def _nearest(names: list[str], matrix: "Tensor", count: int) -> list[tuple[str, str, float]]:
    """(image, neighbour, distance) of the `count` nearest of each image; images with close ones first."""
    others = matrix.clone().fill_diagonal_(float("inf"))
    values, places = others.sort(dim=1, stable=True)
    by_image = [
        [(names[i], names[places[i, k]], values[i, k].item()) for k in range(min(count, len(names) - 1))]
        for i in values[:, 0].argsort(stable=True).tolist()
    ]
    return [row for rows in by_image for row in rows]
