"""`perceptual collect`: ask people for judgments in a browser."""

from pathlib import Path
from typing import Annotated

import typer

from perceptual.cli.options import NewFolder

app = typer.Typer(
    help="Ask people: collect judgments in a browser.", no_args_is_help=True, rich_markup_mode="markdown"
)
Folder = Annotated[Path, typer.Argument(metavar="STUDY", help="The folder of the study.")]
Url = Annotated[
    str | None,
    typer.Option(
        "--database",
        metavar="URL",
        help="Database, as `postgresql+psycopg://user@host/name`; default: SQLite in the study's folder.",
    ),
]


@app.command()
def new(
    study: Annotated[Path, typer.Argument(metavar="STUDY", help="The folder to make; must not exist.")],
    source: Annotated[
        Path,
        typer.Option(
            "--from",
            metavar="SOURCE",
            help="Manifest (CSV) with or without answers, folder that contains one, BAPPS folder or store.",
        ),
    ],
    title: Annotated[str | None, typer.Option(help="Title of the pages.")] = None,
    votes: Annotated[int, typer.Option(min=1, help="Votes per item; with --stop-when-sure at most.")] = 5,
    items: Annotated[int, typer.Option(min=1, help="Items per session.")] = 50,
    practice: Annotated[int, typer.Option(min=0, help="Practice items, with feedback.")] = 4,
    sentinels: Annotated[int, typer.Option(min=0, help="Items per session whose answer is obvious.")] = 4,
    repeats: Annotated[int, typer.Option(min=0, help="Items per session that are asked twice.")] = 3,
    enlarge: Annotated[
        int | None,
        typer.Option(
            min=1, help="Whole multiple to show images at; 1 is native. Default: to about 256 pixels."
        ),
    ] = None,
    stop_when_sure: Annotated[
        bool, typer.Option("--stop-when-sure", help="Ask for more votes only while the majority is open.")
    ] = False,
    least_votes: Annotated[
        int, typer.Option(min=1, help="With --stop-when-sure: the fewest votes per item.")
    ] = 1,
    completion_url: Annotated[
        str | None, typer.Option(help="Where participants go at the end; recruiting services provide it.")
    ] = None,
    seed: Annotated[int, typer.Option(min=0, help="Seed of the practice and sentinel items.")] = 0,
) -> None:
    """Make a study: a folder with its settings, instructions and images.

    Example: `perceptual collect new mystudy --from ask/manifest.csv --votes 5`
    """
    from perceptual.collect.create import create
    from perceptual.collect.study import CONFIG, INSTRUCTIONS, ITEM, Study

    create(
        study,
        source,
        seed,
        title=title,
        votes_per_item=votes,
        items_per_session=items,
        practice=practice,
        sentinels=sentinels,
        repeats=repeats,
        enlarge=enlarge,
        stop_when_sure=stop_when_sure,
        least_votes=least_votes,
        completion_url=completion_url,
    )
    made = Study(study)
    count = sum(item.purpose == ITEM for item in made.items.values())
    typer.echo(f"{study}: {count:,} items ({made.config.kind}), shown {made.config.enlarge} times enlarged")
    typer.echo(f"Edit {study / INSTRUCTIONS} and {study / CONFIG}, then: perceptual collect serve {study}")


