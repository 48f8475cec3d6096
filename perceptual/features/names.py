"""Names of feature networks: `NAME`, `NAME[option=value,…]` for a variant of it, `A+B` for several as one.

A name is the identity of a network: what checkpoints, caches, saved folders and results call it, and what
builds it again.
"""

import json
import re
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

ALIASES = {"alex": "alexnet", "vgg": "vgg16", "squeeze": "squeezenet1_1"}  # of lpips and torchmetrics
JOINT = "+"
# Options by which timm reads files or takes another configuration. A name may come from a stranger's file.
FILES = re.compile(
    r"pretrained(?!_window)|^checkpoint|^cache|(^|_)(cfg|url|file|filename|dir)$|(?<!drop)_path$"
)


class Name(NamedTuple):
    """The parts of the name of one network."""

    base: str
    """An architecture with or without a tag, or a name with a scheme: `torchvision:…`, `hf-hub:…`."""
    options: dict[str, Any]
    """What it is built with besides."""

    def __str__(self) -> str:
        options = ",".join(f"{key}={_written(self.options[key])}" for key in sorted(self.options))
        return f"{self.base}[{options}]" if options else self.base


def parse(name: str, options: Mapping[str, Any] | None = None) -> Name:
    """The parts of a name; `options` are added to those that it says itself. None is no option.

    Raises:
        ValueError: brackets that hold no `option=value`, an option that is said twice, or one that names a
            file or a configuration.
    """
    match = re.fullmatch(r"([^\[\]]+)\[(.+)\]", name)
    base, said = (match[1], _read(match[2], name)) if match else (name, {})
    if not match and ("[" in name or "]" in name):
        raise ValueError(f"{name!r} is no name of a network: options are written NAME[option=value,…]")
    added = dict(options or {})
    if twice := said.keys() & added.keys():
        raise ValueError(f"{name!r} says {', '.join(sorted(twice))} already: leave out the option")
    every = {key: value for key, value in {**said, **added}.items() if value is not None}
    if files := [key for key in every if FILES.search(key)]:
        raise ValueError(
            f"{name!r}: {files[0]} names a file or a configuration, which no name of a network may; "
            "weights=… takes the path of a file"
        )
    return Name(ALIASES.get(base, base), every)


def members(name: str) -> list[str]:
    """The names in `A+B`; one, if it is the name of a single network."""
    return re.split(r"\+(?![^\[]*\])", name)


def resolve(name: str) -> str:
    """A name as it is kept: aliases resolved and options in order."""
    return JOINT.join(str(parse(member)) for member in members(name))


def _read(written: str, name: str) -> dict[str, Any]:
    from omegaconf import OmegaConf  # imported where a name has options: few have

    values: dict[str, Any] = {}
    for part in re.split(r",(?![^\[]*\])", written):  # not the commas of a list
        key, _, value = part.partition("=")
        if not re.fullmatch(r"[A-Za-z_]\w*", key) or not value or "${" in value:
            raise ValueError(f"{name!r} is no name of a network: {part!r} is not option=value")
        read: Any = OmegaConf.to_container(OmegaConf.create(f"{key}: {value}"))
        values |= read
    return values


def _written(value: Any) -> str:
    if isinstance(value, Sequence) and not isinstance(value, str):
        return f"[{','.join(_written(item) for item in value)}]"
    if isinstance(value, str) and re.fullmatch(r"[A-Za-z_][\w./-]*", value) and value not in _WORDS:
        return value
    return json.dumps(value)


_WORDS = {"true", "false", "null", "yes", "no", "on", "off", "nan", "inf"}  # that YAML reads as other types
