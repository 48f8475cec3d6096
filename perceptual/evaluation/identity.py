"""What the results of a method are called."""

import hashlib
import os
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from perceptual.distance import calibration as calibrations
from perceptual.distance.lpips import LPIPS
from perceptual.distance.saved_folder import CONFIG
from perceptual.evaluation import methods as grammar
from perceptual.features import networks
from perceptual.features import weights as weight_files
from perceptual.features.build import KMEANS


def identity(method: str, precision: str = "32-true") -> str:
    """A method's canonical name; with `@` and a SHA-256 where a path says what it is made of.

    That is a checkpoint, a saved folder, or the photographs of `NAME-kmeans:FOLDER`. Deep features of another
    precision than float32 are another method, with `+` and the precision.
    """
    deep = grammar.family(method) != grammar.CLASSIC
    suffix = f"+{precision}" if deep and precision != "32-true" else ""
    if grammar.KMEANS_OF in method:
        return grammar.canonical(method) + _digest_of_images(method) + suffix
    # of os.path: a name that no file can have is no file, where Path raises an error
    path = Path(method, CONFIG) if os.path.isdir(method) else Path(method)
    if not grammar.is_path(method) or not os.path.isfile(path):
        return grammar.canonical(method) + suffix
    return f"{method}@{hashlib.sha256(path.read_bytes()).hexdigest()[:8]}{suffix}"


class Asked(NamedTuple):
    """A method as it was asked for, and what it would be read from."""

    said: str
    weights: str | None
    """SHA-256 of the files on this machine that its network's weights are read from; None: there are none."""


def called(
    methods: Iterable[str], precision: str, row_of: Callable[[str], Mapping[str, Any] | None]
) -> dict[str, Asked]:
    """The names of the results of methods, each with what it stands for.

    That is the identity; where there is a result of that name on other weights, `@` and a SHA-256 follow.

    Args:
        methods: as they were asked for.
        precision: see `identity`.
        row_of: the row of the result of a name, None if there is none.
    """
    names = {}
    for method in methods:
        try:
            name, weights = identity(method, precision), weights_of(method)
        except Exception:  # building it says what is wrong, and the others go on
            name, weights = method, None
        row = row_of(name)
        if row is not None and row.get("weights_file", weights) != weights and _differs(method, row):
            name += f"@{(weights or 'hub')[:8]}"
        names[name] = Asked(method, weights)
    return names


def weights_of(method: str) -> str | None:
    """SHA-256 of the files on this machine that the weights of a method's network are read from by default.

    None: from no such file, but the hub, or a checkpoint or saved folder, whose identity says which.
    """
    if grammar.is_path(method) or grammar.family(method) == grammar.CLASSIC:
        return None
    network, version = grammar.split(method)
    if version in (calibrations.RANDOM, KMEANS):
        return None
    found = [weight_files.digest(path) for path in networks.local_files(network)]
    return hashlib.sha256("".join(found).encode()).hexdigest() if found else None


def _differs(method: str, row: Mapping[str, Any]) -> bool:
    """Whether a method has other weights than those of a result: other files may hold the same."""
    try:
        distance = grammar.build(method)
    except Exception:  # it says why where it is scored
        return True
    return not isinstance(distance, LPIPS) or distance.backbone.fingerprint() != row.get("weights_sha256")


def _digest_of_images(method: str) -> str:
    try:
        images = grammar.kmeans_images(method)
    except (OSError, ValueError):
        return ""  # building it says why it fails
    return f"@{hashlib.sha256(images.numpy().tobytes()).hexdigest()[:8]}"
