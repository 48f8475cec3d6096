"""Options that several commands share."""

from pathlib import Path
from typing import Annotated

import typer

CALIBRATIONS = Path(__file__).parents[1] / "distance/calibrations"


def _backbones(incomplete: str) -> list[str]:
    """Completions that cost no import of timm: backbones with a published calibration."""
    return sorted({path.stem.rpartition("-")[0] for path in CALIBRATIONS.glob(f"{incomplete}*.safetensors")})


def complete_method(incomplete: str) -> list[str]:
    """Names of methods that need no import of timm, for the shell to complete."""
    return sorted(path.stem for path in CALIBRATIONS.glob(f"{incomplete}*.safetensors"))


def _lins(incomplete: str) -> list[str]:
    return [lin for lin in ("v0.1", "v0.0", "none") if lin.startswith(incomplete)]


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
        help="Any distance by one name: alexnet-v0.1 (the default), vgg16.tv_in1k (uncalibrated), ssim, or "
        "the path of what was trained.",
        autocompletion=complete_method,
        show_default=False,
    ),
]
BackboneName = Annotated[
    str | None,
    typer.Option(
        "-b",
        "--backbone",
        metavar="NAME",
        help="LPIPS on this network: alexnet, vgg16, squeezenet1_1, or any timm name.",
        autocompletion=_backbones,
        show_default=False,
    ),
]
Lin = Annotated[
    str | None,
    typer.Option(
        "--lin",
        metavar="v0.1|v0.0|none|FILE",
        help="Its calibration: published (v0.1 by default), none, or a file.",
        autocompletion=_lins,
        show_default=False,
    ),
]
Resize = Annotated[
    bool, typer.Option("--resize", help="Resize images of another size to that of the first (bilinear).")
]
Json = Annotated[bool, typer.Option("--json", help="Print JSON, for scripts.", callback=_one_format)]
Csv = Annotated[bool, typer.Option("--csv", help="Print CSV, for scripts.", callback=_one_format)]
