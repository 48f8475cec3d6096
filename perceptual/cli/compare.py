"""`perceptual compare A B results/`: is one method better than another?"""

from pathlib import Path
from typing import Annotated

import typer


def compare(
    first: Annotated[
        str, typer.Argument(metavar="A", help="A method, or the path of a checkpoint or a run.")
    ],
    second: Annotated[str, typer.Argument(metavar="B", help="Another one.")],
    results: Annotated[
        Path,
        typer.Argument(metavar="RESULTS", help="Folder of results of evaluate.py, or of runs."),
    ],
) -> None:
    """Compare two methods on the items that both were scored on: difference, interval, items to decide it.

    Example: `perceptual compare vgg16-uncalibrated ssim results`
    """
    from perceptual.evaluation.compare import compare as compared
    from perceptual.evaluation.compare import sentences
    from perceptual.evaluation.results import find

    places, reasons, shown = find(results), [], 0
    for place in places:
        try:
            lines = sentences(compared(place, first, second))
        except ValueError as error:  # they may share other items
            reasons.append(str(error))
            continue
        typer.echo("\n".join(lines) if not shown else "\n" + "\n".join(lines))
        shown += 1
    if not shown:
        raise ValueError(reasons[0])
