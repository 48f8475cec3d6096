"""Typed schemas of `conf/data/`, made from the settings of the data modules."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import MISSING as REQUIRED
from dataclasses import field, fields, make_dataclass
from enum import Enum
from functools import reduce
from inspect import signature
from operator import or_
from types import UnionType
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

from omegaconf import MISSING

from perceptual.data.settings import BAPPS, Loading, Manifest, Opinions, Pairs, Photos, Training

Cache = Enum("Cache", ["on", "off"])
SAID = {  # in `--help`
    "size": "null: images keep their sizes",
    "cache": "train.py: compute the features of a frozen backbone once, and keep them",
    "views": "with the cache: augmented views of each training image, beside the image itself",
}
PUBLISHED = {"path": "root", "layout": "name"}  # keys of a set that has a name


def default_of(function: Callable[..., Any], name: str) -> Any:
    """Return the default value of a function's argument."""
    return signature(function).parameters[name].default


def schema(
    settings: type[Loading],
    target: str,
    keys: Mapping[str, str] | None = None,
    leave_out: Sequence[str] = (),
    **defaults: Any,
) -> Any:
    """Make the schema of what `conf/data/` says of one kind of data.

    Args:
        settings: its keys, types and defaults.
        target: what they are the arguments of.
        keys: keys that differ from the names of the settings.
        leave_out: settings that have no key.
        defaults: by key, where they differ.
    """
    hints = get_type_hints(settings)
    found: list[tuple[str, Any, Any]] = [("_target_", str, target)]
    for one in fields(settings):
        if one.name not in leave_out:
            key = (keys or {}).get(one.name, one.name)
            default = MISSING if one.default is REQUIRED else one.default
            value = defaults.get(key, "${seed}" if key in ("seed", "split_seed") else default)
            found.append((key, _allowed(hints[one.name]), value))
    if issubclass(settings, Training):
        found += [("cache", Cache, Cache.on), ("views", int, 0)]
    return make_dataclass("Schema", [(name, kind, _field(name, value)) for name, kind, value in found])


def _allowed(hint: Any) -> Any:
    """A type as OmegaConf knows it: enumerations in place of `Literal`, lists in place of `Sequence`."""
    origin, arguments = get_origin(hint), get_args(hint)
    if origin is Literal:
        return Enum("Word", arguments)
    if origin is Sequence:
        return list[_allowed(arguments[0])]  # type: ignore[misc]  # known at run time
    if origin in (Union, UnionType):
        return reduce(or_, map(_allowed, arguments))
    return hint


def _field(name: str, value: Any) -> Any:
    said = {"said": SAID.get(name, "")}
    if isinstance(value, tuple):
        return field(default_factory=lambda: list(value), metadata=said)
    return field(default=value, metadata=said)


SCHEMAS = {
    "photos": schema(Photos, "perceptual.data.PhotosDataModule"),
    "bapps": schema(BAPPS, "perceptual.data.BAPPSDataModule"),
    "manifest": schema(Manifest, "perceptual.data.ManifestDataModule", leave_out=["layout"]),
    "answers": schema(
        Manifest,
        "perceptual.data.modules.published_choices",
        PUBLISHED,
        name=MISSING,
        size=None,
    ),
    "jnd": schema(Pairs, "perceptual.data.JNDDataModule"),
    "opinions": schema(Opinions, "perceptual.data.OpinionDataModule"),
    "published": schema(
        Opinions, "perceptual.data.modules.published_opinions", PUBLISHED, ["larger"], name=MISSING
    ),
}
