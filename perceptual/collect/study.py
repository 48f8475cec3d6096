"""A study: a folder with `study.yaml`, `instructions.md`, `items.csv`, images and `judgments.db`."""

import csv
import json
import os
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, fields
from functools import cached_property
from hashlib import sha256
from pathlib import Path
from typing import Any, Literal, NamedTuple, get_args

import numpy as np
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from perceptual.data import csv_cells
from perceptual.data.decode import checked_rgb

VERSION = 1  # of the folder
Kind = Literal["2afc", "jnd"]
KINDS: tuple[Kind, ...] = get_args(Kind)
ROLES: dict[str, tuple[str, ...]] = {"2afc": ("ref", "p0", "p1"), "jnd": ("p0", "p1")}
CHOICES: dict[str, tuple[str, ...]] = {"2afc": ("left", "right"), "jnd": ("same", "different")}
QUESTIONS = {
    "2afc": "Which of the two images is more similar to the reference?",
    "jnd": "Were the two images the same or different?",
}
ITEM, PRACTICE, SENTINEL, REPEAT = "item", "practice", "sentinel", "repeat"
CONFIG, ITEMS, INSTRUCTIONS, IMAGES, DATABASE = (
    "study.yaml",
    "items.csv",
    "instructions.md",
    "images",
    "judgments.db",
)
COLUMNS = ("id", "purpose", "ref", "p0", "p1", "answer", "subset", "split", "algorithm0", "algorithm1")
_LEAST = {"votes_per_item": 1, "items_per_session": 1, "enlarge": 1, "least_votes": 1, "expire_minutes": 1}


@dataclass
class Config:
    """What `study.yaml` says.

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
        if self.kind not in KINDS:
            raise ValueError(f"kind must be one of {', '.join(KINDS)}, got {self.kind!r}")
        for each in fields(self):
            value = getattr(self, each.name)
            least = _LEAST.get(each.name, 0)
            if each.type is int and value < least:
                raise ValueError(f"{each.name} must be at least {least}, got {value}")
        if self.stop_when_sure and self.least_votes > self.votes_per_item:
            raise ValueError(
                f"least_votes must be at most votes_per_item={self.votes_per_item}, got {self.least_votes}"
            )
        if self.completion_url and not self.completion_url.startswith("https://"):
            raise ValueError(f"completion_url must begin with https://, got {self.completion_url!r}")
        self.question = self.question or QUESTIONS[self.kind]


class Item(NamedTuple):
    """One thing to ask: its images, by their names in the folder of images."""

    id: int
    purpose: str  # item, practice or sentinel
    images: dict[str, str]  # by role
    answer: str = ""  # the right one of practice and sentinel items: p0, p1, same, different
    subset: str = ""
    split: str = ""
    algorithms: tuple[str, str] = ("", "")


@dataclass
class Study:
    """A study read from its folder.

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
        self.items = {item.id: item for item in _read_items(self.folder / ITEMS, self.config.kind)}

    @property
    def roles(self) -> tuple[str, ...]:
        """ref, p0, p1, or p0, p1."""
        return ROLES[self.config.kind]

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
        """The file of an image."""
        return self.folder / IMAGES / name

    def is_intact(self, name: str) -> bool:
        """Whether an image has the pixels its name is a hash of; read again when its file has changed."""
        try:
            found = os.stat(self.image(name))
        except OSError:
            return False
        state = (found.st_ino, found.st_size, found.st_mtime_ns, found.st_ctime_ns)
        known = self._looked_at.get(name)
        if known is None or known[0] != state:
            known = self._looked_at[name] = (state, _has_pixels_of_name(self.image(name)))
        return known[1]

    def damaged(self) -> list[str]:
        """Images that are missing or not what they were, with an item of each."""
        item_of = {name: item.id for item in reversed(self.items.values()) for name in item.images.values()}
        with ThreadPoolExecutor(os.cpu_count()) as pool:
            intact = pool.map(self.is_intact, item_of)
            bad = [name for name, good in zip(item_of, intact, strict=True) if not good]
        return sorted(f"{self.image(name)} (item {item_of[name]})" for name in bad)


def image_name(pixels: np.ndarray) -> str:
    """The name of the file of an image: a hash of its pixels."""
    return sha256(repr(pixels.shape).encode() + pixels.tobytes()).hexdigest()[:32] + ".png"


def _has_pixels_of_name(path: Path) -> bool:
    try:
        return image_name(np.asarray(checked_rgb(str(path)))) == path.name
    except ValueError:
        return False


def read_config(path: Path) -> Config:
    """Read `study.yaml`; raises FileNotFoundError or ValueError, see `Study`."""
    if not path.is_file():
        raise FileNotFoundError(f"no study in {path.parent}: {path.name} is not there")
    try:
        read: Any = OmegaConf.load(path)
        version = read.get("version", VERSION) if OmegaConf.is_dict(read) else 0
        if isinstance(version, int) and version > VERSION:
            raise ValueError(
                f"{path} is of version {version}, made by a newer perceptual; this one reads {VERSION}"
            )
        merged = OmegaConf.merge(OmegaConf.structured(Config), read)
        return Config(**OmegaConf.to_container(merged, throw_on_missing=True))  # type: ignore[arg-type]
    except OmegaConfBaseException as error:
        key = getattr(error, "full_key", None)
        raise ValueError(f"{path}: {f'{key}: ' if key else ''}{str(error).splitlines()[0]}") from None
    except ValueError as error:
        message = str(error)
        raise ValueError(message if str(path) in message else f"{path}: {message}") from None
    except Exception as error:  # of the YAML parser
        raise ValueError(f"{path} is not YAML: {' '.join(str(error).split())}") from None


def write_config(path: Path, config: Config) -> None:
    """Write `study.yaml`."""
    path.write_text(OmegaConf.to_yaml(OmegaConf.structured(config)), "utf-8")


def write_items(path: Path, items: list[Item]) -> None:
    """Write `items.csv`."""
    with path.open("w", newline="", encoding="utf-8") as file:
        rows = csv_cells.Rows(file, COLUMNS)
        for item in items:
            rows.write_named(
                {
                    "id": item.id,
                    "purpose": item.purpose,
                    **item.images,
                    "answer": item.answer,
                    "subset": item.subset,
                    "split": item.split,
                    "algorithm0": item.algorithms[0],
                    "algorithm1": item.algorithms[1],
                }
            )


def _read_items(path: Path, kind: str) -> list[Item]:
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            items = [
                Item(
                    int(row["id"]),
                    row["purpose"],
                    {role: row[role] for role in ROLES[kind]},
                    row["answer"],
                    row["subset"],
                    row["split"],
                    (row["algorithm0"], row["algorithm1"]),
                )
                for row in (
                    {key: csv_cells.read(cell) for key, cell in cells.items()}
                    for cells in csv.DictReader(file)
                )
            ]
    except (KeyError, ValueError, TypeError) as error:
        raise ValueError(f"{path} is not a list of items: {error!r}") from None
    if len({item.id for item in items}) < len(items):
        raise ValueError(f"{path}: the numbers of items must differ")
    return items
