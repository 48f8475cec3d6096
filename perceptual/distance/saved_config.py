"""config.json of a saved folder: read, and checked before anything is built of it."""

import json
import math
from collections.abc import Callable, Mapping
from hashlib import sha256
from pathlib import Path
from typing import Any

from perceptual.distance.level import FORMS

FORMAT = 1
CONFIG = "config.json"
SEAL = "config_sha256"
SEALED = ("format", "backbone", "channels", "form", "sha256", "ranking")  # what decides about a distance
Check = tuple[str, Callable[[Any], bool]]


def _is_count(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value > 0


def _are(check: Callable[[Any], bool], length: int | None = None) -> Callable[[Any], bool]:
    def are(values: Any) -> bool:
        if not isinstance(values, list) or not values or len(values) != (length or len(values)):
            return False
        return all(map(check, values))

    return are


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def _is_text(value: Any) -> bool:
    return isinstance(value, str) and bool(value)


FIELDS: dict[str, Check] = {
    "backbone": ("an object", lambda value: isinstance(value, dict)),
    "channels": ("a list of positive whole numbers", _are(_is_count)),
    "form": (f"one of {', '.join(FORMS)}", lambda value: value in FORMS),
    "sha256": ("64 hexadecimal digits", lambda value: _is_text(value) and len(value) == 64),
    "ranking": (
        "null or an object with name and sha256",
        lambda value: (
            value is None
            or (isinstance(value, dict) and _is_text(value.get("name")) and _is_text(value.get("sha256")))
        ),
    ),
    "record": ("an object", lambda value: isinstance(value, dict)),
}
OF_BACKBONE: dict[str, Check] = {
    "name": ("text", _is_text),
    "source": ("text", _is_text),
    "saved": ("true or false", lambda value: isinstance(value, bool)),
    "out_indices": (
        "a list of whole numbers",
        _are(lambda value: isinstance(value, int) and not isinstance(value, bool)),
    ),
    "input_size": ("null or a positive whole number", lambda value: value is None or _is_count(value)),
    "mean": ("three numbers", _are(_is_number, 3)),
    "std": ("three positive numbers", _are(lambda value: _is_number(value) and value > 0, 3)),
}


def seal(config: Mapping[str, Any]) -> dict[str, Any]:
    """The config with the SHA-256 of what in it decides about the distance."""
    return {**config, SEAL: _digest(config)}


def read_config(path: Path) -> dict[str, Any]:
    """The config of a saved folder.

    Raises:
        FileNotFoundError: there is none.
        ValueError: naming the file and the field: it is no JSON, of a later format, lacks a field or has one
            of another type or range, or was changed since it was saved.
    """
    if not path.is_file():
        raise FileNotFoundError(f"{str(path.parent)!r} holds no saved distance: {CONFIG} is missing")
    try:
        config = json.loads(path.read_text("utf-8"))
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{str(path)!r} is no JSON: {error}") from error
    if not isinstance(config, dict) or not isinstance(config.get("format"), int):
        raise ValueError(f"{str(path)!r} does not describe a saved distance: it names no format")
    if config["format"] > FORMAT:
        raise ValueError(
            f"{str(path)!r} was written by a later version of perceptual (format {config['format']}, this "
            f"one reads {FORMAT})"
        )
    missing = [key for key in FIELDS if key not in config]
    backbone: Any = config.get("backbone")
    if isinstance(backbone, dict):
        missing += [f"backbone.{key}" for key in OF_BACKBONE if key not in backbone]
        if backbone.get("saved") is False and "sha256" not in backbone:
            missing.append("backbone.sha256")
    if missing:
        raise ValueError(f"{str(path)!r} lacks {', '.join(missing)}")
    _check(path, config, FIELDS, "")
    _check(path, config["backbone"], OF_BACKBONE, "backbone.")
    if not backbone["saved"] and not _is_text(backbone["sha256"]):
        raise ValueError(f"{str(path)!r}: backbone.sha256 must be text, got {backbone['sha256']!r}")
    if SEAL in config and config[SEAL] != _digest(config):  # version 0.1 wrote none
        raise ValueError(f"{str(path)!r} was damaged or changed: {SEAL} is that of another config")
    return config


def _check(path: Path, given: Mapping[str, Any], fields: Mapping[str, Check], prefix: str) -> None:
    for key, (what, is_right) in fields.items():
        if not is_right(given[key]):
            shown = repr(given[key])
            shown = shown if len(shown) < 60 else f"{shown[:60]}…"
            raise ValueError(f"{str(path)!r}: {prefix}{key} must be {what}, got {shown}")


def _digest(config: Mapping[str, Any]) -> str:
    text = json.dumps({key: config.get(key) for key in SEALED}, sort_keys=True)
    return sha256(text.encode()).hexdigest()
