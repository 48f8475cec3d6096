"""Calibrations of LPIPS: the published ones, which ship with this package, and files of one's own."""

import json
import os
import re
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from safetensors import SafetensorError, safe_open
from torch import Tensor

from perceptual.distance import saved_folder
from perceptual.features import weights as weight_files

FOLDER = Path(__file__).parent / "calibrations"


class Calibration(NamedTuple):
    """Channel weights, one (C,) vector a level, and the normalisation of the images they were made with."""

    lin: list[Tensor]
    mean: list[float] | None = None
    std: list[float] | None = None
    saved: saved_folder.Saved | None = None
    """The saved folder that it is from."""


def split_version(name: str) -> tuple[str, str | None]:
    """`alexnet-v0.1` → (`alexnet`, `v0.1`); without a version → (name, None)."""
    match = re.fullmatch(r"([^/]+)-(v\d+\.\d+)", name)
    return (match[1], match[2]) if match else (name, None)


def versions(backbone: str) -> list[str]:
    """Versions published for a backbone, by timm's or torchvision's name, with or without a tag."""
    architecture, _, tag = backbone.partition(".")
    if tag not in ("", "tv_in1k"):  # calibrated on torchvision's weights, which timm tags so
        return []
    return sorted(path.stem.removeprefix(f"{architecture}-") for path in FOLDER.glob(f"{architecture}-v*"))


def load(backbone: str, lin: str | os.PathLike[str]) -> Calibration:
    """The calibration `lin` of a backbone: a published version (`v0.1`, `v0.0`) or a file.

    A file is a safetensors file of vectors `lin.0`, `lin.1`, …, or a `.pth` file of the `lpips` package; a
    folder that `LPIPS.save_pretrained` wrote has such vectors too.

    Raises:
        ValueError: a version that was not published for the backbone, or a file that holds no calibration,
            or a folder that brings another backbone.
        FileNotFoundError: no such file.
    """
    if re.fullmatch(r"v\d+\.\d+", str(lin)):
        if lin not in versions(backbone):
            published = ", ".join(sorted(path.stem for path in FOLDER.glob("*.safetensors")))
            raise ValueError(
                f"no calibration {lin!r} was published for {backbone!r}; published are {published}; "
                "lin=None gives the uncalibrated distance"
            )
        return read(FOLDER / f"{backbone.partition('.')[0]}-{lin}.safetensors")
    path = Path(lin).expanduser()
    return _read_folder(path, backbone) if path.is_dir() else read(path)


def read(path: Path) -> Calibration:
    """A calibration from a file, with the normalisation that its metadata names.

    Raises:
        ValueError: the file holds no calibration.
        FileNotFoundError: no such file.
    """
    state = weight_files.read(path)
    vectors = {_level(key): value.flatten() for key, value in state.items()}
    if len(vectors) < len(state) or sorted(vectors) != list(range(len(vectors))):
        raise ValueError(
            f"{str(path)!r} is no calibration: expected vectors lin.0, lin.1, …, "
            f"got {', '.join(list(state)[:3])}"
        )
    metadata = _metadata(path)
    mean, std = (json.loads(metadata[key]) if key in metadata else None for key in ("mean", "std"))
    return Calibration([vectors[level].float() for level in sorted(vectors)], mean, std)


def check_fits(lin: Sequence[Tensor], channels: Sequence[int], backbone: str) -> None:
    """Refuse channel weights whose levels are not those of the backbone.

    Raises:
        ValueError: naming both lists of channels.
    """
    given = [len(vector) for vector in lin]
    if given != list(channels):
        raise ValueError(
            f"lin has levels of {given} channels, but {backbone} was tapped at levels of {list(channels)}"
        )


def _read_folder(folder: Path, backbone: str) -> Calibration:
    saved = saved_folder.read(folder)
    record = saved.config["backbone"]
    if record["saved"] or record["name"] != backbone:
        raise ValueError(
            f"lin={str(folder)!r} was calibrated on "
            + ("a backbone of its own" if record["saved"] else f"{record['name']}, not {backbone}")
            + f"; LPIPS.from_pretrained({str(folder)!r}) takes both"
        )
    return Calibration(saved.lin, record["mean"], record["std"], saved)


def _level(key: str) -> int:
    """Level of a key `lin.2`, or `lin2.model.1.weight` as the `lpips` package has it; −1 for another key."""
    match = re.fullmatch(r"lin\.(\d+)|lin(\d+)\.model\.1\.weight", key)
    return int(match[1] or match[2]) if match else -1


def _metadata(path: Path) -> dict[str, str]:
    try:
        with safe_open(path, "pt") as file:
            return file.metadata() or {}
    except SafetensorError:  # a .pth file has none
        return {}
