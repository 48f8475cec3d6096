"""Checkpoints of `PerceptualRanker`: reading, checking, and weights that are left out."""

import json
import math
import os
from collections.abc import Collection, Iterator, Mapping, Sequence
from hashlib import sha256
from typing import Any

import torch
from torch import Tensor

from perceptual.distance.saving.folders import check_backbone, check_state, describe_backbone
from perceptual.features import weights as weight_files
from perceptual.features.backbone import Backbone
from perceptual.features.build import check_description, describe
from perceptual.training import lora

PREFIX, LIN = "distance.backbone.", "distance.lin."
DEEPEST = 50  # dictionaries and lists in each other: json and others fail on some hundreds
OBTAINABLE = ("file:", "package:", "hub:")  # sources that give the same weights again
# where a checkpoint holds weights: the second where the first is an average of them
STATES = {"state_dict", "current_model_state"}
SHA256 = "weights_sha256"  # of each of these states that the file holds
SETTINGS_SHA256 = "settings_sha256"  # of what it says of the model and the data
STATE_SHA256 = (
    "state_sha256"  # of where the run was: callbacks, random generators, optimisers, position, data
)
STATE = ("callbacks", "loops", "optimizer_states", "lr_schedulers", "epoch", "global_step", "data")
SIDES = {"train": "training", "val": "validation"}  # of the data, of which `data` has the fingerprints
SCORES = ("val/2afc/", "val/jnd/")  # what the names of logged scores, in [0, 1], begin with
# what every checkpoint holds, beside its optimisers and loops, which Lightning reads
FIELDS = {
    **{"backbone": dict, "hyper_parameters": dict, "state_dict": dict, "epoch": int, "global_step": int},
    **{SHA256: dict, SETTINGS_SHA256: str, STATE_SHA256: str},
}


def read_checkpoint(path: str | os.PathLike[str]) -> dict[str, Any]:
    """Read a checkpoint of training, without running code from it.

    Raises:
        FileNotFoundError: no such file.
        ValueError: the file is not a checkpoint of a PerceptualRanker.
    """
    if not os.path.isfile(path):
        raise FileNotFoundError(f"checkpoint {str(path)!r} does not exist")
    try:
        weight_files.check_archive(path)
        checkpoint: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # a foreign file may raise anything
        raise ValueError(f"{str(path)!r} cannot be read as a checkpoint of training") from error
    if not isinstance(checkpoint, dict) or "backbone" not in checkpoint:
        raise ValueError(f"{str(path)!r} is not a checkpoint of a PerceptualRanker: it names no backbone")
    if wrong := _wrong(checkpoint):
        raise ValueError(f"{str(path)!r} is not a checkpoint of a PerceptualRanker: {wrong}")
    try:
        digest = settings_digest(checkpoint)
    except (TypeError, ValueError) as error:  # keys that cannot be sorted, circles
        raise ValueError(f"{str(path)!r}: hyper_parameters or those of the data: {error}") from error
    if checkpoint[SETTINGS_SHA256] != digest:
        raise ValueError(f"{str(path)!r} was damaged or changed: the SHA-256 of its settings is another")
    check_intact(checkpoint, repr(str(path)))
    for key in STATES & checkpoint.keys():
        check_state(checkpoint[key], repr(str(path)), LIN, any_precision=True)
    return checkpoint


def check_intact(checkpoint: Mapping[str, Any], what: str = "the checkpoint") -> None:
    """Refuse weights or a state that are not those that were saved.

    Raises:
        ValueError: naming the file and the weights.
    """
    for key in (SHA256, STATE_SHA256):
        if key not in checkpoint:
            raise ValueError(f"{what} is not one of a PerceptualRanker: it has no {key}")
    for key, digest in {**dict.fromkeys(STATES & checkpoint.keys()), **checkpoint[SHA256]}.items():
        if key not in checkpoint or weight_files.fingerprint(checkpoint[key]) != digest:
            raise ValueError(f"{what} was damaged or changed: the SHA-256 of its {key} is another")
    if checkpoint[STATE_SHA256] != state_digest(checkpoint):
        raise ValueError(f"{what} was damaged or changed: the SHA-256 of its state is another")


def state_digest(checkpoint: Mapping[str, Any]) -> str:
    """SHA-256, in hex, of what a checkpoint says of where the run was."""
    digest = sha256()
    for part in _parts({key: checkpoint.get(key) for key in STATE}):
        digest.update(part)
    return digest.hexdigest()


def _parts(value: Any) -> Iterator[bytes]:
    """The bytes that tell a value of dicts, lists, tensors and plain values from any other."""
    if isinstance(value, Tensor):
        yield f"{value.dtype} {tuple(value.shape)};".encode()
        yield value.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().tobytes()
    elif isinstance(value, Mapping):
        yield f"{len(value)} keys;".encode()
        for key in sorted(value, key=repr):
            yield f"{key!r}:".encode()
            yield from _parts(value[key])
    elif isinstance(value, list | tuple):
        yield f"{len(value)} items;".encode()
        for item in value:
            yield from _parts(item)
    else:
        yield f"{value!r};".encode()


