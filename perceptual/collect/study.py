"""Study folders: `study.yaml`, `instructions.md`, `items.csv`, images and `judgments.db`."""

import json
import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, fields
from functools import cached_property
from hashlib import sha256
from pathlib import Path
from typing import NamedTuple

import numpy as np
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from perceptual.collect.questions import QUESTIONS, Question
from perceptual.data.decode import checked_rgb
from perceptual.data.kinds import ALGORITHMS
from perceptual.data.readers.columns import read_columns
from perceptual.files import csv_cells
from perceptual.files.messages import first_line
from perceptual.files.records import read_yaml

VERSION = 1  # of the folder
ITEM, PRACTICE, SENTINEL, REPEAT = "item", "practice", "sentinel", "repeat"
CONFIG, ITEMS, INSTRUCTIONS = "study.yaml", "items.csv", "instructions.md"
IMAGES, DATABASE = "images", "judgments.db"
_FROM_ZERO = ("version", "practice", "sentinels", "repeats")  # other numbers are at least 1


@dataclass
class Config:
    """Settings of `study.yaml`.

    Raises:
        ValueError: a value that is not allowed; names it.
    """

    id: str
    kind: str
    version: int = VERSION
    title: str = "Comparing images"
    question: str = ""
    votes_per_item: int = 5
    items_per_session: int = 50
    practice: int = 4
    sentinels: int = 4
    repeats: int = 3
    enlarge: int = 1  # whole multiple, nearest neighbour
    expire_minutes: int = 30  # until an item that was handed out and not answered goes to somebody else
    stop_when_sure: bool = False
    least_votes: int = 1  # of an item, where stop_when_sure is true
    completion_url: str = ""

    def __post_init__(self) -> None:
        if self.kind not in QUESTIONS:
            raise ValueError(f"kind must be one of {', '.join(QUESTIONS)}, got {self.kind!r}")
        for each in fields(self):
            value, least = getattr(self, each.name), int(each.name not in _FROM_ZERO)
            if each.type is int and value < least:
                raise ValueError(f"{each.name} must be at least {least}, got {value}")
        if self.stop_when_sure and self.least_votes > self.votes_per_item:
            raise ValueError(
                f"least_votes must be at most votes_per_item={self.votes_per_item}, got {self.least_votes}"
            )
        if self.completion_url and not self.completion_url.startswith("https://"):
            raise ValueError(f"completion_url must begin with https://, got {self.completion_url!r}")
        self.question = self.question or self.asked.heading

    @property
    def asked(self) -> Question:
        """Question about an item, and how it is shown."""
        return QUESTIONS[self.kind]


class Item(NamedTuple):
    """Images to ask about, by their names in the folder of images."""

    id: int
    purpose: str  # item, practice or sentinel
    images: dict[str, str]  # by role
    answer: str = ""  # the right one of practice and sentinel items, of `Question.answers`
    subset: str = ""
    split: str = ""
    algorithms: tuple[str, ...] = ("", "")


