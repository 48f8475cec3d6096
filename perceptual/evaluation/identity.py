"""What the results of a method are called."""

import hashlib
import os
from pathlib import Path

from perceptual.distance.saved_folder import CONFIG
from perceptual.evaluation import methods as grammar


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


def _digest_of_images(method: str) -> str:
    try:
        images = grammar.kmeans_images(method)
    except (OSError, ValueError):
        return ""  # building it says why it fails
    return f"@{hashlib.sha256(images.numpy().tobytes()).hexdigest()[:8]}"
