"""`perceptual new`: the application, for a user to run and to change."""

from pathlib import Path
from typing import Annotated

import typer

from perceptual.files.application import copy_application


def new(
    folder: Annotated[Path, typer.Argument(metavar="FOLDER", help="Folder to make, or an empty one.")],
) -> None:
    """Write train.py, evaluate.py, conf/ and callbacks/ into a folder of your own, to run and to edit.

    Example: `perceptual new my-metric && cd my-metric && python train.py`
    """
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise FileExistsError(f"{str(folder)!r} is there already; give a folder that is new or empty")
    # in an installed package, or beside a cloned one
    package = Path(__file__).parents[1]
    installed = package / "application"
    copy_application(installed if installed.is_dir() else package.parent, folder)
    typer.echo(f"Written   {folder}: cd {folder} && python train.py")
