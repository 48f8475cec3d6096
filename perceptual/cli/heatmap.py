"""`perceptual heatmap A B -o map.png`: where two images differ."""

from pathlib import Path
from typing import Annotated

import typer

from perceptual.cli.options import First, Json, Mask, Memory, Method, Outside, Resize, Second


def heatmap(
    a: First,
    b: Second,
    output: Annotated[
        Path, typer.Option("-o", "--output", help="Picture to write: .png, .pdf, .svg …")
    ] = Path("map.png"),
    levels: Annotated[
        bool,
        typer.Option("--levels", help="Add a strip that shows what each level of the network contributes."),
    ] = False,
    method: Method = None,
    mask: Mask = None,
    outside: Outside = "see",
    memory: Memory = None,
    resize: Resize = False,
    json: Json = False,
) -> None:
    """Draw two images, and where they differ as a map over the first.

    Example: `perceptual heatmap photo.png photo.jpg -o map.png`

    Example: `perceptual heatmap photo.png photo.jpg -o map.png --levels --method vgg16`
    """
    from perceptual.cli.output import refuse_inputs
    from perceptual.cli.plots import check_picture

    check_picture(output)
    refuse_inputs(output, a, b)
    from perceptual.cli.images import read_pair
    from perceptual.cli.method import choose
    from perceptual.cli.output import print_json, short
    from perceptual.cli.plots import draw_heatmap

    pair = read_pair(a, b, resize, mask)
    chosen = choose(method, outside, memory)
    if (levels_of := chosen.levels(pair)) is None:
        raise ValueError(f"{chosen.name} gives one number, no map; choose an LPIPS distance, by position")
    shares, maps = levels_of
    value = sum(shares)
    draw_heatmap(
        [image.permute(1, 2, 0).numpy() for image in pair[:2]],
        [Path(a).name, Path(b).name],
        maps.numpy(),
        short(value),
        chosen.name,
        output,
        shares if levels else (),
    )
    if json:
        row, column = divmod(int(maps.sum(0).argmax()), maps.shape[2])
        place = {"peak": {"x": column, "y": row, "value": maps.sum(0).max().item()}}
        print_json({"a": a, "b": b, "method": chosen.name, "distance": value, "levels": shares, **place})
    else:
        typer.echo(f"{output}: distance {short(value)} · {chosen.name}")
