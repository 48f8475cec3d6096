"""config.json of a saved folder: read, and checked before anything is built of it."""

import json
from collections.abc import Mapping
from hashlib import sha256
from pathlib import Path
from typing import Annotated, Any, Literal

from annotated_types import Ge, Len
from typing_extensions import NotRequired, TypedDict

from perceptual.distance.level import Form
from perceptual.features.backbone import check_input
from perceptual.features.build import check_description
from perceptual.files.records import check_record, read_record

FORMAT = 1
CONFIG = "config.json"
SEAL = "config_sha256"
SEALED = ("format", "backbone", "channels", "form", "sha256", "ranking")  # what decides about a distance
REMEDY = "save the distance again"
Text = Annotated[str, Len(1)]
SHA256 = Annotated[str, Len(64, 64)]
Score = float | None


class Format(TypedDict):
    """What tells whether the rest can be read."""

    format: Annotated[int, Ge(1)]


class BackboneRecord(TypedDict):
    """How to build the backbone; `check_description` says which names and numbers are allowed."""

    name: Text
    source: Text
    saved: bool
    sha256: NotRequired[SHA256]  # where it is not saved
    out_indices: Annotated[list[int], Len(1)]
    input_size: int | None
    mean: Annotated[list[float], Len(3, 3)]
    std: Annotated[list[float], Len(3, 3)]
    spec: NotRequired[dict[str, Any]]  # of a network of the user's


class RankingRecord(TypedDict):
    """The ranking network beside the distance."""

    name: Text
    sha256: SHA256


class ScoreRow(TypedDict):
    """The score of one subset, with its 95 % interval."""

    subset: str
    items: int
    score: Score
    low: Score
    high: Score


class Scores(TypedDict):
    """The scores on one set of judgments."""

    data: str
    kind: Literal["2afc", "jnd", "opinion"]
    description: str
    fingerprint: str
    rows: list[ScoreRow]


class Training(TypedDict, total=False):
    """What is known of the training, see `perceptual.publish.record`."""

    data: str | None
    fingerprint: str | None
    epochs: int | None
    steps: int | None
    settings: dict[str, Any]
    command: str | None
    scores: list[Scores]


class Config(Format):
    """What `config.json` holds."""

    backbone: BackboneRecord
    channels: Annotated[list[Annotated[int, Ge(1)]], Len(1)]
    form: Form
    calibration: NotRequired[str | None]  # see `calibration.identify`
    sha256: SHA256
    ranking: RankingRecord | None
    versions: dict[str, str]
    record: Training
    config_sha256: str


def seal(config: Mapping[str, Any]) -> dict[str, Any]:
    """The config with the SHA-256 of what in it decides about the distance."""
    return {**config, SEAL: _digest(config)}


def read_config(path: Path) -> dict[str, Any]:
    """Read the config of a saved folder.

    Raises:
        FileNotFoundError: there is none.
        ValueError: naming the file and the field: it is no JSON, of a later format, lacks a field or has one
            of another type or range, or was changed since it was saved.
    """
    if not path.is_file():
        raise FileNotFoundError(f"{str(path.parent)!r} holds no saved distance: {CONFIG} is missing")
    if (number := read_record(path, Format, "it describes no saved distance")["format"]) > FORMAT:
        raise ValueError(
            f"{str(path)!r} was written by a later version of perceptual (format {number}, this "
            f"one reads {FORMAT})"
        )
    content = path.read_text("utf-8")
    check(content, str(path))
    config: dict[str, Any] = json.loads(content)  # with what is not in the schema
    if config[SEAL] != _digest(config):
        raise ValueError(f"{str(path)!r} was damaged or changed: {SEAL} is that of another config")
    return config


def check(content: str, what: str) -> None:
    """Refuse the text of a `config.json`, of the file `what`, with a field of another type or range.

    Raises:
        ValueError: naming the file and the field.
    """
    backbone = check_record(content, Config, what, REMEDY)["backbone"]
    if not backbone["saved"] and "sha256" not in backbone:
        raise ValueError(f"{what}: backbone.sha256 is missing; {REMEDY}")
    try:
        check_input(backbone["input_size"], backbone["mean"], backbone["std"])
        check_description(backbone.get("spec") or backbone["name"])
    except ValueError as error:
        raise ValueError(f"{what}: backbone: {error}") from None


def _digest(config: Mapping[str, Any]) -> str:
    text = json.dumps({key: config.get(key) for key in SEALED}, sort_keys=True)
    return sha256(text.encode()).hexdigest()