def check_data(checkpoint: Mapping[str, Any], sides: Mapping[str, Mapping[str, Any]]) -> None:
    """Refuse to go on with other triplets than a checkpoint was trained and scored on.

    Args:
        checkpoint: the checkpoint; it records no data where it was trained without a data module.
        sides: as `JudgedDataModule.sides`.

    Raises:
        ValueError: naming the sides, and how many items there were and are.
    """
    theirs = checkpoint.get("data") or {}
    other = [
        f"the {word} side has {sides[side]['items']:,} triplets, in the checkpoint it had "
        f"{theirs[side]['items']:,}" + (" others" if sides[side]["items"] == theirs[side]["items"] else "")
        for side, word in SIDES.items()
        if side in theirs and side in sides and theirs[side]["sha256"] != sides[side]["sha256"]
    ]
    if other:
        raise ValueError(f"the data have changed: {'; '.join(other)}; begin a new run, without ckpt=")


def epochs(checkpoint: Mapping[str, Any]) -> int:
    """How many epochs were trained, the last perhaps in part."""
    return int(checkpoint["epoch"]) + 1


def settings_digest(checkpoint: Mapping[str, Any]) -> str:
    """SHA-256, in hex, of what a checkpoint says of the model, its backbone and its data."""
    keys = ("hyper_parameters", "backbone", "datamodule_hyper_parameters")
    said = json.dumps({key: checkpoint.get(key) for key in keys}, sort_keys=True, default=str)
    return sha256(said.encode()).hexdigest()


def _wrong(checkpoint: Mapping[str, Any]) -> str | None:
    """Say what in a checkpoint is missing, of another type or out of range."""
    if wrong := _wrong_inside(checkpoint):
        return wrong
    for key, kind in FIELDS.items():
        if not isinstance(checkpoint.get(key), kind):
            return f"{key} is {type(checkpoint.get(key)).__name__}, not {kind.__name__}"
    for key in ("datamodule_hyper_parameters", "callbacks", "data"):
        held = checkpoint.get(key)
        if not isinstance(held, dict | None):
            return f"{key} is {type(held).__name__}, not dict"
    for side in (checkpoint.get("data") or {}).values():
        if not isinstance(side, dict) or list(map(type, map(side.get, ("sha256", "items")))) != [str, int]:
            return "data does not hold fingerprints of the data"
    for name, state in (checkpoint.get("callbacks") or {}).items():
        if wrong := _wrong_score(name, state):
            return wrong
    saved = checkpoint["backbone"]
    for key, kind in {
        "name": str,
        "source": str,
        "saved": bool,
        **({} if saved.get("saved") else {"sha256": str}),
    }.items():
        if not isinstance(saved.get(key), kind):
            return f"backbone.{key} is {type(saved.get(key)).__name__}, not {kind.__name__}"
    if not isinstance(checkpoint["hyper_parameters"].get("backbone"), dict | str):
        return "hyper_parameters.backbone does not describe one"
    for key in STATES & checkpoint.keys():
        if not isinstance(checkpoint[key], dict) or not all(
            isinstance(v, Tensor) for v in checkpoint[key].values()
        ):
            return f"{key} does not map names to tensors"
    try:
        check_description(checkpoint["hyper_parameters"]["backbone"])
    except (ValueError, TypeError) as error:
        return f"hyper_parameters.backbone: {error}"
    return None


def _wrong_inside(checkpoint: Mapping[str, Any]) -> str | None:
    """Say which value anywhere in a checkpoint no training has saved there, before anything works with it."""
    left: list[tuple[str, Any, int]] = [("", checkpoint, 0)]
    while left:
        place, value, depth = left.pop()
        if isinstance(value, Tensor) and (wrong := weight_files.wrong_tensor(value)):
            return f"{place} {wrong}"
        if isinstance(value, dict | list | tuple):
            if depth == DEEPEST:
                return f"{place.partition('.')[0]} is nested more than {DEEPEST} times"
            items = value.items() if isinstance(value, dict) else enumerate(value)
            left += [(f"{place}.{key}".lstrip("."), item, depth + 1) for key, item in items]
    return None


def _wrong_score(name: str, state: Any) -> str | None:
    """What in the state of a callback that monitors a validation score is no score."""
    if not isinstance(state, dict):
        return f"the state of {name} is {type(state).__name__}, not dict"
    if not any(score in str(state.get("monitor", name)) for score in SCORES):
        return None
    for key in ("best_model_score", "best_score", "current_score"):
        if (score := state.get(key)) is None:
            continue
        number = float(score) if isinstance(score, float | int) or _is_scalar(score) else math.nan
        if not (0 <= number <= 1 or number == -math.inf):  # -inf: none yet
            return f"{key} of {name} is {score}, not a score in [0, 1]"
    return None


