"""`perceptual leaderboard results/ -o leaderboard.md`: tables and pictures of what evaluate.py scored."""

from pathlib import Path
from typing import Annotated

import typer

FORMATS = (".md", ".html")


def leaderboard(
    results: Annotated[
        Path,
        typer.Argument(
            metavar="RESULTS", help="Folder of results of evaluate.py, or of runs, such as a sweep's."
        ),
    ],
    output: Annotated[Path, typer.Option("-o", "--output", help="Table to write: .md or .html.")] = Path(
        "leaderboard.md"
    ),
    trust: Annotated[
        bool, typer.Option("--trust", help="Add the trust reports of evaluate.py robustness=true.")
    ] = False,
    plots: Annotated[Path | None, typer.Option(help="Folder to write pictures to, as PNG.")] = None,
) -> None:
    """Rank methods, or the runs of a sweep, by their results, with paired bootstrap intervals.

    Example: `perceptual leaderboard results -o leaderboard.md --plots pictures`
    """
    from perceptual.evaluation.board import make
    from perceptual.evaluation.results import find
    from perceptual.evaluation.runs import without_score
    from perceptual.evaluation.tables import best_setting, html_page, markdown
    from perceptual.files.writing import write_text

    if output.suffix not in FORMATS:
        raise ValueError(f"output must end in {' or '.join(FORMATS)}, got {str(output)!r}")
    lost = without_score(results)
    try:
        boards = [make(found, lost) for found in find(results)]
    except FileNotFoundError as error:
        if not lost:
            raise
        raise ValueError(
            f"none of {len(lost)} runs in {str(results)!r} gave a score; the first: {lost[0]['error']}"
        ) from error
    output.parent.mkdir(parents=True, exist_ok=True)
    text = html_page(boards) if output.suffix == ".html" else "\n".join(map(markdown, boards))
    write_text(output, text)
    if trust:
        add_trust(results, output, plots)
    for board in boards:
        if best := best_setting(board):
            typer.echo(best)
    if lost:
        typer.echo(f"{len(lost)} runs gave no score; the table says why.")
    typer.echo(f"Table     {output}")
    if plots:
        from perceptual.evaluation.plots import save

        for path in save(boards, plots):
            typer.echo(f"Picture   {path}")


def add_trust(results: Path, output: Path, plots: Path | None) -> None:
    """Write the trust reports of a folder of results below its leaderboards, and their pictures.

    Raises:
        ValueError: there are none, or the table is no Markdown.
    """
    from perceptual.evaluation import trust_report
    from perceptual.evaluation.results import find

    if output.suffix != ".md":
        raise ValueError(f"--trust writes Markdown: output must end in .md, got {str(output)!r}")
    reports = [(place.items().row, rows) for place in find(results) if (rows := trust_report.kept(place))]
    if not reports:
        raise ValueError(f"no trust reports in {str(results)!r}; evaluate.py robustness=true makes them")
    with output.open("a", encoding="utf-8") as file:
        for data, rows in reports:
            file.write("\n" + trust_report.markdown(rows, f"Trust, {data['name']}"))
            if plots:
                title = f"Trust, {data['description']}"
                path = trust_report.picture(rows, title, plots / f"trust-{data['name']}.png")
                typer.echo(f"Picture   {path}")
