"""The `perceptual` command. What a command needs is imported when it runs, so that `--help` is quick."""

import os
import re
import sys
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from perceptual.cli import collect, data
from perceptual.cli.dirs import dirs
from perceptual.cli.distance import distance
from perceptual.cli.errors import one_line_errors, write_anything
from perceptual.cli.export import export
from perceptual.cli.heatmap import heatmap
from perceptual.cli.networks import info, models
from perceptual.cli.new import new
from perceptual.cli.notice import notice
from perceptual.cli.pairs import pairs
from perceptual.cli.rank import rank
from perceptual.cli.results import compare, leaderboard
from perceptual.cli.video import video
from perceptual.version import __version__

# the CPU does what a GPU of Apple cannot; PyTorch reads this as it is imported, and nothing above imports it
os.environ.setdefault("PYTORCH_ENABLE_MPS_FALLBACK", "1")


def _show_flags_bare(command: Any) -> None:
    """Have help show `--json` where newer versions of typer show `--json <bool>`, in commands below too."""
    get_params = command.get_params

    def params(ctx: Any) -> list[Any]:
        found: list[Any] = get_params(ctx)
        for param in found:
            if getattr(param, "is_flag", False):
                param.metavar = ""
        return found

    command.get_params = params
    for inner in getattr(command, "commands", {}).values():
        _show_flags_bare(inner)


class _Group(TyperGroup):
    """Group whose commands turn errors of users into one line on stderr and exit status 1."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        _show_flags_bare(self)

    def invoke(self, ctx: Any) -> Any:
        with one_line_errors():
            try:
                return super().invoke(ctx)
            except ValueError as error:
                if (said := re.sub(r"imports=\[(\w[\w.]*)\]", r"--import \1", str(error))) != str(error):
                    raise ValueError(said) from error
                raise


app = typer.Typer(
    cls=_Group,
    help="How different do two images look to a person?",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode="markdown",
    context_settings={"help_option_names": ["-h", "--help"]},
)
for command in (
    distance,
    dirs,
    pairs,
    heatmap,
    rank,
    video,
    notice,
    models,
    info,
    new,
    export,
    leaderboard,
    compare,
):
    app.command()(command)
app.add_typer(data.app, name="data")
app.add_typer(collect.app, name="collect")


def _print_version(asked: bool) -> None:
    if asked:
        typer.echo(f"perceptual {__version__}")
        raise typer.Exit


@app.callback()
def _group(
    imports: Annotated[
        list[str] | None,
        typer.Option(
            "--import",
            metavar="MODULE",
            help="Import a module of yours with networks that it registers with timm or that a file names.",
        ),
    ] = None,
    version: Annotated[
        bool,
        typer.Option("--version", help="Show the version and exit.", is_eager=True, callback=_print_version),
    ] = False,
) -> None:
    if imports:
        from perceptual.features.custom import import_modules

        import_modules(imports)


def main() -> None:
    """Run the command; exit status 0, 1 after errors, 2 for wrong usage, 3 above a limit, 130 at Ctrl-C."""
    write_anything()
    # shells expand ~ where a word begins with it, and not in --results=~/mine
    home = re.compile(r"(--[\w-]+=)(~.*)", re.DOTALL)
    sys.argv[1:] = [
        home.sub(lambda said: said[1] + os.path.expanduser(said[2]), word) for word in sys.argv[1:]
    ]
    app(prog_name="perceptual")
