"""Feature networks by name: torchvision's of LPIPS, any of torchvision by its nodes, and timm's.

timm is imported where it is used: importing it takes longer than measuring two images with AlexNet.
"""

import difflib
from collections.abc import Sequence
from pathlib import Path

from perceptual.features import timm_networks, torchvision_networks
from perceptual.features import weights as weight_files
from perceptual.features.network import Network
from perceptual.features.torchvision_networks import TORCHVISION
from perceptual.names import ALIASES, LOCAL, OF_TORCHVISION, SCHEMES, members, parse


def build(
    name: str,
    weights: str | None,
    out_indices: Sequence[int] | None,
    input_size: tuple[int, int] | None,
    prefix: str = "",
) -> Network:
    """The network of that name with its weights; arguments and errors as in `Backbone`."""
    check_name(name)
    base, options = parse(name)
    if base in TORCHVISION:
        network = torchvision_networks.build_taps(base, weights, out_indices, prefix)
        return network._replace(input_size=input_size)
    if base.startswith(OF_TORCHVISION):
        return torchvision_networks.build_nodes(name, weights, out_indices, input_size, prefix)
    return timm_networks.Builder(name, base, options, input_size).build(weights, out_indices, prefix)


def local_files(name: str) -> list[Path]:
    """The files on this machine that the default weights of a network, or of several as one, are read from.

    Raises:
        FileNotFoundError: the directory of `PERCEPTUAL_WEIGHTS` does not exist.
    """
    files: list[Path] = []
    for member in members(name):
        base = parse(member).base
        if base.startswith(LOCAL):
            files += sorted(path for path in Path(base.partition(":")[2]).glob("*") if path.is_file())
        elif not base.startswith(SCHEMES):
            of_torchvision = base.startswith(OF_TORCHVISION)
            if found := weight_files.locate(base.replace(":", "-", 1) if of_torchvision else base):
                files.append(found[0])
    return files


def check_name(name: str) -> None:
    """Refuse a name that no network has, or a variant of one that has no options.

    Raises:
        ValueError: offering the nearest names, or the tags that timm has.
    """
    for member in members(name):
        _check_name(member)


def _check_name(name: str) -> None:
    base, options = parse(name)
    if base in TORCHVISION:
        if options:
            raise ValueError(f"{base} has no options, got {', '.join(options)}")
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
            f"unknown backbone {name!r}; "
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
