"""`perceptual dirs DIR0 DIR1 -o out.csv`: a distance for each two images of one name."""

import statistics
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import nullcontext
from itertools import chain
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Annotated, NamedTuple

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
    is_folder,
)
from perceptual.files.places import nfc

if TYPE_CHECKING:
    from perceptual.cli.method import Chosen
    from perceptual.cli.output import Problems

SHOWN = 10  # unmatched names that are listed of each folder
COLUMNS = ("name", "distance")


class Matched(NamedTuple):
    """Pairs (name, file, file) of two folders, and names that only one of them has."""

    pairs: list[tuple[str, str, str]]
    only0: list[str]
    only1: list[str]


def dirs(
    dir0: Annotated[
        str,
        typer.Argument(metavar="DIR0", help="A folder of images.", show_default=False, callback=is_folder),
    ],
    dir1: Annotated[
        str, typer.Argument(metavar="DIR1", help="Another one.", show_default=False, callback=is_folder)
    ],
    output: Table = None,
    method: Method = None,
    mask: Mask = None,
    masks: Annotated[
        str | None,
        typer.Option(
            "--masks",
            metavar="DIR",
            help="A folder with a mask for each pair, of the same name.",
            show_default=False,
            callback=is_folder,
        ),
    ] = None,
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
    """Compare each image of a folder with the one of the same name in another, subfolders included.

    Images with the same path inside the folders belong together, else those that differ only in the suffix
    (a.png, a.jpg). Links to folders are followed, hidden files and folders are left out. Names that only one
    folder has are listed. An image that cannot be used is reported, the others are measured, and the exit
    status is 1.

    Example: `perceptual dirs originals/ compressed/ -o distances.csv`

    Example: `perceptual dirs expected/ actual/ --fail-above 0.05 --report report.html --junit junit.xml`

    Example: `perceptual dirs originals/ compressed/ --masks faces/ --outside fill`

    Example: `perceptual dirs originals/ compressed/ --resize --csv | sort -t, -k2 -g`
    """
    from perceptual.cli.gate import Gate, Measured
    from perceptual.cli.images import list_images, read_pair
    from perceptual.cli.method import choose
    from perceptual.cli.output import Problems, RowFile, note, print_for_scripts, print_table, refuse_inputs

    gate = Gate(fail_above, fail_above_noticed, report, junit)
    if mask and masks:
        raise ValueError("--mask is one for all pairs, --masks a folder with one for each: give one of them")
    found = match(list_images(dir0), list_images(dir1))
    for folder, names in ((dir0, found.only0), (dir1, found.only1)):
        for name in names[:SHOWN]:
            note(f"only in {folder}: {name}")
        if len(names) > SHOWN:
            note(f"only in {folder}: {len(names) - SHOWN:,} more")
    if not found.pairs:
        raise ValueError(f"{dir0} and {dir1} have no name in common")
    named = {name: name for name, *_ in found.pairs}
    of_name = {name: path for name, _, path in match(named, list_images(masks)).pairs} if masks else {}

    def mask_of(name: str) -> str | None:
        if masks and name not in of_name:
            raise ValueError(f"{masks} has no mask of this name")
        return of_name.get(name, mask)

    inputs = [path for _, *paths in found.pairs for path in paths]
    for written in (output, report, junit):
        refuse_inputs(written, *inputs, *of_name.values(), *filter(None, [mask]))
    rows: list[tuple[str, float]] = []
    problems = Problems("pairs")
    if gate.asked:  # an image that has gone must not pass
        for folder, names in ((dir0, found.only0), (dir1, found.only1)):
            for name in names:
                problems.append(f"{name}: only in {folder}")
    with RowFile(output, COLUMNS) if output else nullcontext() as file:
        chosen = choose(method, outside, memory)
        gate.of(chosen)
        for row in _measure(chosen, found.pairs, mask_of, resize, problems):
            rows.append(row)
            if file:
                file.write([row])
    summary = _summary([value for _, value in rows])
    only = {"only_in_0": found.only0, "only_in_1": found.only1}
    about = {"method": chosen.name, "count": len(rows), **summary, "problems": problems, **only}
    if not print_for_scripts(COLUMNS, rows, json, csv, "pairs", **about):
        if not output:
            print_table(COLUMNS, rows)
        _print_summary(len(rows), summary, chosen, output)
    files = {name: (path0, path1) for name, path0, path1 in found.pairs}
    gate.check(
        [Measured(name, value, files[name]) for name, value in rows],
        problems,
        chosen,
        lambda some: (read_pair(*files[rows[i][0]], resize, mask_of(rows[i][0])) for i in some),
    )
    problems.finish(len(rows) + len(problems))
    gate.leave()


def match(files0: Mapping[str, str], files1: Mapping[str, str]) -> Matched:
    """Pair files by name; those left over by names in one Unicode form, then without suffix, where unique."""
    pairs = dict[str, tuple[str, str]]()
    left0, left1 = list(files0), list(files1)
    for key in (str, nfc, lambda name: nfc(str(PurePosixPath(name).with_suffix("")))):
        named0, named1 = (_by_key(left, key) for left in (left0, left1))
        for name in named0.keys() & named1.keys():
            if len(named0[name]) == len(named1[name]) == 1:
                (name0,), (name1,) = named0.pop(name), named1.pop(name)
                pairs[name0] = (files0[name0], files1[name1])
        left0, left1 = (sorted(chain(*named.values())) for named in (named0, named1))
    return Matched([(name, *pairs[name]) for name in sorted(pairs)], left0, left1)


def _by_key(names: Sequence[str], key: Callable[[str], str]) -> dict[str, list[str]]:
    found = defaultdict(list)
    for name in names:
        found[key(name)].append(name)
    return found


def _measure(
    chosen: "Chosen",
    pairs: Sequence[tuple[str, str, str]],
    mask_of: Callable[[str], str | None],
    resize: bool,
    problems: "Problems",
) -> Iterator[tuple[str, float]]:
    """Yield the name and distance of each pair, in order."""
    from perceptual.cli.batches import measure_all
    from perceptual.cli.images import read_pair
    from perceptual.files.progress import track

    found = measure_all(chosen.measure, pairs, lambda pair: read_pair(*pair[1:], resize, mask_of(pair[0])))
    for (name, _, _), value in track(found, "Pairs", len(pairs)):
        if isinstance(value, ValueError):
            problems.add(f"{name}: {value}")
        else:
            yield name, value


def _summary(values: Sequence[float]) -> dict[str, float]:
    if not values:
        return {}
    mean, median = statistics.fmean(values), statistics.median(values)
    return {"mean": mean, "median": median, "least": min(values), "greatest": max(values)}


def _print_summary(count: int, summary: Mapping[str, float], chosen: "Chosen", output: Path | None) -> None:
    from perceptual.cli.output import short

    numbers = [f"{name} {short(value)}" for name, value in summary.items()]
    written = [str(output)] if output else []
    typer.echo(" · ".join([f"{count:,} pairs", *numbers, chosen.name, *written]))
    if chosen.curve and summary:
        typer.echo(
            f"greatest {short(summary['greatest'])}, which {chosen.curve.sentence(summary['greatest'])}"
        )
