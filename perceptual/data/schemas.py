"""The choices of `data=`: typed schemas, made from the settings of the data modules."""

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

from perceptual.data.settings import BAPPS, Loading, Manifest, Opinions, Pairs, Parquet, Photos, Training

Cache = Enum("Cache", ["on", "off"])
SAID = {  # in `--help`
    "columns": "data.columns.ref=… and such: names of columns that differ",
    "layout": "csv, or the name of a reader that an installed package adds",
    "size": "null: images keep their sizes",
    "val_conditions": "with split_by=condition, those to judge; null: val_fraction of them",
    "cache": "train.py: compute the features of a frozen backbone once, and keep them",
    "views": "with the cache: augmented views of each training image; null: what a first run can afford",
}
PUBLISHED = {"path": "root", "layout": "name"}  # keys of a set that has a name


def default_of(function: Callable[..., Any], name: str) -> Any:
    """Return the default value of a function's argument."""
    return signature(function).parameters[name].default


def schema(
    settings: type[Loading],
    target: str,
    about: str,
    keys: Mapping[str, str] | None = None,
    leave_out: Sequence[str] = (),
    **defaults: Any,
) -> Any:
    """Make the schema of one choice of data.

    Args:
        settings: its keys, types and defaults.
        target: what they are the arguments of.
        about: what the data are, for `--help`.
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
        found += [("cache", Cache, Cache.on), ("views", int | None, None)]
    described = [(name, kind, _field(name, value)) for name, kind, value in found]
    return make_dataclass("Schema", described, namespace={"__doc__": about})


def _allowed(hint: Any) -> Any:
    """A type as OmegaConf knows it: enumerations in place of `Literal`, lists in place of `Sequence`."""
    origin, arguments = get_origin(hint), get_args(hint)
    if origin is Literal:
        return Enum("Word", arguments)
    if origin is Mapping:
        return dict[str, str]
    if origin is Sequence:
        return list[_allowed(arguments[0])]  # type: ignore[misc]  # known at run time
    if origin in (Union, UnionType):
        return reduce(or_, map(_allowed, arguments))
    return hint


def _field(name: str, value: Any) -> Any:
    said = {"said": SAID.get(name, "")}
    if isinstance(value, tuple):
        return field(default_factory=lambda: list(value), metadata=said)
    if isinstance(value, dict):
        return field(default_factory=dict, metadata=said)
    return field(default=value, metadata=said)


# published sets, at native resolution; data.root=… is the folder of each as published
ANSWERS = {
    "mucped23": "mucped23: which of two JPEGs is closer?",
    "clic": "CLIC, its perceptual track: which of two is closer?",
    "pieapp": "PieAPP: pairwise preferences.",
}
OPINIONS = {
    "tid2013": "TID2013, for evaluate.py: opinions.",
    "kadid10k": "KADID-10k, for evaluate.py: opinions.",
    "csiq": "CSIQ, for evaluate.py: opinions.",
    "live": "LIVE, release 2, for evaluate.py: opinions.",
    "pipal": "PIPAL, its training part, for evaluate.py: opinions.",
}
SCHEMAS = {
    "photos": schema(
        Photos,
        "perceptual.data.PhotosDataModule",
        "Triplets made of packaged photographs, judged by a simulated observer, not by people.",
    ),
    "bapps": schema(
        BAPPS,
        "perceptual.data.BAPPSDataModule",
        "BAPPS, the data set of the paper: data.root=… holds 2afc/, or is a store packed from it.",
    ),
    "manifest": schema(
        Manifest,
        "perceptual.data.ManifestDataModule",
        "Triplets of data.path=…: a CSV with ref,p0,p1,judge[,votes,subset,split], a store, or NIGHTS.",
    ),
    "parquet": schema(
        Parquet,
        "perceptual.data.ParquetDataModule",
        "Triplets of data.path=…: Parquet files with columns ref,p0,p1,judge[,votes,subset,split], or hf://…",
        leave_out=["layout"],
        columns={},
    ),
    "jnd": schema(
        Pairs,
        "perceptual.data.JNDDataModule",
        "Pairs that people called the same or not, for evaluate.py: a BAPPS folder, CSV, Parquet or a store.",
        columns={},
    ),
    "odd": schema(
        Parquet,
        "perceptual.data.OddOneOutDataModule",
        "Which of three is odd? data.path=…: a CSV with a,b,c,odd_a,odd_b,odd_c, folders, Parquet, THINGS.",
        leave_out=["layout"],
        columns={},
    ),
    "opinions": schema(
        Opinions,
        "perceptual.data.OpinionDataModule",
        "Images that people rated, for evaluate.py: a CSV with ref,dist and mos, dmos, or score.",
    ),
    **{
        name: schema(
            Manifest, "perceptual.data.modules.published_choices", about, PUBLISHED, name=name, size=None
        )
        for name, about in ANSWERS.items()
    },
    **{
        name: schema(
            Opinions, "perceptual.data.modules.published_opinions", about, PUBLISHED, ["larger"], name=name
        )
        for name, about in OPINIONS.items()
    },
}
