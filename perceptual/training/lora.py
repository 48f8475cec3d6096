"""LoRA: a transformer tuned by small matrices beside the weights of its attention, which stay as they are.

Hu et al., "LoRA: Low-Rank Adaptation of Large Language Models", ICLR 2022, https://arxiv.org/abs/2106.09685:
W x becomes W x + B A x, with A (r, C_in) random, B (C_out, r) zero at first, and only these two trained. It
needs the `peft` package, an extra.
"""

from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn

from perceptual.files.messages import install

# names in timm's transformers of the layers that make queries, keys and values
ATTENTION = {"qkv", "q", "k", "v", "kv", "q_proj", "k_proj", "v_proj"}


def add(net: nn.Module, name: str, rank: int) -> None:
    """Add trainable adapters to the attention layers of a frozen network, in place.

    Args:
        net: the network.
        name: its name in messages.
        rank: r, at least 1.

    Raises:
        ValueError: the network has no attention layers, or `peft` is not installed.
    """
    layers = [
        path
        for path, module in net.named_modules()
        if isinstance(module, nn.Linear) and path.rpartition(".")[2] in ATTENTION
    ]
    if not layers:
        raise ValueError(f"variant=lora adapts the attention of transformers, and {name} has none; try tune")
    peft = _peft()
    peft.inject_adapter_in_model(peft.LoraConfig(r=rank, lora_alpha=rank, target_modules=layers), net)


def merge(net: nn.Module) -> None:
    """Add the adapters to the weights beside them and remove them, in place."""
    from peft.tuners.tuners_utils import BaseTunerLayer

    for path, module in list(net.named_modules()):
        if isinstance(module, BaseTunerLayer):
            module.merge()
            parent, _, child = path.rpartition(".")
            setattr(net.get_submodule(parent), child, module.get_base_layer())


def base_state(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The weights of a network without its adapters, under the names of the plain network."""
    return {key.replace(".base_layer.", "."): value for key, value in state.items() if ".lora_" not in key}


def _peft() -> Any:
    try:
        import peft
    except ImportError as error:
        raise ValueError(f"variant=lora needs the package peft: {install('lora')}") from error
    return peft
