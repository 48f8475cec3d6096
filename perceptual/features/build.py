"""The backbone that a user describes: by a name, by arguments, by a class of their own, or built."""

from collections.abc import Mapping
from inspect import signature
from typing import Any

from torch import nn

from perceptual.features import custom
from perceptual.features import weights as weight_files
from perceptual.features.backbone import Backbone, check_input
from perceptual.names import JOINT, KMEANS, Name, read_names

# with `_target_`, what is said of the network and not to it
ABOUT = {"weights": "given", "prefix": "", "input_size": None}
# what a description says even if it is nothing
PLAIN = ("name", "weights", "out_indices", "input_size")
# with `_target_`, what describes a network by name
BY_NAME = ("name", "options", "nodes", "members", "out_indices")


def describe(network: str | Mapping[str, Any] | nn.Module) -> dict[str, Any]:
    """Describe a network in plain values, for a checkpoint: an object only by its name."""
    if isinstance(network, Backbone):
        return dict(network.info.spec)
    if isinstance(network, nn.Module):
        return {custom.BUILT: str(getattr(network, "name", None) or type(network).__name__)}
    if isinstance(network, str):
        return {"name": network}
    return {key: value for key, value in network.items() if value not in (None, "", {}) or key in PLAIN}


def check_description(network: str | Mapping[str, Any]) -> None:
    """Refuse, before anything is built, a description out of range or with a name that opens a file.

    Descriptions in files of strangers, saved folders and checkpoints, are checked by this.

    Raises:
        ValueError: naming the argument, what is allowed and what was given.
    """
    spec = describe(network)
    if custom.TARGET in spec or custom.BUILT in spec:  # the rest are arguments of the user's own network
        check_input(spec.get("input_size"))
        return
    check_input(spec.get("input_size"), spec.get("mean"), spec.get("std"))
    name, together, options = spec.get("name") or "", spec.get("members") or [], spec.get("options") or {}
    typed = isinstance(name, str) and isinstance(options, Mapping) and isinstance(together, list | tuple)
    if not typed:
        raise ValueError("a backbone is described by a name, by members, a list of names, or by options")
    read_names(name, options)
    read_names(JOINT.join(map(str, together)))


def build_backbone(
    described: str | Mapping[str, Any] | nn.Module,
    *,
    trainable: bool = False,
    scratch: bool = False,
    trusted: bool = True,
) -> Backbone:
    """Build the backbone of a description.

    Args:
        described: a name; the arguments of `Backbone`, with `members=[A,B]` for several networks as one and
            `nodes=[…]` for those of `torchvision:NAME`; `_target_`, a class or function of the user's
            (`my_nets.MyNet`), with its arguments, and `weights`, `prefix` and `input_size` as `Backbone`
            takes them; or a built network, see `custom.FeatureNetwork`.
        trainable: as `Backbone` takes it.
        scratch: without learned weights: random ones, or those that a built network has.
        trusted: False for what a file says, which never imports a module.

    Raises:
        ValueError, FileNotFoundError: as `Backbone`, and where a network does not fulfil the contract.
    """
    if isinstance(described, nn.Module):
        return Backbone.of(described, trainable=trainable, learned=not scratch)
    check_description(described)
    spec = describe(described)
    if custom.BUILT in spec:
        raise ValueError(
            f"the network {spec[custom.BUILT]} was passed as an object, which no file holds: pass it again, "
            "backbone=network"
        )
    if scratch:
        spec["weights"] = None
    if custom.TARGET in spec:
        return _custom(spec, trainable, trusted)
    if parts := spec.pop("members", None):
        spec["name"] = JOINT.join(parts)
    if nodes := spec.pop("nodes", None):
        spec["options"] = {**spec.get("options", {}), "nodes": list(nodes)}
    if not spec.get("name"):
        raise ValueError("a backbone needs a name, or members of several networks as one")
    takes = [name for name in signature(Backbone).parameters if name != "trainable"]
    if unknown := [key for key in spec if key not in takes]:
        raise ValueError(
            f"a backbone has no {', '.join(unknown)}; it takes {', '.join(takes)}; what timm's constructor "
            f"takes is said as options.{unknown[0]}"
        )
    return Backbone(**spec, trainable=trainable)


def _custom(spec: dict[str, Any], trainable: bool, trusted: bool) -> Backbone:
    about: dict[str, Any] = {key: spec.get(key, default) for key, default in ABOUT.items()}
    if about["weights"] == "default":
        about["weights"] = ABOUT["weights"]
    arguments = {key: value for key, value in spec.items() if key not in (*ABOUT, *BY_NAME)}
    network = custom.build(arguments, trusted=trusted)
    target = arguments.pop(custom.TARGET)
    name = str(getattr(network, "name", None) or Name(target, arguments))
    source = "given"
    if about["weights"] not in (None, ABOUT["weights"], KMEANS):
        state, source = weight_files.find_local(name, about["weights"], about["prefix"]) or ({}, "")
        what = f"{name} from {source}"
        weight_files.check_names(network, state, what)
        weight_files.check_shapes(network, state, what)
        network.load_state_dict(state, strict=False)
    size = (about["input_size"],) * 2 if about["input_size"] else None
    spec = {custom.TARGET: target, **arguments, **about}
    found = custom.described(network, name=name, source=source, input_size=size, spec=spec)
    return Backbone(found, trainable=trainable)
