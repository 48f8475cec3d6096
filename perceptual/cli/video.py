"""`perceptual video A.mp4 B.mp4`: the distance of two videos, frame by frame."""

import statistics
from collections.abc import Iterator, Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from perceptual.cli.options import (
    Csv,
    FailAbove,
    FailAboveNoticed,
    Json,
    JUnit,
    Mask,
    Memory,
    Method,
    Outside,
    Report,
    Resize,
    Table,
    is_video,
)

if TYPE_CHECKING:
    from perceptual.cli.batches import Pair
    from perceptual.cli.frames import Together
    from perceptual.cli.method import Chosen

COLUMNS = ("frame", "seconds", "distance")
Row = tuple[int, float, float]


def video(
    a: Annotated[
        str, typer.Argument(metavar="A", help="A video file.", show_default=False, callback=is_video)
    ],
    b: Annotated[
        str, typer.Argument(metavar="B", help="Another one.", show_default=False, callback=is_video)
    ],
    output: Table = None,
    plot: Annotated[
        Path | None, typer.Option(help="Picture of the distance over time to write.", show_default=False)
    ] = None,
    method: Method = None,
    mask: Mask = None,
    outside: Outside = "see",
    memory: Memory = None,
    resize: Resize = False,
    fail_above: FailAbove = None,
    fail_above_noticed: FailAboveNoticed = None,
    report: Report = None,
    junit: JUnit = None,
    json: Json = False,
    csv: Csv = False,
) -> None:
    """Compare two videos frame by frame: the first frame of A with the first of B, and so on.

    If one has more frames, its last ones are left out and counted. Memory does not grow with the length.

    Example: `perceptual video original.mp4 compressed.mp4 -o frames.csv --plot frames.png`

    Example: `perceptual video original.mp4 compressed.mp4 --json`
    """
    from perceptual.cli.gate import Gate, Measured

    gate = Gate(fail_above, fail_above_noticed, report, junit)
    if plot:
        from perceptual.cli.plots import check_picture

        check_picture(plot)
    from perceptual.cli.frames import together
    from perceptual.cli.method import choose
    from perceptual.cli.output import RowFile, note, print_for_scripts, print_table, short

    rows: list[Row] = []
    with together(a, b, resize, mask) as frames:
        for remark in frames.remarks():
            note(remark)
        with RowFile(output, COLUMNS) if output else nullcontext() as file:
            chosen = choose(method, outside, memory)
            gate.of(chosen)
            for row in _measure(chosen, frames):
                rows.append(row)
                if file:
                    file.write([row])
    left = {path: count for path, count in frames.left.items() if count}
    for path, count in left.items():
        note(f"{path} has {count:,} frames more, which were left out")
    if not rows:
        raise frames.problem or ValueError(f"{a} and {b} have no frames to compare")
    values = [value for _, _, value in rows]
    if plot:
        from perceptual.cli.plots import draw_frames

        names = [Path(a).name, Path(b).name]
        draw_frames([seconds for _, seconds, _ in rows], values, names, chosen.name, plot)
    mean = statistics.fmean(values)
    about = {"a": a, "b": b, "method": chosen.name, "mean": mean, "left_out": left}
    if not print_for_scripts(COLUMNS, rows, json, csv, "frames", **about):
        if not (output or plot):
            print_table(COLUMNS, rows)
        written = "".join(f" · {path}" for path in (output, plot) if path)
        worst = max(rows, key=lambda row: row[2])
        typer.echo(
            f"{len(rows):,} frames · mean {short(mean)} · greatest {short(worst[2])} at frame {worst[0]} "
            f"({worst[1]:.2f} s) · {chosen.name}{written}"
        )
        if chosen.curve:
            typer.echo(f"greatest {short(worst[2])}, which {chosen.curve.sentence(worst[2])}")
    named = [f"frame {number} ({seconds:.2f} s)" for number, seconds, _ in rows]
    measured = [Measured(name, value, (a, b)) for name, value in zip(named, values, strict=True)]
    problems = [str(frames.problem)] if frames.problem else []
    gate.check(measured, problems, chosen, lambda some: _frames(a, b, resize, mask, some))
    if frames.problem:
        raise frames.problem
    gate.leave()


def _frames(a: str, b: str, resize: bool, mask: str | None, numbers: Sequence[int]) -> "Iterator[Pair]":
    """Pixels of some frames of both, decoded again; numbers rise."""
    from perceptual.cli.frames import together

    with together(a, b, resize, mask) as frames:
        wanted = set(numbers)
        for number, pair in enumerate(frames):
            if number in wanted:
                yield frames.read(pair)


def _measure(chosen: "Chosen", frames: "Together") -> Iterator[Row]:
    """Number, seconds and distance of each two frames; raises ValueError where they cannot be compared."""
    from perceptual.cli.batches import measure_all
    from perceptual.files.progress import track

    found = measure_all(chosen.measure, frames, frames.read)
    for number, (pair, value) in enumerate(track(found, "Frames", frames.count)):
        if isinstance(value, ValueError):
            raise value
        yield number, frames.seconds(number, pair), value
