"""Networks of torchvision: those of LPIPS at its layers, and any other at the nodes of its graph.

torchvision is imported where it is used: importing it takes as long as importing PyTorch.
"""

import difflib
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from perceptual.features import weights as weight_files
from perceptual.features.custom import SIZES, channels_of
from perceptual.features.info import (
    IMAGENET_MEAN,
    IMAGENET_STD,
    BackboneInfo,
    Level,
    Network,
    embeddings_of,
    levels,
    no_weights,
)
from perceptual.names import OF_TORCHVISION, Name


class Taps(NamedTuple):
    """Layers of `torchvision.models.<name>().features` that LPIPS reads, after their activation."""

    layers: tuple[int, ...]
    channels: tuple[int, ...]


TORCHVISION = {
    "alexnet": Taps((1, 4, 7, 9, 11), (64, 192, 384, 256, 256)),
    "squeezenet1_1": Taps((1, 4, 7, 9, 10, 11, 12), (64, 128, 256, 384, 384, 512, 512)),
}


def find_taps(
    name: str,
    weights: str | None,
    out_indices: Sequence[Level] | None,
    input_size: tuple[int, int] | None,
    prefix: str,
) -> Network:
    """Build AlexNet or SqueezeNet at the layers of LPIPS, which timm does not have."""
    taps = TORCHVISION[name]
    chosen = levels(name, out_indices, range(len(taps.layers)), len(taps.layers), ["embedding"])
    layers = _alexnet() if weights is not None and name == "alexnet" else _of_torchvision(name, weights)
    words = embeddings_of(chosen)
    numbers = [level for level in range(len(taps.layers)) if level in chosen]
    net = _TappedSequential(layers, [taps.layers[i] for i in numbers], bool(words))
    source = "random"
    if weights is not None:
        local = weight_files.find_local(name, weights, prefix)
        state, source = local or _from_hub(name, name, "IMAGENET1K_V1")
        given = {key.removeprefix("features."): value for key, value in state.items()}
        weight_files.assign(net, given, f"{name} from {source}")
    channels = [taps.channels[i] for i in [*numbers, *(-1 for _ in words)]]
    info = BackboneInfo(name, chosen, channels, source, input_size=input_size, embeds=not numbers)
    return Network(net, info)


def _alexnet() -> nn.Sequential:
    """`torchvision.models.alexnet().features` without its weights, and without importing torchvision."""
    with torch.device("meta"):
        return nn.Sequential(
            *(nn.Conv2d(3, 64, 11, stride=4, padding=2), nn.ReLU(), nn.MaxPool2d(3, 2)),
            *(nn.Conv2d(64, 192, 5, padding=2), nn.ReLU(), nn.MaxPool2d(3, 2)),
            *(nn.Conv2d(192, 384, 3, padding=1), nn.ReLU()),
            *(nn.Conv2d(384, 256, 3, padding=1), nn.ReLU()),
            *(nn.Conv2d(256, 256, 3, padding=1), nn.ReLU(), nn.MaxPool2d(3, 2)),
        )


def _of_torchvision(name: str, weights: str | None) -> nn.Sequential:
    import torchvision

    # On the meta device the classifier, most of the network and never used, costs nothing.
    with torch.device("cpu" if weights is None else "meta"):
        layers: nn.Sequential = torchvision.models.get_model(name, weights=None).features
    return layers


class _TappedSequential(nn.Sequential):
    """The layers up to the deepest tap; returns the outputs of the tapped ones, then the embedding if asked.

    That is the mean over positions of what all layers give to the head, which is a classifier.
    """

    def __init__(self, layers: nn.Sequential, taps: Sequence[int], embedding: bool) -> None:
        super().__init__(*list(layers)[: None if embedding else max(taps) + 1])
        self.taps, self.embedding = frozenset(taps), embedding

    def forward(self, x: Tensor) -> list[Tensor]:
        maps = []
        for index, layer in enumerate(self):
            x = layer(x)
            if index in self.taps:
                maps.append(x)
        return [*maps, x.mean((2, 3))] if self.embedding else maps


