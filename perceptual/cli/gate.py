"""A limit that distances must keep, for continuous integration: what exceeds it, as a page and JUnit XML."""

import base64
import html
import io
import math
import shlex
import sys
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple
from xml.etree import ElementTree

import typer

from perceptual.cli.output import note, short
from perceptual.files.writing import check_writable, write_text

if TYPE_CHECKING:
    from perceptual.cli.batches import Pair
    from perceptual.cli.method import Chosen

FAILED = 3  # exit status
LISTED = 20  # names that are printed
PICTURED = 100  # pairs on a page with their images; of more, names and numbers
SIDE = 480  # pixels of an image on a page
STYLE = (
    "body{font:16px/1.5 system-ui,sans-serif;margin:2em auto;padding:0 1em;max-width:80em;color:#222}"
    "h2{font-size:1.1em;margin:2em 0 .2em}h2,td,figcaption{overflow-wrap:anywhere}"
    ".images{display:grid;grid-template-columns:repeat(auto-fit,minmax(15em,1fr));gap:1em}"
    "section{content-visibility:auto;contain-intrinsic-size:auto 24em}"
    "figure{margin:0}img{max-width:100%;border:1px solid #ddd}figcaption{color:#555;font-size:.85em}"
    "table{border-collapse:collapse}td{padding:.2em 1em .2em 0;border-bottom:1px solid #ddd;text-align:left}"
)


class Measured(NamedTuple):
    """A pair that was measured."""

    name: str
    distance: float
    images: tuple[str, str]
    """What the two are called."""


class Gate:
    """The limit that a command was given, if any, and where it writes what exceeds it.

    Args:
        limit: greatest distance that is allowed; None: any.
        noticed: greatest share of people, as `20%` or `0.2`, who may notice, in place of a limit.
        report: HTML page to write.
        junit: XML file to write.

    Raises:
        ValueError: a limit that is no number, or a file to write without a limit.
        OSError: a file that cannot be written.
    """

    def __init__(
        self, limit: float | None, noticed: str | None, report: Path | None, junit: Path | None
    ) -> None:
        if limit is not None and noticed is not None:
            raise ValueError("--fail-above and --fail-above-noticed are two limits: give one")
        if limit is not None and not math.isfinite(limit):
            raise ValueError(f"--fail-above must be a finite number, got {limit}")
        for option, path in (("--report", report), ("--junit", junit)):
            if path is not None:
                if limit is None and noticed is None:
                    raise ValueError(f"{option} shows what exceeds a limit: give one by --fail-above")
                check_writable(path)
        self.limit, self.report, self.junit = limit, report, junit
        self.share = None if noticed is None else _share(noticed)
        self.asked = limit is not None or noticed is not None
        self.failing: list[int] = []

    def of(self, chosen: "Chosen") -> None:
        """Find the distance that the share of people notices, if that is the limit.

        Raises:
            ValueError: it is not known how many people notice these distances, or nobody so few or many do.
        """
        if self.share is not None:
            if chosen.curve is None:
                raise ValueError(
                    f"{chosen.name}: it is not known how many people notice its distances; "
                    "--fail-above-noticed needs a saved folder with a fit of `perceptual notice`"
                )
            self.limit = chosen.curve.distance(self.share)

    def check(
        self,
        measured: Sequence[Measured],
        problems: Sequence[str],
        chosen: "Chosen",
        show: Callable[[Sequence[int]], "Iterable[Pair]"],
    ) -> None:
        """Find what exceeds the limit, print the worst first, and write the files that were asked for.

        Args:
            measured: all pairs.
            problems: lines about what could not be measured.
            chosen: the distance.
            show: gives the images of some of the pairs, by rising numbers.
        """
        if self.limit is None:
            return
        # a distance that is not a number keeps no limit
        wrong = [i for i, one in enumerate(measured) if not one.distance <= self.limit]
        self.failing = sorted(wrong, key=lambda i: -measured[i].distance)
        for i in self.failing[:LISTED]:
            note(f"above {self.limit:g}: {measured[i].name} {short(measured[i].distance)}")
        if len(self.failing) > LISTED:
            note(f"above {self.limit:g}: {len(self.failing) - LISTED:,} more")
        if self.junit:
            write_text(self.junit, _junit(measured, set(self.failing), problems, self.limit))
        if self.report:
            pictured = sorted(self.failing[:PICTURED])
            images = dict(zip(pictured, (_figures(chosen, pair) for pair in show(pictured)), strict=True))
            said = f"{len(self.failing):,} of {len(measured):,} are above {self.limit:g}"
            worst = [(measured[i], images.get(i, [])) for i in self.failing]
            write_text(self.report, _page(said, chosen.name, worst, problems))

    def leave(self) -> None:
        """Exit with status 3 if anything exceeds the limit."""
        if self.failing:
            raise typer.Exit(FAILED)


