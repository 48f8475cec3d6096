"""Feature networks that users bring: the contract, and what is found by trying a network once."""

import difflib
import importlib
import os
import sys
import traceback
from collections.abc import Collection, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import torch
from torch import Tensor, nn

from perceptual.features.info import BackboneInfo, Network

TARGET = "_target_"
BUILT = "built"  # in a description: the name of a network that was passed as an object
SIZES = ((64, 64), (96, 80))  # that a network is tried with: channels are what does not change with the size
LIBRARIES = ("perceptual", "torch", "torchvision", "timm", "huggingface_hub", "safetensors")
_imported: set[str] = set()


@runtime_checkable
class FeatureNetwork(Protocol):
    """What a network must offer to be the backbone of a distance.

    It is an `nn.Module` called with images (N, 3, H, W) in [0, 1], which gives a list or tuple of at least
    one map (N, C, h, w), shallow to deep, or embedding (N, C), of floating-point features; it normalises the
    images itself. It may have `channels`, the C of each (else they are found by trying it on a 64×64 image),
    `name`, what checkpoints and results call it (else the name of its class), and `mean` and `std`, three
    numbers each, which are recorded as what it normalises with.
    """

    def __call__(self, images: Tensor) -> Sequence[Tensor]:
        """Compute maps of each level."""
        ...


def described(network: nn.Module, learned: bool = True, name: str | None = None, **known: Any) -> Network:
    """Try a built network, and say what is known of it.

    Args:
        network: the network, with what it says of itself.
        learned: whether its weights are of earlier training.
        name: what to call it; by default its `name`, else that of its class.
        known: what else is known of it, as `BackboneInfo` takes it.

    Raises:
        ValueError: it does not fulfil the contract.
    """
    name = str(name or getattr(network, "name", None) or type(network).__name__)
    channels, embeds = channels_of(network, name)
    mean, std = (
        torch.as_tensor(getattr(network, key, default), dtype=torch.float64).flatten().tolist()
        for key, default in (("mean", (0.0, 0.0, 0.0)), ("std", (1.0, 1.0, 1.0)))
    )
    spec = {BUILT: name, "weights": "given" if learned else None}
    known = {"source": "given", "spec": spec, "embeds": all(embeds), **known}
    levels = tuple(range(len(channels)))
    return Network(network, BackboneInfo(name, levels, channels, mean=mean, std=std, prepares=True, **known))


def channels_of(
    network: nn.Module, name: str, sizes: Sequence[tuple[int, int]] = SIZES
) -> tuple[list[int], list[bool]]:
    """Find the channels of each level by trying the network on one image of each size.

    Returns:
        the channels, and which levels are embeddings.

    Raises:
        ValueError: it fails, or gives no list of maps (N, C, h, w), or not the `channels` that it states.
    """
    first, *others = (_try(network, name, size) for size in sizes)
    channels = [m.shape[1] for m in first]
    for maps in others:
        if channels != [m.shape[1] for m in maps]:
            raise ValueError(
                f"{name} gives maps whose second dimension changes with the size of the images: "
                f"{_shapes(first)}, then {_shapes(maps)}; maps are (N, C, h, w), channels second"
            )
    stated = getattr(network, "channels", None)
    if stated is not None and list(stated) != channels:
        raise ValueError(f"{name} states channels={list(stated)}, but gives maps of {channels} channels")
    return channels, [m.ndim == 2 for m in first]


@torch.no_grad()
def _try(network: nn.Module, name: str, size: tuple[int, int]) -> Sequence[Tensor]:
    training = network.training
    images = first_weight(network).new_full((1, 3, *size), 0.5)
    try:
        maps = network.eval()(images)
    except Exception as error:  # whatever the network raises
        raise ValueError(f"{name} fails on an image (1, 3, {size[0]}, {size[1]}): {say(error)}") from error
    finally:
        network.train(training)
    wanted = "a feature network gives a list of maps (N, C, h, w), shallow to deep, or embeddings (N, C)"
    if not isinstance(maps, list | tuple) or not maps:
        raise ValueError(f"{name} gives {_kind(maps)}; {wanted}")
    for index, m in enumerate(maps):
        if not isinstance(m, Tensor) or m.ndim not in (2, 4) or m.shape[0] != 1 or not m.is_floating_point():
            raise ValueError(f"{name} gives {_kind(m)} as its map {index}; {wanted}")
    return maps


