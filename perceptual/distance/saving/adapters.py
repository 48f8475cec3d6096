"""LoRA adapters apart from the network that they change, in the two files that the `peft` package writes.

Hu et al., "LoRA", ICLR 2022, https://arxiv.org/abs/2106.09685: a layer's weights W become W + α/r · B A. They
are read without the package, and added to the weights at once.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple

import torch
from annotated_types import Gt, Len
from torch import Tensor, nn
from typing_extensions import NotRequired, TypedDict

from perceptual.files.records import read_record, to_json

ADAPTER_CONFIG, ADAPTERS = "adapter_config.json", "adapter_model.safetensors"
PREFIX = "base_model.model."  # of all names in the second


class Described(TypedDict):
    """Of `adapter_config.json`, what decides about the weights; other ways than plain LoRA are refused."""

    peft_type: Literal["LORA"]
    base_model_name_or_path: str
    revision: Annotated[str, Len(64, 64)]  # SHA-256 of the weights of the base
    r: Annotated[int, Gt(0)]
    lora_alpha: Annotated[float, Gt(0)]
    bias: NotRequired[Literal["none"]]
    use_dora: NotRequired[Literal[False]]
    use_rslora: NotRequired[Literal[False]]
    fan_in_fan_out: NotRequired[Literal[False]]
    rank_pattern: NotRequired[Annotated[dict[str, int], Len(0, 0)]]
    alpha_pattern: NotRequired[Annotated[dict[str, float], Len(0, 0)]]


class Adapters(NamedTuple):
    """Adapters of a network."""

    config: Mapping[str, Any]
    """As peft's `LoraConfig`: rank, α, layers, and the name and the SHA-256 of the base."""
    state: Mapping[str, Tensor]
    """A (r, C_in) and B (C_out, r) of each layer, under peft's names."""

    def text(self) -> str:
        """Return what `adapter_config.json` holds."""
        return to_json(dict(self.config))

    def merge(self, net: nn.Module, what: str) -> None:
        """Add them to the weights of the network, in place; `what` names their file in errors.

        Raises:
            ValueError: they are of another rank than they say, or of layers that the network does not have.
        """
        rank, scale = self.config["r"], self.config["lora_alpha"] / self.config["r"]
        layers = dict(net.named_modules())
        paths = {key.removeprefix(PREFIX).rpartition(".lora_")[0] for key in self.state}
        if self.state.keys() != {f"{PREFIX}{path}.lora_{part}.weight" for path in paths for part in "AB"}:
            raise ValueError(f"{what} must hold lora_A and lora_B of each layer, and nothing else")
        for path in sorted(paths):
            a, b = (self.state[f"{PREFIX}{path}.lora_{part}.weight"] for part in "AB")
            weight = getattr(layers.get(path), "weight", None)
            if weight is None:
                raise ValueError(
                    f"{what} adapts {path}, which {self.config['base_model_name_or_path']} does not have"
                )
            if a.shape[:1] != (rank,) or b.shape[-1:] != (rank,):
                raise ValueError(
                    f"{what} holds adapters of rank {a.shape[0]}, but {ADAPTER_CONFIG} says r = {rank}; "
                    "they are of another training"
                )
            if (*b.shape[:-1], *a.shape[1:]) != (*weight.shape,):
                raise ValueError(
                    f"{what} holds {(*b.shape,)} and {(*a.shape,)} for {path}, {(*weight.shape,)}"
                )
            with torch.no_grad():
                weight += scale * (b @ a).to(weight)


def read_adapter_config(folder: Path, remedy: str) -> dict[str, Any]:
    """Read `adapter_config.json`.

    Raises:
        FileNotFoundError: there is none.
        ValueError: naming the file and the field: it is damaged, or describes no plain LoRA.
    """
    return dict(read_record(folder / ADAPTER_CONFIG, Described, remedy))
