"""A network that gives feature maps, with what is known of it, whatever library it is from."""

from collections.abc import Sequence
from typing import Any, NamedTuple

from perceptual.files.messages import first_line

IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


class Network(NamedTuple):
    """A network that gives a list of feature maps, shallow to deep, and what is known of it."""

    net: Any
    out_indices: tuple[int, ...]
    channels: list[int]
    source: str
    """Where its weights are from: `random`, `file:…`, `package:…`, `hub:…` or `given`, with the network."""
    mean: Sequence[float]
    std: Sequence[float]
    input_size: tuple[int, int] | None = None
    """The size (H, W) that all images must have; None: any."""
    fallback_size: tuple[int, int] | None = None
    """The size to resize images to if the network cannot take small ones."""
    channels_last: bool = False
    """Whether the maps are (N, H, W, C)."""
    prepares: bool = False
    """Whether it normalises the images itself, so that mean and std are only what it says of that."""


def levels(name: str, given: Sequence[int] | None, default: Sequence[int], depth: int) -> tuple[int, ...]:
    """Levels counted from the first; negative ones are counted from the last, as timm does.

    Raises:
        ValueError: they do not rise, or there are fewer levels.
    """
    chosen = default if given is None else given
    counted = tuple(level + depth if level < 0 else level for level in chosen)
    if not counted or list(counted) != sorted(set(counted)) or counted[0] < 0 or counted[-1] >= depth:
        raise ValueError(
            f"out_indices of {name} must be rising numbers from 0 to {depth - 1}, or negative ones from "
            f"{-depth} to -1, got {list(chosen)}"
        )
    return counted


def no_weights(name: str, error: Exception, file: str) -> FileNotFoundError:
    """The error where neither this machine nor a hub has weights; `file` is what they are called here."""
    reason = first_line(error).split(". ")[0]
    return FileNotFoundError(
        f"no weights for {name}: the environment variable PERCEPTUAL_WEIGHTS names no directory that holds "
        f"{file}.safetensors, and the hub did not give them ({reason}); `weights` may also be "
        "the path of a file, or null for random ones"
    )
