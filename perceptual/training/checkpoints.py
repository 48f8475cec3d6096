"""Checkpoints of `PerceptualRanker`: reading, checking, and weights that are left out."""

import math
import os
from collections.abc import Collection, Iterator, Mapping, Sequence
from functools import cache
from hashlib import sha256
from typing import Any

import torch
from torch import Tensor
from typing_extensions import NotRequired, TypedDict

from perceptual.distance.saving.folders import check_backbone, check_state, describe_backbone
from perceptual.features import weights as weight_files
from perceptual.features.backbone import Backbone
from perceptual.features.build import check_description, describe
from perceptual.training import lora

PREFIX, LIN = "distance.backbone.", "distance.lin."
DEEPEST = 50  # dictionaries and lists in each other
OBTAINABLE = ("file:", "package:", "hub:")  # sources that give the same weights again
# where a checkpoint holds weights: the second where the first is an average of them
STATES = {"state_dict", "current_model_state"}
SHA256 = "sha256"  # of all that decides what the model is, how it was trained, and where the run was
SEALED = (
    *("backbone", "hyper_parameters", "datamodule_hyper_parameters", "data", *sorted(STATES)),
    *("callbacks", "loops", "optimizer_states", "lr_schedulers", "epoch", "global_step"),
)
SIDES = {"train": "training", "val": "validation"}  # of the data, of which `data` has the fingerprints
SCORES = ("val/2afc/", "val/jnd/", "val/odd-one-out/")  # prefixes of the names of logged scores, in [0, 1]
BEST = ("best_model_score", "best_score", "current_score")  # of callbacks that monitor a score


class BackboneRecord(TypedDict):
    """What a checkpoint says of its backbone."""

    name: str
    source: str
    saved: bool
    sha256: NotRequired[str]  # where it is not saved


class SideRecord(TypedDict):
    """The fingerprint of one side of the data."""

    sha256: str
    items: int


class Checkpoint(TypedDict):
    """What a checkpoint holds, beside the optimisers and loops, which Lightning reads."""

    backbone: BackboneRecord
    hyper_parameters: dict[str, Any]
    state_dict: dict[str, Tensor]
    current_model_state: NotRequired[dict[str, Tensor]]
    epoch: int
    global_step: int
    sha256: str
    datamodule_hyper_parameters: NotRequired[dict[str, Any] | None]
    callbacks: NotRequired[dict[str, dict[Any, Any]]]
    data: NotRequired[dict[str, SideRecord]]


def read_checkpoint(path: str | os.PathLike[str]) -> dict[str, Any]:
    """Read a checkpoint of training, without running code from it.

    Raises:
        FileNotFoundError: no such file.
        ValueError: the file is not a checkpoint of a PerceptualRanker, or was damaged or changed.
    """
    if not os.path.isfile(path):
        raise FileNotFoundError(f"checkpoint {str(path)!r} does not exist")
    try:
        weight_files.check_archive(path)
        checkpoint: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # a foreign file may raise anything
        raise ValueError(f"{str(path)!r} cannot be read as a checkpoint of training") from error
    if problem := _problem(checkpoint):
        raise ValueError(f"{str(path)!r} is not a checkpoint of a PerceptualRanker: {problem}")
    check_intact(checkpoint, repr(str(path)))
    for key in STATES & checkpoint.keys():
        check_state(checkpoint[key], repr(str(path)), LIN, any_precision=True)
    return checkpoint


def check_intact(checkpoint: Mapping[str, Any], what: str = "the checkpoint") -> None:
    """Refuse a checkpoint that is not as it was saved.

    Raises:
        ValueError: naming the file.
    """
    if SHA256 not in checkpoint:
        raise ValueError(f"{what} is not one of a PerceptualRanker: it has no {SHA256}")
    if checkpoint[SHA256] != digest(checkpoint):
        raise ValueError(f"{what} was damaged or changed: its SHA-256 is another")


def digest(checkpoint: Mapping[str, Any]) -> str:
    """SHA-256, in hex, of what a checkpoint says of the model, its weights, the data and the run."""
    found = sha256()
    for part in _parts({key: checkpoint.get(key) for key in SEALED}):
        found.update(part)
    return found.hexdigest()


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


