"""Pictures of data: a contact sheet of triplets or pairs, and a gallery of the distortions."""

import textwrap
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from PIL import Image, ImageDraw, ImageFont

from perceptual.data.decode import read_pixels, read_rgb, resized
from perceptual.data.kinds import JND, ODD_ONE_OUT, TWO_AFC
from perceptual.data.readers.folders import read_origin
from perceptual.data.readers.stores import is_store, read_store
from perceptual.data.synthetic.distorters.population import load_population
from perceptual.data.synthetic.distortions import FAMILIES, distort
from perceptual.data.synthetic.photographs import VAL_PHOTOS, packaged, patches, quantised
from perceptual.data.synthetic.steps import recorded
from perceptual.data.table import Table

SEVERITIES = (0.2, 0.4, 0.6, 0.8, 1.0)
_TILE = 96  # pixels of a patch on the sheet
_GAP, _TEXT, _MARGIN = 4, 18, 14
_FONT = ImageFont.load_default(12)
_INK, _PALE = (20, 20, 20), (120, 120, 120)


class Sheet(NamedTuple):
    """What a sheet shows of items of one kind."""

    roles: tuple[str, ...]  # from left to right
    captions: Callable[[Any, str], tuple[str, ...]]  # (answer, subset) → a caption for each role
    legend: str


SHEETS = {
    TWO_AFC.name: Sheet(
        ("p0", "ref", "p1"),
        lambda answer, subset: (f"{1 - answer:.0%}", subset, f"{answer:.0%}"),
        "p0 · ref · p1. Below p0 and p1: share of people who chose it as closer. Below ref: subset.",
    ),
    JND.name: Sheet(
        ("p0", "p1"),
        lambda answer, subset: (subset, f"same {answer:.0%}"),
        'p0 · p1. Below p0: subset. Below p1: share of people who said "same".',
    ),
    ODD_ONE_OUT.name: Sheet(
        ODD_ONE_OUT.roles,
        lambda answer, subset: tuple(f"{share:.0%}" for share in answer),
        "a · b · c. Below each: share of people who chose it as the odd one.",
    ),
}


