"""Feature networks by name: torchvision's of LPIPS, any of torchvision by its nodes, and timm's.

timm is imported where it is used: importing it takes longer than measuring two images with AlexNet.
"""

import difflib
from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from perceptual.features import shifts, timm_networks, torchvision_networks
from perceptual.features import weights as weight_files
from perceptual.features.info import Level, Network
from perceptual.features.torchvision_networks import TORCHVISION
from perceptual.names import (
    ALIASES,
    ANTIALIAS,
    CALIBRATED,
    CHROMA,
    LEVELS,
    LOCAL,
    OF_TORCHVISION,
    SCHEMES,
    Name,
    read_names,
)

OWN = (LEVELS, CHROMA, ANTIALIAS)  # options that are ours


def find(
    name: Name,
    weights: str | None,
    out_indices: Sequence[Level] | None,
    input_size: tuple[int, int] | None,
    prefix: str = "",
) -> Network:
    """Build the network of a name with its weights; arguments and errors as in `Backbone`."""
    theirs, own = _sorted(name)
    if LEVELS in own and out_indices is not None:
        raise ValueError(f"{str(name)!r} says {LEVELS} already: leave out {LEVELS}")
    net, info = _find(theirs, weights, own.get(LEVELS, out_indices), input_size, prefix)
    if own.get(ANTIALIAS):
        shifts.antialias(net)
    return Network(net, replace(info, name=str(name), chroma=own.get(CHROMA, 1)))


def _find(
    name: Name,
    weights: str | None,
    out_indices: Sequence[Level] | None,
    input_size: tuple[int, int] | None,
    prefix: str,
) -> Network:
    if name.base in TORCHVISION:
        return torchvision_networks.find_taps(name.base, weights, out_indices, input_size, prefix)
    if name.base.startswith(OF_TORCHVISION):
        return torchvision_networks.find_nodes(name, weights, out_indices, input_size, prefix)
    return timm_networks.Builder(name, input_size).build(weights, out_indices, prefix)


def _sorted(name: Name) -> tuple[Name, dict[str, Any]]:
    """Return the name of a network with the options of its library alone, and those that are ours.

    Raises:
        ValueError: the levels are not a list, `chroma` is out of range, or `antialias` is for other networks.
    """
    own = {key: value for key, value in name.options.items() if key in OWN}
    if not isinstance(levels := own.get(LEVELS, []), list):
        raise ValueError(f"{str(name)!r}: {LEVELS} must be a list, {LEVELS}=[{levels}]")
    chroma = own.get(CHROMA, 1)
    if type(chroma) not in (int, float) or not 0 <= chroma <= 1:
        raise ValueError(f"{str(name)!r}: {CHROMA} must be a number from 0 (grey) to 1, got {chroma!r}")
    if ANTIALIAS in own and name.base.partition(".")[0] not in CALIBRATED:
        raise ValueError(
            f"{str(name)!r}: {ANTIALIAS} is for {', '.join(CALIBRATED)}; many networks of timm take aa_layer"
        )
    if type(own.get(ANTIALIAS, False)) is not bool:
        raise ValueError(f"{str(name)!r}: {ANTIALIAS} must be true or false, got {own[ANTIALIAS]!r}")
    return Name(name.base, {key: value for key, value in name.options.items() if key not in OWN}), own


def local_files(names: Iterable[Name]) -> list[Path]:
    """Return the files on this machine that the default weights of networks are read from.

    Raises:
        FileNotFoundError: the directory of `PERCEPTUAL_WEIGHTS` does not exist.
    """
    files: list[Path] = []
    for base, _ in names:
        if base.startswith(LOCAL):
            files += sorted(path for path in Path(base.partition(":")[2]).glob("*") if path.is_file())
        elif not base.startswith(SCHEMES):
            of_torchvision = base.startswith(OF_TORCHVISION)
            if found := weight_files.locate(base.replace(":", "-", 1) if of_torchvision else base):
                files.append(found[0])
    return files


def check_name(names: str | Iterable[Name]) -> None:
    """Refuse a name that no network has, or a variant of one that has no options.

    Args:
        names: as text, or the networks that were read of it.

    Raises:
        ValueError: offering the nearest names, or the tags that timm has.
    """
    for name in read_names(names):
        _check_name(name)


def _check_name(name: Name) -> None:
    (base, options), _ = _sorted(name)
    if base in TORCHVISION:
        if options:
            raise ValueError(f"{base} has the options {', '.join(OWN)}, got {', '.join(options)}")
        return
    if base.startswith(SCHEMES):
        return
    if base.startswith(OF_TORCHVISION):
        return torchvision_networks.check_name(base, options)
    import timm

    architecture, _, tag = base.partition(".")
    known = [*TORCHVISION, *timm.list_models()]
    if architecture not in known:
        # a long ending, such as -uncalibrate, hides what it follows
        heads = (architecture, architecture.partition("-")[0])
        near = next(filter(None, (difflib.get_close_matches(h, [*known, *ALIASES], n=3) for h in heads)), [])
        raise ValueError(
            f"unknown backbone {str(name)!r}; "
            + (
                f"did you mean {', '.join(near)}?"
                if near
                else "list_metrics() and timm.list_models() list the names"
            )
            + " Of a network that your own module registers with timm, say the module: imports=[MODULE]"
        )
    tags = [full.partition(".")[2] for full in timm.list_pretrained(f"{architecture}.*")]
    if tag and tag not in tags:
        there = f"its tags: {', '.join(tags)}" if tags else "it has no tags: leave it out"
        raise ValueError(f"there are no weights {tag!r} for {architecture}; {there}")
