"""What the results of a method are called."""

import hashlib
import os
import re
from pathlib import Path

from perceptual.distance.saved_folder import CONFIG
from perceptual.evaluation import methods as grammar
from perceptual.evaluation.results import PRECISION


def identity(method: str, precision: str = "32-true") -> str:
    """A method's canonical name, or the path of a checkpoint or a saved folder with `@` and its SHA-256.

    Deep features of another precision than float32 are another method, with `+` and the precision.
    """
    deep = grammar.family(method) != grammar.CLASSIC
    suffix = f"+{precision}" if deep and precision != "32-true" else ""
    # of os.path: a name that no file can have is no file, where Path raises an error
    path = Path(method, CONFIG) if os.path.isdir(method) else Path(method)
    if not grammar.is_path(method) or not os.path.isfile(path):
        return grammar.canonical(method) + suffix
    return f"{method}@{hashlib.sha256(path.read_bytes()).hexdigest()[:8]}{suffix}"


def path_of(name: str) -> str:
    """The method that `identity` was given."""
    return re.sub(r"(@[0-9a-f]{8})?$", "", name.removesuffix(PRECISION))