@app.command()
def serve(
    study: Folder,
    database: Url = None,
    host: Annotated[str, typer.Option(help="Address to listen on; 0.0.0.0 is all of them.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, help="Port; 0 takes a free one.")] = 8000,
    host_name: Annotated[
        list[str] | None,
        typer.Option(
            "--host-name",
            metavar="NAME",
            help="Name by which browsers reach the server, beside localhost and addresses; repeatable.",
        ),
    ] = None,
    require_participant: Annotated[
        bool, typer.Option("--require-participant", help="Only let people in with an ID: /?participant=ID.")
    ] = False,
    participants: Annotated[
        Path | None, typer.Option(metavar="FILE", help="The only IDs to let in, one per line.")
    ] = None,
    enrolments_per_minute: Annotated[
        int | None, typer.Option(min=1, help="The most people who may begin within a minute.")
    ] = None,
) -> None:
    """Show a study to people in their browsers, until Ctrl-C or SIGTERM.

    The administrator's page needs the token that is printed, or the one in PERCEPTUAL_ADMIN_TOKEN
    (at least 16 characters).

    Example: `perceptual collect serve mystudy`
    """
    from perceptual.collect.server import Access
    from perceptual.collect.serving import serve as run
    from perceptual.collect.sessions import read_participants
    from perceptual.collect.study import Study

    access = Access(
        hosts=[*(host_name or []), host],
        require_participant=require_participant,
        participants=None if participants is None else read_participants(participants),
        enrolments_per_minute=enrolments_per_minute,
    )
    run(Study(study), database, host, port, lambda line: print(line, flush=True), access)


@app.command()
def backup(
    study: Folder,
    output: Annotated[Path, typer.Option("-o", "--output", help="The file to write; must not exist.")],
    database: Url = None,
) -> None:
    """Copy the votes to one file, also while the study is being served.

    Example: `perceptual collect backup mystudy -o votes-monday.db`
    """
    from contextlib import closing

    from perceptual.collect.database import Database
    from perceptual.collect.study import Study

    with closing(Database(Study(study), database, read_only=True)) as opened:
        opened.backup(output)
    typer.echo(f"{output}: all votes so far; to go on from it, put it in place of {study / 'judgments.db'}")


@app.command()
def export(
    study: Folder,
    output: NewFolder,
    database: Url = None,
    most_missed: Annotated[
        float, typer.Option(min=0, max=1, help="Exclude people who missed a larger share of the sentinels.")
    ] = 0.25,
    fastest_ms: Annotated[
        float, typer.Option(min=0, help="Exclude people whose median response time in ms is lower.")
    ] = 300,
    most_one_side: Annotated[
        float,
        typer.Option(min=0, max=1, help="Exclude people with a larger share of votes for one side."),
    ] = 0.95,
) -> None:
    """Write the manifest that training reads, all votes, and a report on their quality.

    Example: `perceptual collect export mystudy -o judged`
    """
    from perceptual.collect.database import Database
    from perceptual.collect.export import MANIFEST, REPORT
    from perceptual.collect.export import export as run
    from perceptual.collect.quality import Rules
    from perceptual.collect.study import Study
    from perceptual.files.messages import first_few

    opened = Database(Study(study), database, read_only=True)
    done = run(opened, output, Rules(most_missed, fastest_ms, most_one_side))
    opened.close()
    out = [f"{one.participant} ({one.excluded})" for one in done.people if one.excluded]
    typer.echo(f"Manifest  {output / MANIFEST}: {done.items:,} items, {done.votes:,} votes")
    if bad := opened.study.damaged():
        typer.echo(f"Left out  items with images that are missing or not what they were: {first_few(bad)}")
    typer.echo(f"Report    {output / REPORT}")
    typer.echo(f"Excluded  {len(out)} of {len(done.people)} participants" + "".join(f"; {o}" for o in out))


@app.command()
def choose(
    source: Annotated[Path, typer.Argument(metavar="SOURCE", help="Triplets that nobody has judged yet.")],
    methods: Annotated[str, typer.Option(help="Distances to compare, such as `alexnet,ssim`.")],
    count: Annotated[int, typer.Option(min=1, help="Triplets to choose.")],
    output: NewFolder,
    random_part: Annotated[
        float, typer.Option(min=0, max=1, help="Share drawn at random, on which scores are unbiased.")
    ] = 0.2,
    seed: Annotated[int, typer.Option(min=0, help="Seed of the random part.")] = 0,
    size: Annotated[int, typer.Option(min=8, help="Side that images are resized to for the distances.")] = 64,
) -> None:
    """Choose the triplets on which distances disagree, and a random part that keeps scores unbiased.

    The manifest's column `split` says which is which: `val` is the random part, which training and
    evaluation score on, and `train` is where the distances disagree.

    Example: `perceptual collect choose many --methods alexnet,ssim --count 500 -o chosen`
    """
    from perceptual.collect.choose import choose as run
    from perceptual.evaluation.methods import build, expand

    names = expand(name.strip() for name in methods.split(",") if name.strip())
    distances = {name.text: build(name) for name in names}
    done = run(source, output, distances, count, random_part, seed, size)
    typer.echo(f"{output / 'manifest.csv'}: {len(done.random):,} triplets at random (split val),")
    typer.echo(f"{len(done.disagreed):,} on which {', '.join(distances)} disagree most (split train)")
    if done.shared:
        typer.echo(f"{done.shared:,} of these show an image of the random part: there were not enough others")