@cache
def _schema() -> Any:
    from pydantic import ConfigDict, TypeAdapter  # takes a while

    Checkpoint.__pydantic_config__ = ConfigDict(strict=True, arbitrary_types_allowed=True)  # type: ignore[attr-defined]
    return TypeAdapter(Checkpoint)


def _problem(checkpoint: Any) -> str | None:
    """Say what in a file is missing, of another type or out of range, before anything works with it."""
    from pydantic import ValidationError

    if problem := _problem_inside(checkpoint):
        return problem
    try:
        _schema().validate_python(checkpoint)
        check_description(checkpoint["hyper_parameters"].get("backbone"))
    except ValidationError as error:
        first = error.errors(include_url=False, include_context=False, include_input=False)[0]
        return f"{'.'.join(map(str, first['loc']))}: {first['msg']}"
    except (ValueError, TypeError, AttributeError) as error:
        return f"hyper_parameters.backbone: {error}"
    if not checkpoint["backbone"]["saved"] and "sha256" not in checkpoint["backbone"]:
        return "backbone.sha256 is missing"
    for name, state in checkpoint.get("callbacks", {}).items():
        if any(score in str(state.get("monitor", name)) for score in SCORES):
            for key in BEST:
                if not _is_score(state.get(key)):
                    return f"{key} of {name} is {state[key]}, not a score in [0, 1]"
    return None


def _problem_inside(checkpoint: Any) -> str | None:
    """Say which value anywhere in a checkpoint no training has saved there."""
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


def _is_score(value: Any) -> bool:
    """Whether a value is in [0, 1], or says that there is no score yet."""
    if isinstance(value, Tensor) and value.numel() == 1 and value.is_floating_point():
        value = value.item()
    return value is None or (isinstance(value, float | int) and (0 <= value <= 1 or value == -math.inf))


def leave_out_backbone(
    checkpoint: dict[str, Any], backbone: Backbone, built_on: str, always: bool = False
) -> None:
    """Take frozen weights that its name gives again out of a checkpoint, and record their fingerprint.

    Args:
        checkpoint: as Lightning made it, with all weights; changed in place.
        backbone: the backbone of the model.
        built_on: fingerprint of its weights before training.
        always: leave them out even where its name does not give them again.
    """
    trained = {f"{PREFIX}{name}" for name, p in backbone.named_parameters() if p.requires_grad}
    net = f"{PREFIX}net."  # of the checkpoint: the backbone itself may be spread over processes
    held = {k.removeprefix(net): v for k, v in checkpoint["state_dict"].items() if k.startswith(net)}
    found = weight_files.fingerprint(lora.base_state(held))
    known = always or backbone.source.startswith(OBTAINABLE)
    again = not backbone.trainable and known and found == built_on
    checkpoint["backbone"] = describe_backbone(backbone, found if again else None)
    if again:
        for key in STATES & checkpoint.keys():
            state = checkpoint[key].items()
            checkpoint[key] = {k: v for k, v in state if k in trained or not k.startswith(PREFIX)}
    else:
        # its weights are in the checkpoint: loading must not ask the hub for others first
        spec = {**checkpoint["hyper_parameters"]["backbone"], "weights": None}
        checkpoint["hyper_parameters"] = {**checkpoint["hyper_parameters"], "backbone": spec}
    checkpoint[SHA256] = digest(checkpoint)


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
    settings = _settings(checkpoint["hyper_parameters"]), _settings(hparams)
    shapes = [{key: tuple(v.shape) for key, v in state.items()} for state in (checkpoint["state_dict"], own)]
    for theirs, ours in (settings, shapes):
        for key in theirs | ours:
            if (one := _plain(theirs.get(key))) != (another := _plain(ours.get(key))):
                raise ValueError(
                    f"the checkpoint does not fit the model: it has {key}={one}, the model {another}"
                )


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
    adapters = ("lora_rank",) if hparams.get("variant") == "lora" else ()
    shared = {k: hparams.get(k) for k in ("variant", "loss", "ranking", "form", "center", *adapters)}
    backbone = describe(hparams["backbone"])
    levels = {key: backbone.get(key) for key in ("out_indices", "input_size")}
    return {**shared, **levels}
