"""Make a study: read items that need no answers yet, and write images, practice and sentinel items."""

import secrets
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from PIL import Image

from perceptual.collect.questions import QUESTIONS
from perceptual.collect.study import (
    CONFIG,
    IMAGES,
    INSTRUCTIONS,
    ITEM,
    ITEMS,
    PRACTICE,
    SENTINEL,
    Config,
    Item,
    image_name,
    write_config,
    write_items,
)
from perceptual.data.decode import checked_rgb
from perceptual.data.kinds import ALGORITHMS, TWO_AFC
from perceptual.data.readers.columns import read_columns, read_header
from perceptual.data.readers.folders import read_origin
from perceptual.data.readers.stores import is_store, read_store
from perceptual.data.synthetic.distortions import distort
from perceptual.data.table import SPLITS, Table, number_subsets
from perceptual.files.messages import first_few
from perceptual.files.writing import refuse_existing, whole_folder

MANIFEST = "manifest.csv"
PLAIN = ("uniform_noise", "gaussian_blur", "jpeg", "checkerboard")  # at severity 1
PLAIN_ERROR = 15 / 255  # root mean square, from which a distortion counts as plain
SHOWN_SIDE = 256  # CSS pixels that small images are enlarged to, as BAPPS shows its 64 pixels
TEMPLATE = Path(__file__).parent / "templates/instructions.md"


class Source(NamedTuple):
    """Items without regard to their answers, which are NaN where nobody has judged them."""

    table: Table
    algorithms: list[tuple[str, ...]] | None  # what made p0 and p1 of each item


def read_source(path: str | Path) -> Source:
    """Read a manifest whose answers may be empty, a folder that holds one, a BAPPS folder or a store.

    Raises:
        FileNotFoundError: there is nothing.
        ValueError: it cannot be read, or holds items of several kinds.
    """
    path = Path(path)
    if is_store(path):
        return Source(read_store(path), None)
    if (path / MANIFEST).is_file():
        path = path / MANIFEST
    if path.is_file():
        return _read_csv(path)
    halves = [path / name for name in QUESTIONS if (path / name).is_dir()]
    if len(halves) > 1:
        held = " and ".join(QUESTIONS[half.name].kind.plural for half in halves)
        raise ValueError(f"{path} holds {held}: name one, {' or '.join(map(str, halves))}")
    if halves and is_store(halves[0]):
        return read_source(halves[0])
    return Source(next(iter(read_origin(path).values())), None)


def _read_csv(path: Path) -> Source:
    header = read_header(path)
    kinds = [asked.kind for asked in QUESTIONS.values() if set(asked.kind.roles) <= set(header)]
    kind = max(kinds, key=lambda kind: len(kind.roles), default=TWO_AFC)
    # `made`, what was done to the patches, is not kept: participants shall not see it
    optional = (*kind.cells, "votes", "subset", "split", "made", *ALGORITHMS)
    columns = read_columns(path, kind.roles, optional)
    paths, items = columns.files(kind.roles)
    rows = zip(*(columns.cells[role] for role in kind.roles), strict=True)
    empty = np.array([not all(row) for row in rows])
    columns.refuse(kind.roles[0], f"{', '.join(kind.roles)} must name images", empty)
    subset, subsets = number_subsets(columns.cells.get("subset", [path.stem] * len(columns)))
    table = Table(
        kind=kind,
        paths=paths,
        items=items,
        answer=np.full((len(columns), *kind.shape), np.nan, np.float32),
        subset=subset,
        subsets=subsets,
        split=columns.words("split", SPLITS) if "split" in columns else None,
    )
    named = all(name in columns for name in ALGORITHMS)
    algorithms = list(zip(*(columns.cells[name] for name in ALGORITHMS), strict=True)) if named else None
    return Source(table, algorithms)