def first_weight(network: nn.Module) -> Tensor:
    """Return a tensor of the precision and the device of a network's weights, by default of float32."""
    tensors = (t for t in [*network.parameters(), *network.buffers()] if t.is_floating_point())
    return next(tensors, torch.empty(0, dtype=torch.float32))


@torch.no_grad()
def leave_inference_mode(network: nn.Module) -> None:
    """Replace tensors that were made in inference mode by ones that can take part in a gradient."""
    for module in network.modules():
        for key, parameter in module._parameters.items():
            if parameter is not None and parameter.is_inference():
                module._parameters[key] = nn.Parameter(parameter.clone(), parameter.requires_grad)
        for key, buffer in module._buffers.items():
            if buffer is not None and buffer.is_inference():
                module._buffers[key] = buffer.clone()


def say(error: BaseException) -> str:
    """Write the type and message of an error in one line, and the line of the user's code."""
    said = f"{type(error).__name__}: {' '.join(str(error).split())}".removesuffix(": ")
    place = place_of(error)
    return f"{said} ({place[0]}, line {place[1]})" if place else said


def place_of(error: BaseException, libraries: Collection[str] = ()) -> tuple[str, int] | None:
    """File and line of the innermost frame that is neither ours nor of PyTorch, timm or Python.

    Args:
        error: as it was caught.
        libraries: modules in which the innermost frame of any other is no fault of the user's: None then.
    """
    for frame, line in reversed(list(traceback.walk_tb(error.__traceback__))):
        module = str(frame.f_globals.get("__name__")).partition(".")[0]
        if module in libraries:
            return None
        if module not in (*LIBRARIES, *sys.stdlib_module_names):
            return os.path.relpath(frame.f_code.co_filename), line
    return None


def _kind(value: object) -> str:
    if isinstance(value, Tensor):
        return f"one tensor {tuple(value.shape)} of {str(value.dtype).removeprefix('torch.')}"
    if isinstance(value, list | tuple):
        return f"an empty {type(value).__name__}"
    return f"a {type(value).__name__}"


def _shapes(maps: Iterable[Tensor]) -> list[tuple[int, ...]]:
    return [tuple(m.shape) for m in maps]


def import_modules(names: Iterable[str]) -> None:
    """Import modules of the user's, by name; the working directory is looked in too.

    Networks that they register with timm can be named from then on, and files may name networks in them.

    Raises:
        ValueError: naming the module, and what is wrong in it.
    """
    for name in names:
        if (here := str(Path.cwd())) not in sys.path:
            sys.path.append(here)
        try:
            importlib.import_module(name)
        except Exception as error:  # a module of the user's raises what it will, on a wrong line too
            place = f" (line {error.lineno})" if isinstance(error, SyntaxError) else ""
            raise ValueError(
                f"the module {name} cannot be imported: {type(error).__name__}: {error}{place}"
            ) from error
        _imported.add(name)


def build(spec: Mapping[str, Any], *, trusted: bool) -> nn.Module:
    """Build what `_target_` names, `module.Class` or `module.function`, with the other keys.

    Args:
        spec: `_target_` and arguments.
        trusted: whether the user wrote it, so that its module is imported. What a file names is only looked
            up in modules that `import_modules` has imported: no file makes anything run.

    Raises:
        ValueError: no such module or name, arguments that it does not take, or it gives no `nn.Module`.
    """
    arguments = dict(spec)
    target = str(arguments.pop(TARGET))
    module, _, attribute = target.rpartition(".")
    if not module:
        raise ValueError(f"{TARGET}={target} must name a module and what is in it, such as my_nets.MyNet")
    if trusted:
        import_modules([module])
    elif module not in _imported:
        raise ValueError(
            f"the network is {target} of the module {module}, which no file may import: "
            f"add imports=[{module}], or pass the built network as backbone="
        )
    make = getattr(sys.modules[module], attribute, None)
    if not trusted and getattr(make, "__module__", module) != module:
        raise ValueError(f"the network is {target}, which {module} only imports: no file may call it")
    if make is None:
        near = difflib.get_close_matches(attribute, dir(sys.modules[module]), n=1)
        raise ValueError(
            f"{TARGET}={target}: {module} has no {attribute}" + (f"; did you mean {near[0]}?" if near else "")
        )
    try:
        network = make(**arguments)
    except Exception as error:  # the user's code
        raise ValueError(f"{TARGET}={target} fails: {say(error)}") from error
    if not isinstance(network, nn.Module):
        raise ValueError(f"{TARGET}={target} gives a {type(network).__name__}, not a torch.nn.Module")
    return network
