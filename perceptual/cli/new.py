"""`perceptual new`: the application, for a user to run and to change."""

import shutil
from pathlib import Path
from typing import Annotated

import typer

APPLICATION = ("train.py", "evaluate.py", "conf", "callbacks")


def new(
    folder: Annotated[Path, typer.Argument(metavar="FOLDER", help="Folder to make; must not exist yet.")],
) -> None:
    """Write train.py, evaluate.py, conf/ and callbacks/ into a folder of your own, to run and to edit.

    Examples:

        perceptual new my-metric && cd my-metric && python train.py
    """
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise FileExistsError(f"{str(folder)!r} is there already; give a folder that is new or empty")
    source = _source()
    folder.mkdir(parents=True, exist_ok=True)
    for name in APPLICATION:
        if (source / name).is_dir():
            shutil.copytree(source / name, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy2(source / name, folder / name)
    typer.echo(f"Written   {folder}: cd {folder} && python train.py")


def _source() -> Path:
    """Where the application is: in an installed package, or beside a cloned one."""
    package = Path(__file__).parents[1]
    return installed if (installed := package / "application").is_dir() else package.parent
