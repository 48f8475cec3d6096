"""`perceptual distance A B`: one number for two images."""

import sys

import typer

from perceptual.cli.options import Csv, First, Json, Mask, Memory, Method, Outside, Resize, Second


def distance(
    a: First,
    b: Second,
    method: Method = None,
    mask: Mask = None,
    outside: Outside = "see",
    memory: Memory = None,
    resize: Resize = False,
    json: Json = False,
    csv: Csv = False,
) -> None:
    """Print how different two images look: larger = more different, 0 = equal.

    Example: `perceptual distance photo.png photo.jpg`

    Example: `perceptual distance photo.png photo.jpg --method vgg16 --json`

    Example: `perceptual distance photo.png photo.jpg --method ssim`

    Example: `perceptual distance photo.png photo.jpg --mask face.png --outside fill`
    """
    from perceptual.cli.images import read_pair
    from perceptual.cli.method import choose
    from perceptual.cli.output import print_json, short, write_csv

    pair = read_pair(a, b, resize, mask)
    chosen = choose(method, outside, memory)
    (value,) = chosen.measure(*(part[None] for part in pair if part is not None))
    curve = chosen.curve
    if json:
        noticed = {"noticed": curve.share(value).item()} if curve else {}
        print_json({"a": a, "b": b, "method": chosen.name, "distance": value, **noticed})
    elif csv:
        write_csv(sys.stdout, ("a", "b", "distance"), [(a, b, value)])
    else:
        typer.echo(short(value) + (f", which {curve.sentence(value)}" if curve else ""))
