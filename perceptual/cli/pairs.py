"""`perceptual pairs DIR -o matrix.csv`: the distances of all images of a folder from each other."""

from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from perceptual.cli.options import (
    Csv,
    FailAbove,
    FailAboveNoticed,
    Json,
    JUnit,
    Mask,
    Method,
    Outside,
    Report,
    Resize,
    is_folder,
)

if TYPE_CHECKING:
    from torch import Tensor

    from perceptual.cli.method import Chosen
    from perceptual.cli.output import Problems

COLUMNS = ("image", "nearest", "distance")


def pairs(
    folder: Annotated[
        str, typer.Argument(metavar="DIR", help="A folder of images.", show_default=False, callback=is_folder)
    ],
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
    mask: Mask = None,
    outside: Outside = "see",
    resize: Resize = False,
    fail_above: FailAbove = None,
    fail_above_noticed: FailAboveNoticed = None,
    report: Report = None,
    junit: JUnit = None,
    json: Json = False,
    csv: Csv = False,
) -> None:
    """Compare all pairs of images in a folder; print each image's nearest neighbours, closest pairs first.

    An image that cannot be used is reported, the others are measured, and the exit status is 1.

    Example: `perceptual pairs photos/ -o matrix.csv --plot tree.png`

    Example: `perceptual pairs photos/ --nearest 3 --csv`

    Example: `perceptual pairs frames/ --mask all-but-the-clock.png --outside fill`
    """
    from perceptual.cli.batches import Pair
    from perceptual.cli.gate import Gate, Measured
    from perceptual.cli.images import read_mask
    from perceptual.cli.method import choose
    from perceptual.cli.output import Problems, RowFile, print_for_scripts, print_table

    gate = Gate(fail_above, fail_above_noticed, report, junit)
    if plot:
        from perceptual.cli.plots import check_picture

        check_picture(plot)
    problems = Problems("images")
    names, images = _read(folder, resize, problems)
    if len(names) < 2:
        raise ValueError(f"{folder} has fewer than two images that can be used")
    weights = None
    if mask is not None:
        height, width = images.shape[2:]
        weights = read_mask(mask, (width, height), names[0], resize)
    with RowFile(output, ["image", *names]) if output else nullcontext() as file:
        chosen = choose(method, outside)
        gate.of(chosen)
        matrix = _matrix(chosen, images, weights)
        if file:
            file.write([[name, *row] for name, row in zip(names, matrix.tolist(), strict=True)])
    if plot:
        from perceptual.cli.plots import draw_matrix

        draw_matrix(names, matrix.numpy(), chosen.name, plot)
    rows = _nearest(names, matrix, nearest)
    about = {"method": chosen.name, "images": names, "problems": problems}
    if not print_for_scripts(COLUMNS, rows, json, csv, "nearest", **about):
        print_table(COLUMNS, rows)
        for path in filter(None, (output, plot)):
            typer.echo(f"{path}: {len(names):,} images · {chosen.name}")
    places = [(i, j) for i in range(len(names)) for j in range(i)] if gate.asked else []
    gate.check(
        [Measured(f"{names[j]}, {names[i]}", matrix[i, j].item(), (names[j], names[i])) for i, j in places],
        problems,
        chosen,
        lambda some: (Pair(images[places[k][1]], images[places[k][0]], weights) for k in some),
    )
    problems.finish(len(names) + len(problems))
    gate.leave()


def _read(folder: str, resize: bool, problems: "Problems") -> tuple[list[str], "Tensor"]:
    """Read the names and pixels (N, 3, H, W) uint8 of the images of a folder, at the size of the first."""
    import torch

    from perceptual.cli.images import fit, list_images, pixels, read_image
    from perceptual.files.progress import track

    read: dict[str, Tensor] = {}
    first = None
    files = list_images(folder)
    for name, path in track(files.items(), "Reading", len(files)):
        try:
            image = read_image(path)
            first = first or (path, image.size)
            read[name] = pixels(fit(image, path, first[1], first[0], resize))
        except ValueError as error:
            problems.add(error)
    return list(read), torch.stack(list(read.values())) if read else torch.empty(0)


def _matrix(chosen: "Chosen", images: "Tensor", mask: "Tensor | None") -> "Tensor":
    """Distances (N, N), on the CPU, of what a mask (1, H, W) uint8 covers."""
    import torch

    from perceptual.cli.batches import Pair, measure_all
    from perceptual.cli.output import STDERR
    from perceptual.distance.lpips import LPIPS
    from perceptual.files.progress import track

    if isinstance(chosen.distance, LPIPS):
        with STDERR.status("All pairs"):
            weights = None if mask is None else mask[None].to(chosen.device)
            return chosen.distance.pairwise(images.to(chosen.device), mask=weights).cpu()
    count = len(images)
    places = [(i, j) for i in range(count) for j in range(i, count)]
    matrix = torch.empty(count, count)
    found = measure_all(chosen.measure, places, lambda at: Pair(images[at[0]], images[at[1]], mask))
    for (i, j), value in track(found, "Pairs", len(places)):
        if isinstance(value, ValueError):
            raise value
        matrix[i, j] = matrix[j, i] = value
    return matrix


def _nearest(names: list[str], matrix: "Tensor", count: int) -> list[tuple[str, str, float]]:
    """(image, neighbour, distance) of the `count` nearest of each image; images with close ones first."""
    others = matrix.clone().fill_diagonal_(float("inf"))
    values, places = others.sort(dim=1, stable=True)
    return [
        (names[i], names[places[i, k]], values[i, k].item())
        for i in values[:, 0].argsort(stable=True).tolist()
        for k in range(min(count, len(names) - 1))
    ]
