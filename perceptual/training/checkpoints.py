"""What a checkpoint of `PerceptualRanker` holds: not the frozen weights that can be had again, only which."""

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from perceptual.distance.saved_folder import check_backbone, describe_backbone
from perceptual.features import weights as weight_files
from perceptual.features.backbone import Backbone
from perceptual.training import lora

PREFIX = "distance.backbone."
# where a checkpoint holds weights: the second where the first is an average of them
STATES = {"state_dict", "current_model_state"}


def leave_out_backbone(checkpoint: dict[str, Any], backbone: Backbone, built_on: str) -> None:
    """Take the frozen weights of a backbone out of a checkpoint, if they can be had again, and note which.

    Args:
        checkpoint: as Lightning made it, with all weights; changed in place.
        backbone: the backbone as it is.
        built_on: fingerprint of its weights as they were before training.
    """
    trained = {f"{PREFIX}{name}" for name, p in backbone.named_parameters() if p.requires_grad}
    net = f"{PREFIX}net."  # of the checkpoint: the backbone itself may be spread over processes
    held = {k.removeprefix(net): v for k, v in checkpoint["state_dict"].items() if k.startswith(net)}
    sha256 = weight_files.fingerprint(lora.base_state(held))
    again = not backbone.trainable and backbone.source != "random" and sha256 == built_on
    checkpoint["backbone"] = describe_backbone(backbone, sha256 if again else None)
    if again:
        for key in STATES & checkpoint.keys():
            state = checkpoint[key].items()
            checkpoint[key] = {k: v for k, v in state if k in trained or not k.startswith(PREFIX)}
    else:
        # its weights are in the checkpoint: loading must not ask the hub for others first
        spec = {**checkpoint["hyper_parameters"]["backbone"], "weights": None}
        checkpoint["hyper_parameters"] = {**checkpoint["hyper_parameters"], "backbone": spec}


def put_back_backbone(checkpoint: dict[str, Any], backbone: Backbone) -> None:
    """Give a checkpoint, in place, the weights that were left out, from a backbone that has the same.

    Raises:
        ValueError: it is of another backbone or other weights, or no checkpoint of ours.
    """
    saved = checkpoint.get("backbone")
    if saved is None:
        raise ValueError("this is no checkpoint of a PerceptualRanker: it names no backbone")
    if saved["name"] != backbone.name:
        raise ValueError(f"the checkpoint is of backbone {saved['name']}, the model has {backbone.name}")
    if saved["saved"]:
        backbone.source = saved["source"]
        return
    check_backbone(saved, backbone, _base_fingerprint(backbone), "the checkpoint")
    own = {f"{PREFIX}{name}": value for name, value in backbone.state_dict().items()}
    for key in STATES & checkpoint.keys():
        checkpoint[key] = {**own, **checkpoint[key]}


def check_fits(checkpoint: Mapping[str, Any], hparams: Mapping[str, Any], own: Mapping[str, Tensor]) -> None:
    """Refuse a checkpoint of a model with other settings, or other shapes of weights.

    Raises:
        ValueError: naming both settings.
    """
    given = {key: value.shape for key, value in checkpoint["state_dict"].items()}
    theirs, ours = _settings(checkpoint["hyper_parameters"]), _settings(hparams)
    if theirs != ours or given != {key: value.shape for key, value in own.items()}:
        raise ValueError(f"the checkpoint does not fit the model: it has {theirs}, the model {ours}")


def _base_fingerprint(backbone: Backbone) -> str:
    return weight_files.fingerprint(lora.base_state(backbone.net.state_dict()))


def _settings(hparams: Mapping[str, Any]) -> dict[str, Any]:
    """What a checkpoint and the model that takes it must have in common."""
    shared = {key: hparams.get(key) for key in ("variant", "ranking")}
    levels = {key: hparams["backbone"].get(key) for key in ("out_indices", "input_size")}
    return {**shared, "form": hparams.get("form", "per_position"), **levels}
