"""LoRA: a transformer tuned by small matrices beside the weights of its attention, which stay as they are.

Hu et al., "LoRA: Low-Rank Adaptation of Large Language Models", ICLR 2022, https://arxiv.org/abs/2106.09685:
W x becomes W x + B A x, with A (r, C_in) random, B (C_out, r) zero at first, and only these two trained. It
needs the `peft` package, an extra.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor, nn

from perceptual.distance.saving.adapters import PREFIX, Adapters
from perceptual.features import weights as weight_files
from perceptual.files.messages import install

# names in timm's transformers of the layers that make queries, keys and values
ATTENTION = {"qkv", "q", "k", "v", "kv", "q_proj", "k_proj", "v_proj"}


def add(
    net: nn.Module,
    name: str,
    rank: int,
    alpha: float | None = None,
    dropout: float = 0.0,
    targets: Sequence[str] | None = None,
) -> None:
    """Add trainable adapters to linear layers of a frozen network, in place.

    Args:
        net: the network, or several as one.
        name: its name in messages.
        rank: r, at least 1.
        alpha: α; what is added to W x is α/r · B A x. None: r.
        dropout: probability of dropping an element of x, in training.
        targets: last parts of the layers' names, such as `qkv`; None: those of the attention.

    Raises:
        ValueError: the network has no such layers, or `peft` is not installed.
    """
    linear = [path for path, module in net.named_modules() if isinstance(module, nn.Linear)]
    layers = [path for path in linear if path.rpartition(".")[2] in (targets or ATTENTION)]
    if not layers and targets:
        there = ", ".join(dict.fromkeys(path.rpartition(".")[2] for path in linear)) or "none"
        raise ValueError(f"lora_targets: {name} has no linear layer {', '.join(targets)}; it has {there}")
    if not layers:
        raise ValueError(f"variant=lora adapts the attention of transformers, and {name} has none; try tune")
    peft = _peft()
    how = {"r": rank, "lora_alpha": alpha or rank, "lora_dropout": dropout}
    peft.inject_adapter_in_model(peft.LoraConfig(**how, target_modules=layers), net)


def train(net: nn.Module, mode: bool) -> None:
    """Set training mode of the adapters' dropout; the network around them is frozen, and stays as it is."""
    for path, module in net.named_modules():
        if ".lora_dropout." in path:
            module.train(mode)


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


def adapters(net: nn.Module, name: str) -> Adapters:
    """Return the adapters of a network of that name, as `peft` writes them, with the SHA-256 of its base."""
    state = net.state_dict()
    own = {
        f"{PREFIX}{key}".replace(".default.", "."): value for key, value in state.items() if ".lora_" in key
    }
    base: Any = {"base_model_name_or_path": name, "revision": weight_files.fingerprint(base_state(state))}
    described: Any = net.peft_config
    config = described["default"].to_dict() | base | {"inference_mode": True}
    sets = {key: sorted(value) for key, value in config.items() if isinstance(value, set)}
    return Adapters(config | sets, own)


def _peft() -> Any:
    try:
        import peft
    except ImportError as error:
        raise ValueError(f"variant=lora needs the package peft: {install('lora')}") from error
    return peft