def contact_sheet(src: str | Path, count: int, seed: int, size: int = 64) -> Image.Image:
    """Draw some items of a data set, such as p0 · ref · p1 with the share that preferred either.

    A legend below them says what the numbers are.

    Args:
        src: store, BAPPS folder, manifest or folder of NIGHTS; of a folder with several kinds, the first.
        count: number of items; fewer if there are fewer.
        seed: chooses them.
        size: side of the patches; a store has its own.

    Raises:
        FileNotFoundError, ValueError: as `read_origin`, or images cannot be used.
    """
    table = _read(Path(src))
    rows = _chosen(table, count, seed)
    roles, captions, said = SHEETS[table.kind.name]
    width, height = len(roles) * (_TILE + _GAP) - _GAP, _TILE + _TEXT
    columns = max(1, min(12 // len(roles), len(rows)))
    lines = -(-len(rows) // columns)
    across, down = columns * (width + _MARGIN) + _MARGIN, lines * (height + _MARGIN) + _MARGIN
    legend = textwrap.wrap(said, (across - 2 * _MARGIN) // 7)  # pixels of a character
    sheet = Image.new("RGB", (across, down + _TEXT * len(legend) + _MARGIN), "white")
    for line, words in enumerate(legend):
        ImageDraw.Draw(sheet).text((_MARGIN, down + _TEXT * line), words, _PALE, _FONT)
    for place, row in enumerate(rows.tolist()):
        left = _MARGIN + place % columns * (width + _MARGIN)
        top = _MARGIN + place // columns * (height + _MARGIN)
        subset = table.subsets[table.subset[row]]
        for role, caption in zip(roles, captions(table.answer[row], subset), strict=True):
            sheet.paste(_tile(_pixels(table, int(table.role(role)[row]), size)), (left, top))
            middle, ink = left + _TILE // 2, _PALE if caption is subset else _INK
            ImageDraw.Draw(sheet).text((middle, top + _TILE + _TEXT // 2), caption, ink, _FONT, anchor="mm")
            left += _TILE + _GAP
    return sheet


def made_lines(src: str | Path, count: int, seed: int) -> list[str]:
    """Say what was done to the patches of the items that `contact_sheet` draws, a line for each item.

    Raises:
        ValueError: that is not recorded, or as `contact_sheet`.
    """
    table = _read(Path(src))
    if table.made is None:
        raise ValueError(f"{src} does not record what was done to its images")
    lines = []
    for row in _chosen(table, count, seed).tolist():
        patches = recorded(table.made[row].decode())
        roles = table.kind.roles[len(table.kind.roles) - len(patches) :]
        said = [
            f"{role} {' + '.join(f'{family} {severity:g} (seed {key})' for family, severity, key in steps)}"
            for role, steps in zip(roles, patches, strict=True)
        ]
        lines.append(f"{row}: {'; '.join(said)}")
    return lines


def _chosen(table: Table, count: int, seed: int) -> np.ndarray:
    return np.sort(np.random.default_rng(seed).permutation(len(table))[:count])


def distorter_gallery(folder: str | Path) -> Image.Image:
    """Draw one row per network of a population: what it makes of six patches, below the patches."""
    seen = patches(packaged(VAL_PHOTOS)[:6], 6, seed=3)[:, None]
    rows = {"": [quantised(patch[0]).numpy() for patch in seen]}
    for name, network in load_population(folder).networks.items():
        drawn = (network(patch, torch.Generator().manual_seed(0))[0] for patch in seen)
        rows[name] = [quantised(patch).numpy() for patch in drawn]
    return _grid(rows, left=60)


def gallery(size: int = 64) -> Image.Image:
    """Draw one row per family of distortion: the patch, then severities from .2 to 1."""
    photo = resized(read_rgb(packaged(["chelsea.png"])[0]).crop((110, 20, 310, 220)), size)
    patch = torch.from_numpy(np.array(photo)).permute(2, 0, 1).float()[None] / 255
    severities = (0.0, *SEVERITIES)
    rows = {}
    for name in FAMILIES:
        # one seed, so that only the severity differs along a row
        drawn = [distort(patch, [(name, each)], torch.Generator().manual_seed(3))[0] for each in severities]
        rows[name.replace("_", " ").replace("color", "colour")] = [quantised(each).numpy() for each in drawn]
    return _grid(rows, left=160, heads=[f"{severity:.1f}" for severity in severities])


def _grid(rows: Mapping[str, Sequence[np.ndarray]], left: int, heads: Sequence[str] = ()) -> Image.Image:
    """Draw patches (3, S, S) uint8 in rows, each behind its name, below the heads of the columns."""
    step, top = _TILE + _GAP, _TEXT + _GAP if heads else 0
    across = max(map(len, rows.values()))
    sheet = Image.new("RGB", (left + across * step + (_GAP if heads else 0), top + len(rows) * step), "white")
    draw = ImageDraw.Draw(sheet)
    for column, head in enumerate(heads):
        draw.text((left + column * step + _TILE // 2, _TEXT // 2), head, _INK, _FONT, anchor="mm")
    for row, (name, tiles) in enumerate(rows.items()):
        draw.text((left - 10, top + row * step + _TILE // 2), name, _INK, _FONT, anchor="rm")
        for column, pixels in enumerate(tiles):
            sheet.paste(_tile(pixels), (left + column * step, top + row * step))
    return sheet


def _read(src: Path) -> Table:
    inside = next((src / half for half in SHEETS if is_store(src / half)), src)
    if is_store(inside):
        return read_store(inside)
    return next(iter(read_origin(src).values()))


def _pixels(table: Table, index: int, size: int) -> np.ndarray:
    """(3, S, S) uint8."""
    return read_pixels(table.paths[index], size) if table.opened is None else table.opened.one(index).numpy()


def _tile(pixels: np.ndarray) -> Image.Image:
    smooth = pixels.shape[-1] > _TILE
    how = Image.Resampling.LANCZOS if smooth else Image.Resampling.NEAREST
    return Image.fromarray(np.ascontiguousarray(pixels.transpose(1, 2, 0))).resize((_TILE, _TILE), how)
