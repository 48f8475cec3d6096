"""What the results of a method are called."""

import hashlib
import os
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from perceptual.distance.lpips import LPIPS
from perceptual.distance.saving.folders import CONFIG
from perceptual.evaluation.methods import build, kmeans_images
from perceptual.features import networks
from perceptual.features import weights as weight_files
from perceptual.names import KMEANS, RANDOM, Method


def identity(method: Method, precision: str = "32-true") -> str:
    """The `str` of a method; with `@` and a SHA-256 where a path says what it is made of.

    That is a checkpoint, a saved folder, or the photographs of `NAME-kmeans:FOLDER`. Deep features of another
    precision than float32 are another method, with `+` and the precision.
    """
    made_of = None
    if method.photographs is not None:
        made_of = _images(method.photographs)
    elif method.path:
        # of os.path: a name that no file can have is no file, where Path raises an error
        path = Path(method.path, CONFIG) if os.path.isdir(method.path) else Path(method.path)
        made_of = path.read_bytes() if os.path.isfile(path) else None
    digest = f"@{hashlib.sha256(made_of).hexdigest()[:8]}" if made_of is not None else ""
    return f"{method}{digest}" + ("" if precision == "32-true" or method.baseline else f"+{precision}")


class Asked(NamedTuple):
    """A method that was asked for, and what it would be read from."""

    method: Method
    weights: str | None
    """SHA-256 of the files on this machine that its network's weights are read from; None: there are none."""


def called(
    methods: Iterable[Method], precision: str, row_of: Callable[[str], Mapping[str, Any] | None]
) -> dict[str, Asked]:
    """The names of the results of methods, each with what it stands for.

    That is the identity; where there is a result of that name on other weights, `@` and a SHA-256 follow.

    Args:
        methods: what was asked for.
        precision: see `identity`.
        row_of: the row of the result of a name, None if there is none.
    """
    names = {}
    for method in methods:
        try:
            name, weights = identity(method, precision), weights_of(method)
        except Exception:  # building it says what is wrong, and the others go on
            name, weights = method.text, None
        row = row_of(name)
        if row is not None and row.get("weights_file", weights) != weights and _differs(method, row):
            name += f"@{(weights or 'hub')[:8]}"
        names[name] = Asked(method, weights)
    return names


def weights_of(method: Method) -> str | None:
    """SHA-256 of the files on this machine that the weights of a method's network are read from by default.

    None: from no such file, but the hub, or a checkpoint or saved folder, whose identity says which.
    """
    if method.path or method.baseline or method.calibration in (RANDOM, KMEANS):
        return None
    found = [weight_files.digest(path) for path in networks.local_files(method.networks)]
    return hashlib.sha256("".join(found).encode()).hexdigest() if found else None


def _differs(method: Method, row: Mapping[str, Any]) -> bool:
    """Whether a method has other weights than those of a result: other files may hold the same."""
    try:
        distance = build(method)
    except Exception:  # it says why where it is scored
        return True
    return not isinstance(distance, LPIPS) or distance.backbone.fingerprint() != row.get("weights_sha256")


def _images(folder: str) -> bytes | None:
    try:
        return kmeans_images(folder).numpy().tobytes()
    except (OSError, ValueError):
        return None  # building it says why it fails
