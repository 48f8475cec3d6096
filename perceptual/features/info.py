"""What is known of a backbone, whatever library its network is from."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from perceptual.files.messages import first_line

Level = int | str  # the number of a map, or one of EMBEDDINGS
# the class token as the last block leaves it; what the network's own head pools, after the final norm, and
# projected where there is a projection; the mean of the patch tokens as the last block leaves them
EMBEDDINGS = ("cls", "embedding", "patches")
IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


@dataclass(frozen=True)
class BackboneInfo:
    """A network, its levels, its weights and the images that it sees."""

    name: str
    """Name with options: the identity of the network without its weights."""
    out_indices: tuple[Level, ...]
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
    embeds: bool = False
    """Whether every level is an embedding: a vector for the whole image, a map of 1×1."""
    prepares: bool = False
    """Whether the network normalises images itself, so that mean and std only record how."""
    chroma: float = 1
    """How much of their colour images keep: from 0, grey, to 1."""
    spec: Mapping[str, Any] = field(default_factory=dict)
    """Plain values from which `build_backbone` builds it again, as checkpoints keep them."""


class Network(NamedTuple):
    """A module that gives a list of feature maps, shallow to deep, and what is known of it."""

    net: Any
    info: BackboneInfo


def levels(
    name: str,
    given: Sequence[Level] | None,
    default: Sequence[int],
    depth: int,
    embeddings: Sequence[str] = (),
) -> tuple[Level, ...]:
    """Count levels from the first; negative ones count from the last, as in timm. Embeddings come last.

    Raises:
        ValueError: they do not rise, there are fewer levels, or not these embeddings.
    """
    chosen: list[Any] = list(default if given is None else given)
    words = embeddings_of(chosen)
    numbers = chosen[: len(chosen) - len(words)]
    try:
        counted = [level + depth if level < 0 else range(depth)[level] for level in numbers]
        fits = counted == sorted({*counted}) and min(counted, default=0) >= 0
    except (TypeError, IndexError):  # a word, or a number of no level
        fits = False
    if not (chosen and fits and {*words} <= {*embeddings} and len({*words}) == len(words)):
        there = f", then {', '.join(embeddings)}" if embeddings else ""
        lacking = [word for word in EMBEDDINGS if word in words and word not in embeddings]
        raise ValueError(
            f"out_indices of {name} must be rising numbers from 0 to {depth - 1}, or negative ones from "
            f"{-depth} to -1{there}, got {chosen}"
            + (f": this network has no {' and no '.join(lacking)}" if lacking else "")
        )
    return (*counted, *words)


def embeddings_of(chosen: Sequence[Level]) -> list[str]:
    """Return the embeddings among levels: their words."""
    return [level for level in chosen if isinstance(level, str)]


def no_weights(name: str, error: Exception, file: str) -> FileNotFoundError:
    """Make the error where neither this machine nor a hub has weights; `file` is their name here."""
    reason = first_line(error).split(". ")[0]
    return FileNotFoundError(
        f"no weights for {name}: the environment variable PERCEPTUAL_WEIGHTS names no directory that holds "
        f"{file}.safetensors, and the hub did not give them ({reason}); `weights` may also be "
        "the path of a file, or null for random ones"
    )
