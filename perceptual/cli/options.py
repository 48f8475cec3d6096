"""Arguments and options that several commands share.

What is not there is said as words are read, before a command imports PyTorch.
"""

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Annotated, Literal

import typer

CALIBRATIONS = Path(__file__).parents[1] / "distance/calibrations"


def complete_method(incomplete: str) -> list[str]:
    """Names of methods that need no import of timm, for the shell to complete."""
    published = {path.stem for path in CALIBRATIONS.glob("*.safetensors")}
    networks = {name.rpartition("-")[0] for name in published}
    names = published | networks | {f"{name}-uncalibrated" for name in networks}
    return sorted(name for name in names if name.startswith(incomplete))


def check_file(path: str, kind: str = "image") -> None:
    """Refuse what is no file, of an image or a video.

    Raises:
        ValueError: a URL, a folder, or nothing there; names it.
    """
    if "://" in path:
        raise ValueError(f"{path} is a URL, which is not fetched: download it and give the file")
    if Path(path).is_dir():
        raise ValueError(f"{path} is a folder, where one {kind} is expected")
    if not Path(path).exists():
        raise ValueError(f"no file {path}")
    if not Path(path).is_file():
        raise ValueError(f"{path} is a pipe or a device, where one {kind} is expected")


def check_folder(path: str) -> None:
    """Refuse what is no folder; raises ValueError that names it."""
    if not Path(path).is_dir():
        there = Path(path).exists()
        raise ValueError(f"{path} is a file, where a folder is expected" if there else f"no folder {path}")


def _checked(check: Callable[[str], None]) -> Callable[[str | None], str | None]:
    """What typer calls with a word, or with None where an option was not given."""

    def read(path: str | None) -> str | None:
        if path is not None:
            check(path)
        return path

    return read


is_image, is_folder = _checked(check_file), _checked(check_folder)
is_video = _checked(partial(check_file, kind="video"))


def _one_format(context: typer.Context, option: typer.CallbackParam, value: bool) -> bool:
    """Refuse --json and --csv together."""
    if value and context.params.get("csv" if option.name == "json" else "json"):
        raise typer.BadParameter("--json and --csv are two formats: give one", param_hint=f"--{option.name}")
    return value


Method = Annotated[
    str | None,
    typer.Option(
        "-m",
        "--method",
        metavar="NAME",
        help="The distance: alexnet (the default), vgg16, any timm name, alexnet-uncalibrated, ssim, or the "
        "path of a checkpoint or saved folder.",
        autocompletion=complete_method,
        show_default=False,
    ),
]
First = Annotated[
    str, typer.Argument(metavar="A", help="An image file.", show_default=False, callback=is_image)
]
Second = Annotated[
    str,
    typer.Argument(metavar="B", help="Another one, of the same size.", show_default=False, callback=is_image),
]
Table = Annotated[Path | None, typer.Option("-o", "--output", help="CSV file to write.", show_default=False)]
NewFolder = Annotated[Path, typer.Option("-o", "--output", help="The folder to write; must not exist.")]
Resize = Annotated[
    bool, typer.Option("--resize", help="Resize images of another size to that of the first (bilinear).")
]
Mask = Annotated[
    str | None,
    typer.Option(
        "--mask",
        metavar="FILE",
        help="An image: what is white counts, black does not.",
        show_default=False,
        callback=is_image,
    ),
]
Outside = Annotated[
    Literal["see", "fill"],
    typer.Option(
        "--outside",
        help="What the network sees outside of a mask: see, what is there; or fill, its mean colour in both "
        "images, so that nothing there counts.",
    ),
]
Memory = Annotated[
    float | None,
    typer.Option(
        "--memory",
        metavar="BYTES",
        min=1,
        help="What features may take, such as 2e9: larger images are compared in tiles, with the same "
        "numbers. By default a quarter of what is free.",
        show_default=False,
    ),
]
FailAbove = Annotated[
    float | None,
    typer.Option(
        "--fail-above",
        metavar="DISTANCE",
        help="Greatest distance that is allowed; what exceeds it is listed, the worst first: exit status 3.",
        show_default=False,
    ),
]
FailAboveNoticed = Annotated[
    str | None,
    typer.Option(
        "--fail-above-noticed",
        metavar="SHARE",
        help="The same, by the share of people who notice, such as 20%: needs a fit of perceptual notice.",
        show_default=False,
    ),
]
Report = Annotated[
    Path | None,
    typer.Option(
        "--report",
        metavar="FILE",
        help="HTML page to write: both images and where they differ, of what exceeds the limit.",
        show_default=False,
    ),
]
JUnit = Annotated[
    Path | None,
    typer.Option("--junit", metavar="FILE", help="JUnit XML to write, for CI.", show_default=False),
]
Json = Annotated[bool, typer.Option("--json", help="Print JSON, for scripts.", callback=_one_format)]
Csv = Annotated[bool, typer.Option("--csv", help="Print CSV, for scripts.", callback=_one_format)]
