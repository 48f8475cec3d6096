"""What is known of a backbone, whatever library its network is from."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from perceptual.files.messages import first_line

IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


@dataclass(frozen=True)
class BackboneInfo:
    """A network, its levels, its weights and the images that it sees."""

    name: str
    """Name with options: the identity of the network without its weights."""
    out_indices: tuple[int, ...]
    """Levels that are tapped."""
    channels: list[int]
    """Channels of each level."""
    source: str
    """Where the weights are from: `random`, `file:…`, `package:…`, `hub:…` or `given`, with the network."""
    mean: Sequence[float] = IMAGENET_MEAN
    std: Sequence[float] = IMAGENET_STD
    input_size: tuple[int, int] | None = None
    """Size (H, W) that all images are resized to; None: any."""
    fallback_size: tuple[int, int] | None = None
    """The size to resize images to if the network cannot take small ones."""
    channels_last: bool = False
    """Whether the maps are (N, H, W, C)."""
    prepares: bool = False
    """Whether the network normalises images itself, so that mean and std only record how."""
    spec: Mapping[str, Any] = field(default_factory=dict)
    """Plain values from which `build_backbone` builds it again, as checkpoints keep them."""


class Network(NamedTuple):
    """A module that gives a list of feature maps, shallow to deep, and what is known of it."""

    net: Any
    info: BackboneInfo


def levels(name: str, given: Sequence[int] | None, default: Sequence[int], depth: int) -> tuple[int, ...]:
    """Count levels from the first; negative ones count from the last, as in timm.

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
    """Make the error where neither this machine nor a hub has weights; `file` is their name here."""
    reason = first_line(error).split(". ")[0]
    return FileNotFoundError(
        f"no weights for {name}: the environment variable PERCEPTUAL_WEIGHTS names no directory that holds "
        f"{file}.safetensors, and the hub did not give them ({reason}); `weights` may also be "
        "the path of a file, or null for random ones"
    )