def _is_scalar(value: Any) -> bool:
    return isinstance(value, Tensor) and value.numel() == 1 and value.is_floating_point()


def leave_out_backbone(checkpoint: dict[str, Any], backbone: Backbone, built_on: str) -> None:
    """Take frozen weights that its name gives again out of a checkpoint, and record their fingerprint.

    Args:
        checkpoint: as Lightning made it, with all weights; changed in place.
        backbone: the backbone of the model.
        built_on: fingerprint of its weights before training.
    """
    trained = {f"{PREFIX}{name}" for name, p in backbone.named_parameters() if p.requires_grad}
    net = f"{PREFIX}net."  # of the checkpoint: the backbone itself may be spread over processes
    held = {k.removeprefix(net): v for k, v in checkpoint["state_dict"].items() if k.startswith(net)}
    sha256 = weight_files.fingerprint(lora.base_state(held))
    again = not backbone.trainable and backbone.source.startswith(OBTAINABLE) and sha256 == built_on
    checkpoint["backbone"] = describe_backbone(backbone, sha256 if again else None)
    if again:
        for key in STATES & checkpoint.keys():
            state = checkpoint[key].items()
            checkpoint[key] = {k: v for k, v in state if k in trained or not k.startswith(PREFIX)}
    else:
        # its weights are in the checkpoint: loading must not ask the hub for others first
        spec = {**checkpoint["hyper_parameters"]["backbone"], "weights": None}
        checkpoint["hyper_parameters"] = {**checkpoint["hyper_parameters"], "backbone": spec}
    checkpoint[SHA256] = {
        key: weight_files.fingerprint(checkpoint[key]) for key in STATES & checkpoint.keys()
    }
    checkpoint[SETTINGS_SHA256] = settings_digest(checkpoint)
    checkpoint[STATE_SHA256] = state_digest(checkpoint)


def put_back_backbone(checkpoint: dict[str, Any], backbone: Backbone) -> None:
    """Put the weights that were left out into a checkpoint, in place, from a backbone that has the same.

    Raises:
        ValueError: the checkpoint is of another backbone or other weights, or not of a PerceptualRanker.
    """
    saved = checkpoint.get("backbone")
    if saved is None:
        raise ValueError("this is not a checkpoint of a PerceptualRanker: it names no backbone")
    if saved["name"] != backbone.name:
        raise ValueError(f"the checkpoint is of backbone {saved['name']}, the model has {backbone.name}")
    if saved["saved"]:
        backbone.note(saved["source"])
        return
    check_backbone(saved, backbone, _base_fingerprint(backbone), "the checkpoint")
    own = {f"{PREFIX}{name}": value for name, value in backbone.state_dict().items()}
    for key in STATES & checkpoint.keys():
        checkpoint[key] = {**own, **checkpoint[key]}


def check_fits(checkpoint: Mapping[str, Any], hparams: Mapping[str, Any], own: Mapping[str, Tensor]) -> None:
    """Refuse a checkpoint of a model with other settings or other shapes of weights.

    Raises:
        ValueError: naming both settings.
    """
    given = {key: value.shape for key, value in checkpoint["state_dict"].items()}
    theirs, ours = _settings(checkpoint["hyper_parameters"]), _settings(hparams)
    if theirs != ours or given != {key: value.shape for key, value in own.items()}:
        raise ValueError(f"the checkpoint does not fit the model: it has {theirs}, the model {ours}")


def differences(
    theirs: Mapping[str, Any], ours: Mapping[str, Any], prefix: str = "", leave_out: Collection[str] = ()
) -> list[str]:
    """Settings, by their names on the command line, that a checkpoint has otherwise than a run."""
    common = [key for key in theirs if key in ours and key not in leave_out]
    pairs = [(key, *map(_plain, (theirs[key], ours[key]))) for key in common]
    return [f"{prefix}{key}={one} there, {another} here" for key, one, another in pairs if one != another]


def refuse(differing: Sequence[str]) -> None:
    """Refuse to go on with other settings than those of a checkpoint.

    Raises:
        ValueError: naming them.
    """
    if differing:
        raise ValueError(
            f"a resumed run goes on with the settings of its checkpoint: {'; '.join(differing)}; give the "
            "same, or begin a new run"
        )


def _plain(value: Any) -> Any:
    return list(value) if isinstance(value, tuple) else value


def _base_fingerprint(backbone: Backbone) -> str:
    return weight_files.fingerprint(lora.base_state(backbone.net.state_dict()))


def _settings(hparams: Mapping[str, Any]) -> dict[str, Any]:
    """The settings that a checkpoint and the model that loads it must share."""
    shared = {key: hparams.get(key) for key in ("variant", "ranking", "form")}
    backbone = describe(hparams["backbone"])
    levels = {key: backbone.get(key) for key in ("out_indices", "input_size")}
    return {**shared, **levels}
