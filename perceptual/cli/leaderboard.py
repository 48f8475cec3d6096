"""`perceptual leaderboard results/ -o leaderboard.md`: tables and pictures of what evaluate.py scored."""

from pathlib import Path
from typing import Annotated

import typer

FORMATS = (".md", ".html")


def leaderboard(
    results: Annotated[Path, typer.Argument(help="Folder that evaluate.py wrote its results to.")],
    output: Annotated[Path, typer.Option("-o", "--output", help="Table to write: .md or .html.")] = Path(
        "leaderboard.md"
    ),
    plots: Annotated[Path | None, typer.Option(help="Folder to write pictures to, as PNG.")] = None,
) -> None:
    """Rank methods by their results, with paired bootstrap intervals."""
    from perceptual.leaderboard import find, html_page, make, markdown

    if output.suffix not in FORMATS:
        raise ValueError(f"output must end in {' or '.join(FORMATS)}, got {str(output)!r}")
    boards = [make(found) for found in find(results)]
    output.parent.mkdir(parents=True, exist_ok=True)
    text = html_page(boards) if output.suffix == ".html" else "\n".join(map(markdown, boards))
    output.write_text(text, "utf-8")
    typer.echo(f"Table     {output}")
    if plots:
        for path in _save(boards, plots):
            typer.echo(f"Picture   {path}")


def _save(boards: list, folder: Path) -> list[Path]:
    try:
        from perceptual.leaderboard.plots import save
    except ModuleNotFoundError as error:
        raise ValueError("plots need matplotlib: pip install 'perceptual[plots]'") from error
    return save(boards, folder)
