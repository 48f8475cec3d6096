"""`perceptual notice METHOD data.root=…`: how many people notice a distance."""

from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from perceptual.cli.options import Json


def notice(
    method: Annotated[str, typer.Argument(metavar="METHOD", help="The distance.", show_default=False)],
    words: Annotated[
        list[str],
        typer.Argument(
            metavar="data.root=…", help="Pairs that people called the same or not, as data=jnd takes them."
        ),
    ],
    plot: Annotated[Path, typer.Option(help="Picture to write.")] = Path("notice.png"),
    results: Annotated[Path, typer.Option(help="Folder of evaluate.py's results.")] = Path("results"),
    json: Json = False,
) -> None:
    """Fit the share of people who notice a difference, as a function of the distance.

    A saved folder keeps the fit, and shows it in its card; commands then say it with each distance.

    Example: `perceptual notice mine/ data.root=path/to/bapps`
    """
    from omegaconf import OmegaConf

    from perceptual.cli.output import print_json, refuse_inputs
    from perceptual.cli.plots import check_picture, draw_noticed
    from perceptual.config import build, plain
    from perceptual.distance.saving import folders
    from perceptual.evaluation import evaluate as evaluation
    from perceptual.evaluation import methods
    from perceptual.evaluation.notice import fit

    check_picture(plot)
    refuse_inputs(plot, method)
    if odd := [word for word in words if not word.startswith("data.") or "=" not in word]:
        raise ValueError(f"what is fitted on is said by data.KEY=VALUE, such as data.root=…, got {odd[0]!r}")
    said = plain(OmegaConf.from_dotlist(words))["data"]
    data = build({"_target_": "perceptual.data.JNDDataModule", **said})
    data.setup("validate")
    evaluated = evaluation.evaluate([method], data, results, methods.device())
    if not evaluated.found:
        raise ValueError(f"{method}: {next(iter(evaluated.lost.values()))}")
    items, (result,) = evaluated.place.items().arrays, evaluated.found
    name = Path(str(said["root"])).stem
    fitted = fit(result.arrays["distance"], items["same"], items.get("votes"), items["cluster"], name)
    draw_noticed(fitted, result.method, plot)
    folder = Path(method).expanduser()
    saved = (folder / folders.CONFIG).is_file()
    if saved:
        folders.note(folder, noticed=asdict(fitted.noticed))
    if json:
        print_json({"method": result.method, **asdict(fitted.noticed)})
        return
    for distance in (fitted.noticed.threshold, float(fitted.distances[-1])):
        typer.echo(f"{distance:.4g}: {fitted.noticed.sentence(distance)}")
    typer.echo(f"{plot}" + (f" · kept in {folder}" if saved else ""))