@dataclass
class Study:
    """Study read from its folder.

    Args:
        folder: the folder.

    Raises:
        FileNotFoundError: there is no study.
        ValueError: it is damaged or was made by a newer version.
    """

    folder: Path
    config: Config = field(init=False)
    items: dict[int, Item] = field(init=False)
    _looked_at: dict[str, tuple[tuple[int, ...], bool]] = field(init=False, repr=False, default_factory=dict)

    def __post_init__(self) -> None:
        self.config = read_config(self.folder / CONFIG)
        self.items = {item.id: item for item in _read_items(self.folder / ITEMS, self.config.asked)}

    @cached_property
    def instructions(self) -> str:
        """Markdown of the first page; raises OSError or ValueError that names the file."""
        path = self.folder / INSTRUCTIONS
        content = path.read_bytes()
        try:
            return content.decode("utf-8-sig")  # editors on Windows begin with a byte order mark
        except UnicodeDecodeError as error:
            line = content.count(b"\n", 0, error.start) + 1
            raise ValueError(
                f"{path} is not UTF-8 (byte 0x{content[error.start]:02x} in line {line}): "
                "save it with the encoding UTF-8"
            ) from None

    @cached_property
    def fingerprint(self) -> str:
        """SHA-256 of what votes refer to: number, purpose, images and right answer of each item."""
        items = sorted((item.id, item.purpose, item.answer, item.images) for item in self.items.values())
        return sha256(json.dumps(items, sort_keys=True).encode()).hexdigest()

    def image(self, name: str) -> Path:
        """Return the file of an image."""
        return self.folder / IMAGES / name

    def is_intact(self, item: int) -> bool:
        """Return whether the images of an item have the pixels that their names are hashes of."""
        return all(self._is_intact(name) for name in self.items[item].images.values())

    def _is_intact(self, name: str) -> bool:
        """Look at an image, again when its file has changed."""
        path = self.image(name)
        try:
            found = os.stat(path)
            state = (found.st_ino, found.st_size, found.st_mtime_ns, found.st_ctime_ns)
            if self._looked_at.get(name, ((), False))[0] != state:
                self._looked_at[name] = (state, image_name(np.asarray(checked_rgb(str(path)))) == name)
        except OSError:
            return False
        except ValueError:  # it is no image
            self._looked_at[name] = (state, False)
        return self._looked_at[name][1]

    def damaged(self) -> list[str]:
        """Return the images that are missing or not what they were, with an item of each."""
        item_of = {name: item.id for item in reversed(self.items.values()) for name in item.images.values()}
        with ThreadPoolExecutor(os.cpu_count()) as pool:
            intact = pool.map(self._is_intact, item_of)
            bad = [name for name, good in zip(item_of, intact, strict=True) if not good]
        return sorted(f"{self.image(name)} (item {item_of[name]})" for name in bad)


def image_name(pixels: np.ndarray) -> str:
    """Return the name of the file of an image: a hash of its pixels."""
    return sha256(repr(pixels.shape).encode() + pixels.tobytes()).hexdigest()[:32] + ".png"


def read_config(path: Path) -> Config:
    """Read `study.yaml`; raises FileNotFoundError or ValueError, see `Study`."""
    if not path.is_file():
        raise FileNotFoundError(f"no study in {path.parent}: {path.name} is not there")
    read = read_yaml(path)
    version = read.get("version") if isinstance(read, dict) else None
    if isinstance(version, int) and version > VERSION:
        raise ValueError(
            f"{path} is of version {version}, made by a newer perceptual; this one reads {VERSION}"
        )
    try:
        merged = OmegaConf.merge(OmegaConf.structured(Config), read)
        return Config(**OmegaConf.to_container(merged, throw_on_missing=True))  # type: ignore[arg-type]
    except OmegaConfBaseException as error:
        key = getattr(error, "full_key", None)
        raise ValueError(f"{path}: {f'{key}: ' if key else ''}{first_line(error)}") from None
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from None


def write_config(path: Path, config: Config) -> None:
    """Write `study.yaml`."""
    path.write_text(OmegaConf.to_yaml(OmegaConf.structured(config)), "utf-8")


def _columns(asked: Question) -> tuple[str, ...]:
    return ("id", "purpose", *asked.kind.roles, "answer", "subset", "split", *ALGORITHMS)


def write_items(path: Path, items: Sequence[Item], asked: Question) -> None:
    """Write `items.csv`."""
    roles = asked.kind.roles
    rows = (
        [
            *(item.id, item.purpose, *(item.images[role] for role in roles), item.answer),
            *(item.subset, item.split, *item.algorithms),
        ]
        for item in items
    )
    csv_cells.write_file(path, _columns(asked), rows)


def _read_items(path: Path, asked: Question) -> list[Item]:
    columns = read_columns(path, _columns(asked), None)
    columns.words("purpose", (ITEM, PRACTICE, SENTINEL))
    numbers = columns.cells["id"]
    columns.refuse("id", "id must be a whole number", np.array([not each.isdecimal() for each in numbers]))
    if len(set(map(int, numbers))) < len(numbers):
        raise ValueError(f"{path}: the numbers of items must differ")
    cells = columns.cells
    return [
        Item(
            int(numbers[row]),
            cells["purpose"][row],
            {role: cells[role][row] for role in asked.kind.roles},
            cells["answer"][row],
            cells["subset"][row],
            cells["split"][row],
            tuple(cells[name][row] for name in ALGORITHMS),
        )
        for row in range(len(columns))
    ]