def check_name(base: str, options: Mapping[str, Any]) -> None:
    """Refuse a model that torchvision does not have, and options other than `nodes` and `weights`.

    Raises:
        ValueError: offering the nearest names.
    """
    import torchvision

    name = base.removeprefix(OF_TORCHVISION)
    if name not in (known := torchvision.models.list_models(module=torchvision.models)):
        near = difflib.get_close_matches(name, known, n=3)
        raise ValueError(
            f"unknown backbone {base!r}" + (f"; did you mean {', '.join(near)}?" if near else "")
        )
    if others := options.keys() - {"nodes"}:
        raise ValueError(f"{base} has the option nodes, got {', '.join(sorted(others))}")


def find_nodes(
    named: Name,
    weights: str | None,
    out_indices: Sequence[Level] | None,
    input_size: tuple[int, int] | None,
    prefix: str,
) -> Network:
    """Build `torchvision:NAME[nodes=[…]]`: the outputs of these nodes of its graph.

    Args:
        named: the name.
        weights: a name of torchvision's (`IMAGENET1K_V2`) besides what `Backbone` takes.
        out_indices: of the nodes, those to tap.
        input_size, prefix: as in `Backbone`.
    """
    import torchvision

    name, model_name = str(named), named.base.removeprefix(OF_TORCHVISION)
    enum: Any = torchvision.models.get_model_weights(model_name)
    with torch.device("cpu" if weights is None else "meta"):
        model = torchvision.models.get_model(model_name, weights=None)
    source = "random"
    if weights is not None:
        chosen = weights if weights in enum.__members__ else None
        local = None if chosen else weight_files.find_local(f"torchvision-{model_name}", weights, prefix)
        state, source = local or _from_hub(name, model_name, chosen or enum.DEFAULT.name)
        weight_files.assign(model, state, f"{name} from {source}")
    net = _Nodes(model.eval(), _nodes(name, named.options.get("nodes"), model))
    channels, embeds = channels_of(net, name, [input_size] if input_size else SIZES)
    taps = levels(name, out_indices, range(len(channels)), len(channels))
    numbers = [level for level in range(len(channels)) if level in taps]
    net.taps = [net.taps[i] for i in numbers]
    transforms = enum.DEFAULT.transforms()
    mean, std = getattr(transforms, "mean", IMAGENET_MEAN), getattr(transforms, "std", IMAGENET_STD)
    info = BackboneInfo(
        name,
        taps,
        [channels[i] for i in numbers],
        source,
        mean,
        std,
        input_size,
        embeds=all(embeds[i] for i in numbers),
    )
    return Network(net, info)


class _Nodes(nn.Module):
    """The outputs of nodes of a model's graph, in order."""

    def __init__(self, model: nn.Module, nodes: Sequence[str]) -> None:
        from torchvision.models.feature_extraction import create_feature_extractor

        super().__init__()
        self.model = create_feature_extractor(model, return_nodes={node: node for node in nodes})
        self.taps = list(nodes)

    def forward(self, x: Tensor) -> list[Tensor]:
        outputs = self.model(x)
        return [outputs[node] for node in self.taps]


def _nodes(name: str, nodes: object, model: nn.Module) -> list[str]:
    from torchvision.models.feature_extraction import get_graph_node_names

    known = get_graph_node_names(model)[1]
    if not isinstance(nodes, list) or not nodes:
        top = dict.fromkeys(node.partition(".")[0] for node in known[1:])
        raise ValueError(
            f"{name} needs nodes, the outputs to tap, such as {name}[nodes=[…]] or backbone.nodes=[…]; "
            f"at the top level there are {', '.join(top)}"
        )
    for node in nodes:
        if not any(node == there or there.startswith(f"{node}.") for there in known):
            near = difflib.get_close_matches(str(node), known, n=3)
            raise ValueError(
                f"{name}: there is no node {node!r}" + (f"; near are {', '.join(near)}" if near else "")
            )
    return [str(node) for node in nodes]


def _from_hub(what: str, name: str, weights: str) -> tuple[Mapping[str, Tensor], str]:
    import torchvision

    enum: Any = torchvision.models.get_model_weights(name)
    try:
        state = enum[weights].get_state_dict(check_hash=True)
    except (OSError, RuntimeError) as error:
        file = name if what == name else f"torchvision-{name}"
        raise no_weights(what, error, file) from error
    return state, f"hub:torchvision {weights}"