def create(folder: Path, source: Path, seed: int = 0, **settings: object) -> Config:
    """Make a study in a new folder.

    Args:
        folder: must not exist.
        source: what `read_source` reads.
        seed: of the choice of practice and sentinel items.
        settings: of `Config`, but `id`, `kind` and `version`; `enlarge=None` enlarges to about 256 pixels.

    Raises:
        ValueError: the folder exists, or the source or a setting cannot be used.
        OSError: a file cannot be written; nothing is left behind.
    """
    refuse_existing(folder)
    table, algorithms = read_source(source)
    enlarge: Any = settings.pop("enlarge", None)
    given = {name: value for name, value in settings.items() if value is not None}
    config = Config(id=secrets.token_hex(8), kind=table.kind.name, **given)  # type: ignore[arg-type]
    with whole_folder(folder) as partial:
        (partial / IMAGES).mkdir(parents=True)
        count = len(table.paths) or len(table.images)
        names, sizes = write_images(table, partial / IMAGES, range(count))
        items = _items(table, algorithms, names, sizes)
        side = max(max(size) for size in sizes)
        config = replace(config, enlarge=max(1, SHOWN_SIDE // side) if enlarge is None else enlarge)
        anchors = sorted({item.images[table.kind.roles[0]] for item in items})
        items += _known(config, anchors, partial / IMAGES, len(items), np.random.default_rng(seed))
        write_items(partial / ITEMS, items, config.asked)
        trials = config.items_per_session + config.sentinels + config.repeats + config.practice
        minutes = max(1, round(trials * config.asked.seconds / 60))
        said = "a minute" if minutes == 1 else f"{minutes} minutes"
        text = TEMPLATE.read_text("utf-8").format(how=config.asked.how, minutes=said)
        (partial / INSTRUCTIONS).write_text(text, "utf-8")
        write_config(partial / CONFIG, config)
    return config


def write_images(table: Table, folder: Path, rows: Sequence[int]) -> tuple[list[str], list[tuple[int, int]]]:
    """Write some images of a table as PNG without metadata; names and sizes (width, height), in order."""
    names, sizes, problems = [], [], []
    for row in rows:
        try:
            if table.opened is None:
                image = checked_rgb(table.paths[row])
            else:
                image = Image.fromarray(table.opened.one(row).permute(1, 2, 0).numpy())
        except ValueError as error:
            problems.append(str(error))
            continue
        names.append(_save(image, folder))
        sizes.append(image.size)
    if problems:
        raise ValueError(f"{len(problems):,} of {len(rows):,} images cannot be used: {first_few(problems)}")
    return names, sizes


def _save(image: Image.Image, folder: Path) -> str:
    pixels = np.asarray(image)
    name = image_name(pixels)
    if not (folder / name).exists():
        # from the pixels alone: profiles, comments and the like would say where an image is from
        Image.fromarray(pixels).save(folder / name)
    return name


def _items(
    table: Table,
    algorithms: list[tuple[str, ...]] | None,
    names: list[str],
    sizes: list[tuple[int, int]],
) -> list[Item]:
    columns = table.items
    differing = [row for row in range(len(table)) if len({sizes[image] for image in columns[:, row]}) > 1]
    if differing:
        shown = first_few(
            f"item {row + 1} has {', '.join('×'.join(map(str, sizes[image])) for image in columns[:, row])}"
            for row in differing
        )
        raise ValueError(f"the images of an item must have one size; {len(differing):,} do not: {shown}")
    return [
        Item(
            id=row,
            purpose=ITEM,
            images={
                role: names[image] for role, image in zip(table.kind.roles, columns[:, row], strict=True)
            },
            subset=table.subsets[table.subset[row]] if table.subset[row] >= 0 else "",
            split="" if table.split is None else str(table.split[row]),
            algorithms=algorithms[row] if algorithms else ("", ""),
        )
        for row in range(len(table))
    ]


def _known(
    config: Config, anchors: list[str], folder: Path, first: int, rng: np.random.Generator
) -> list[Item]:
    """Practice and sentinel items, whose answer is known: a copy against a plain distortion."""
    wanted = [PRACTICE] * config.practice + [SENTINEL] * config.sentinels
    found = []
    for number, purpose in enumerate(wanted):
        anchor = anchors[int(rng.integers(len(anchors)))]
        plain = _plainly_distorted(folder, anchor, rng)
        # each right answer in turn; which side it is on is for each participant to toss
        answer, distorted = list(config.asked.distorted.items())[number % len(config.asked.distorted)]
        images = {role: plain if role in distorted else anchor for role in config.asked.kind.roles}
        found.append(Item(first + number, purpose, images, answer))
    return found


def _plainly_distorted(folder: Path, name: str, rng: np.random.Generator) -> str:
    pixels = torch.from_numpy(np.array(Image.open(folder / name))).permute(2, 0, 1)[None].float() / 255
    chance = torch.Generator().manual_seed(int(rng.integers(2**31)))
    best, error = pixels, torch.tensor(-1.0)
    for family in rng.permutation(PLAIN):
        distorted = distort(pixels, [(str(family), 1.0)], chance)
        rms = (distorted - pixels).square().mean().sqrt()
        if rms > error:
            best, error = distorted, rms
        if error >= PLAIN_ERROR:
            break
    array = best[0].clamp(0, 1).mul(255).round().byte().permute(1, 2, 0).numpy()
    return _save(Image.fromarray(array), folder)
