"""`perceptual leaderboard` and `perceptual compare`: what evaluate.py scored, in tables and sentences."""

from pathlib import Path
from typing import Annotated

import typer

FORMATS = (".md", ".html")


def leaderboard(
    results: Annotated[
        Path,
        typer.Argument(
            metavar="RESULTS", help="Folder of results of evaluations, or of runs, such as a sweep's."
        ),
    ],
    output: Annotated[Path, typer.Option("-o", "--output", help="Table to write: .md or .html.")] = Path(
        "leaderboard.md"
    ),
    trust: Annotated[
        bool, typer.Option("--trust", help="Add the trust reports, of evaluations with robustness=true.")
    ] = False,
    plots: Annotated[Path | None, typer.Option(help="Folder to write pictures to, as PNG.")] = None,
) -> None:
    """Rank methods, or the runs of a sweep, by their results, with paired bootstrap intervals.

    Example: `perceptual leaderboard results -o leaderboard.md --plots pictures`
    """
    from perceptual.evaluation.board import make
    from perceptual.evaluation.leaderboard import best_setting
    from perceptual.evaluation.leaderboard import leaderboard as tables_of
    from perceptual.evaluation.results import find
    from perceptual.evaluation.runs import without_score
    from perceptual.evaluation.suite_tables import left_out
    from perceptual.evaluation.tables import html_page, markdown
    from perceptual.files.writing import write_text

    if output.suffix not in FORMATS:
        raise ValueError(f"output must end in {' or '.join(FORMATS)}, got {str(output)!r}")
    lost = without_score(results)
    try:
        places = find(results)
        boards = [make(found, lost) for found in places]
    except FileNotFoundError as error:
        if not lost:
            raise
        raise ValueError(
            f"none of {len(lost)} runs in {str(results)!r} gave a score; the first: {lost[0].error}"
        ) from error
    output.parent.mkdir(parents=True, exist_ok=True)
    write = html_page if output.suffix == ".html" else markdown
    by_condition = left_out(places)
    write_text(
        output,
        write(*([by_condition] if by_condition else []), *(t for board in boards for t in tables_of(board))),
    )
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
    from perceptual.evaluation.results import find
    from perceptual.evaluation.robustness import report
    from perceptual.evaluation.tables import markdown
    from perceptual.files.writing import save_picture

    if output.suffix != ".md":
        raise ValueError(f"--trust writes Markdown: output must end in .md, got {str(output)!r}")
    reports = [(place.items(), kept) for place in find(results) if (kept := report.kept(place))]
    if not reports:
        raise ValueError(
            f"no trust reports in {str(results)!r}; an evaluation with robustness=true makes them"
        )
    with output.open("a", encoding="utf-8") as file:
        for items, kept in reports:
            file.write("\n" + markdown(*report.tables(kept, f"Trust, {items.name}")))
            if plots:
                path = plots / f"trust-{items.name}.png"
                save_picture(report.draw(kept, f"Trust, {items.description}"), path)
                typer.echo(f"Picture   {path}")


def compare(
    first: Annotated[
        str, typer.Argument(metavar="A", help="A method, or the path of a checkpoint or a run.")
    ],
    second: Annotated[str, typer.Argument(metavar="B", help="Another one.")],
    results: Annotated[
        Path,
        typer.Argument(metavar="RESULTS", help="Folder of results of evaluations, or of runs."),
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
