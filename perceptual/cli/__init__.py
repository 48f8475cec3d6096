"""The `perceptual` command. What a command needs is imported when it runs, so that `--help` is quick."""

import sys

import typer

from perceptual.cli import data
from perceptual.cli.errors import one_line_errors
from perceptual.cli.leaderboard import leaderboard

app = typer.Typer(
    help="How different do two images look to a person?",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
app.add_typer(data.app, name="data")
app.command()(leaderboard)


@app.callback()
def _group() -> None:
    pass


def main() -> None:
    """Run the command; what a user can cause is one line on stderr and exit status 1."""
    with one_line_errors():
        try:
            app()
        except ValueError as error:
            for problem in getattr(
                error, "problems", []
            ):  # the complete list, before the line that counts them
                print(problem, file=sys.stderr)
            raise