def _share(text: str) -> float:
    """Read `20%` or `0.2`."""
    try:
        share = float(text.strip().removesuffix("%")) / (100 if text.strip().endswith("%") else 1)
    except ValueError:
        share = math.nan
    if not 0 < share < 1:
        raise ValueError(f"--fail-above-noticed must be a share such as 20% or 0.2, got {text!r}")
    return share


def _figures(chosen: "Chosen", pair: "Pair") -> list[str]:
    """URLs that hold the two images and, where the distance has one, the map of where they differ."""
    from PIL import Image

    from perceptual.cli.plots import overlay

    images = [image.permute(1, 2, 0).numpy() for image in pair[:2]]
    found = chosen.map_of(pair)
    urls = []
    for pixels in images if found is None else [*images, overlay(images[0], found.numpy())]:
        file, image = io.BytesIO(), Image.fromarray(pixels)
        image.thumbnail((SIDE, SIDE))
        image.save(file, "JPEG", quality=90, subsampling=0)
        urls.append(f"data:image/jpeg;base64,{base64.b64encode(file.getvalue()).decode()}")
    return urls


def _page(
    title: str, method: str, worst: Sequence[tuple[Measured, Sequence[str]]], problems: Sequence[str]
) -> str:
    """A page that needs no other file; nothing in a name is markup."""
    about = f"{_command()} · distance: {method}"
    parts = [f"<h1>{_text(title)}</h1>", f"<p>{_text(about)}</p>"]
    for one, urls in worst:
        if urls:
            labels = map(_text, [*one.images, "where they differ"])
            figures = [
                f'<figure><img src="{url}" alt="{label}"><figcaption>{label}</figcaption></figure>'
                for url, label in zip(urls, labels, strict=False)
            ]
            heading = f"<h2>{_text(one.name)}</h2><p>distance {short(one.distance)}</p>"
            parts.append(f'<section>{heading}<div class="images">{"".join(figures)}</div></section>')
    rows = [
        f"<tr><td>{_text(one.name)}</td><td>{short(one.distance)}</td></tr>"
        for one, urls in worst
        if not urls
    ]
    if rows:
        parts += [f"<h2>{len(rows):,} more</h2>", "<table>", *rows, "</table>"]
    if problems:
        parts += [f"<h2>{len(problems):,} not measured</h2>", "<table>"]
        parts += [*(f"<tr><td>{_text(line)}</td></tr>" for line in problems), "</table>"]
    policy = "default-src 'none'; img-src data:; style-src 'unsafe-inline'"
    head = (
        '<meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">'
        f'<meta http-equiv="Content-Security-Policy" content="{policy}">'
        f"<title>{_text(title)}</title><style>{STYLE}</style>"
    )
    body = "\n".join(parts)
    return (
        f'<!doctype html>\n<html lang="en"><head>{head}</head>\n<body><main>\n{body}\n</main></body></html>\n'
    )


def _junit(measured: Sequence[Measured], failing: set[int], problems: Sequence[str], limit: float) -> str:
    counts = {"tests": len(measured) + len(problems), "failures": len(failing), "errors": len(problems)}
    said = {"name": _plain(_command()), **{key: str(count) for key, count in counts.items()}}
    suites = ElementTree.Element("testsuites")
    suite = ElementTree.SubElement(suites, "testsuite", said)
    case = {"classname": "perceptual"}
    for i, one in enumerate(measured):
        test = ElementTree.SubElement(suite, "testcase", {**case, "name": _plain(one.name)})
        if i in failing:
            message = f"distance {short(one.distance)} is above {limit:g}"
            ElementTree.SubElement(test, "failure", {"message": message})
    for line in problems:
        test = ElementTree.SubElement(suite, "testcase", {**case, "name": _plain(line)})
        ElementTree.SubElement(test, "error", {"message": _plain(line)})
    ElementTree.indent(suites)
    return ElementTree.tostring(suites, "unicode", xml_declaration=True) + "\n"


def _command() -> str:
    return shlex.join(["perceptual", *sys.argv[1:]])


def _text(text: str) -> str:
    return html.escape(_plain(text))


def _plain(text: str) -> str:
    """A text that UTF-8 and XML can hold: what they cannot is escaped, as Python writes it."""
    return "".join(
        one if one.isprintable() else one.encode("unicode_escape").decode()
        for one in text.encode(errors="backslashreplace").decode()
    )
