"""`perceptual dirs DIR0 DIR1 -o out.csv`: a distance for each two images of one name."""

import statistics
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import nullcontext
from itertools import chain
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Annotated, NamedTuple

import typer

from perceptual.cli.options import Csv, Json, Method, Resize
from perceptual.files.places import nfc

if TYPE_CHECKING:
    from perceptual.cli.batches import Pair
    from perceptual.cli.method import Chosen

SHOWN = 10  # unmatched names that are listed of each folder
COLUMNS = ("name", "distance")


class Matched(NamedTuple):
    """Pairs (name, file, file) of two folders, and names that only one of them has."""

    pairs: list[tuple[str, str, str]]
    only0: list[str]
    only1: list[str]


def dirs(
    dir0: Annotated[str, typer.Argument(metavar="DIR0", help="A folder of images.", show_default=False)],
    dir1: Annotated[str, typer.Argument(metavar="DIR1", help="Another one.", show_default=False)],
    output: Annotated[
        Path | None, typer.Option("-o", "--output", help="CSV file to write.", show_default=False)
    ] = None,
    method: Method = None,
    resize: Resize = False,
    json: Json = False,
    csv: Csv = False,
) -> None:
    """Compare each image of a folder with the one of the same name in another, subfolders included.

    Images with the same path inside the folders belong together, else those that differ only in the suffix
    (a.png, a.jpg). Links to folders are followed, hidden files and folders are left out. Names that only one
    folder has are listed. An image that cannot be used is reported, the others are measured, and the exit
    status is 1.

    Example: `perceptual dirs originals/ compressed/ -o distances.csv`

    Example: `perceptual dirs originals/ compressed/ --resize --csv | sort -t, -k2 -g`
    """
    from perceptual.cli.images import list_images
    from perceptual.cli.method import choose
    from perceptual.cli.output import RowFile, note, print_json, print_table, refuse_inputs, write_csv

    found = match(list_images(dir0), list_images(dir1))
    for folder, names in ((dir0, found.only0), (dir1, found.only1)):
        for name in names[:SHOWN]:
            note(f"only in {folder}: {name}")
        if len(names) > SHOWN:
            note(f"only in {folder}: {len(names) - SHOWN:,} more")
    if not found.pairs:
        raise ValueError(f"{dir0} and {dir1} have no name in common")
    refuse_inputs(output, *(path for _, *paths in found.pairs for path in paths))
    rows: list[tuple[str, float]] = []
    problems: list[str] = []
    with RowFile(output, COLUMNS) if output else nullcontext() as file:
        chosen = choose(method)
        for row in _measure(chosen, found.pairs, resize, problems):
            rows.append(row)
            if file:
                file.write([row])
    if json:
        print_json(
            {
                "method": chosen.name,
                **_summary(rows),
                "pairs": [dict(zip(COLUMNS, row, strict=True)) for row in rows],
                "problems": problems,
                "only_in_0": found.only0,
                "only_in_1": found.only1,
            }
        )
    elif csv:
        write_csv(sys.stdout, COLUMNS, rows)
    else:
        if not output:
            print_table(COLUMNS, rows)
        _print_summary(rows, chosen.name, output)
    if problems:
        raise ValueError(f"{len(problems):,} of {len(found.pairs):,} pairs could not be measured")


def match(files0: Mapping[str, str], files1: Mapping[str, str]) -> Matched:
    """Pair files by name; those left over by names in one Unicode form, then without suffix, where unique."""
    pairs = dict[str, tuple[str, str]]()
    left0, left1 = list(files0), list(files1)
    for key in (str, nfc, _stem):
        named0, named1 = _by_key(left0, key), _by_key(left1, key)
        for name in named0.keys() & named1.keys():
            if len(named0[name]) == len(named1[name]) == 1:
                (name0,), (name1,) = named0.pop(name), named1.pop(name)
                pairs[name0] = (files0[name0], files1[name1])
        left0, left1 = (sorted(chain(*named.values())) for named in (named0, named1))
    return Matched([(name, *pairs[name]) for name in sorted(pairs)], left0, left1)


def _stem(name: str) -> str:
    return nfc(str(PurePosixPath(name).with_suffix("")))


def _by_key(names: Sequence[str], key: Callable[[str], str]) -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    for name in names:
        found.setdefault(key(name), []).append(name)
    return found


def _measure(
    chosen: "Chosen", pairs: Sequence[tuple[str, str, str]], resize: bool, problems: list[str]
) -> Iterator[tuple[str, float]]:
    """Name and distance of each pair, in order; what cannot be measured goes to `problems` and stderr."""
    from perceptual.cli.batches import measure_all
    from perceptual.cli.images import read_pair
    from perceptual.cli.output import note, progress

    def read(pair: tuple[str, str, str]) -> "Pair":
        return read_pair(pair[1], pair[2], resize)

    for (name, _, _), value in progress(measure_all(chosen.measure, pairs, read), "Pairs", len(pairs)):
        if isinstance(value, ValueError):
            problems.append(f"{name}: {value}")
            note(f"not measured: {problems[-1]}")
        else:
            yield name, value


def _summary(rows: Sequence[tuple[str, float]]) -> dict[str, int | float]:
    values = [value for _, value in rows]
    if not values:
        return {"count": 0}
    return {
        "count": len(values),
        "mean": statistics.fmean(values),
        "median": statistics.median(values),
        "least": min(values),
        "greatest": max(values),
    }


def _print_summary(rows: Sequence[tuple[str, float]], method: str, output: Path | None) -> None:
    from perceptual.cli.output import short

    numbers = "".join(f" · {name} {short(value)}" for name, value in list(_summary(rows).items())[1:])
    typer.echo(f"{len(rows):,} pairs{numbers} · {method}" + (f" · {output}" if output else ""))
