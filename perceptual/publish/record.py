"""What is known of a checkpoint, for its model card: the data, the command, and scores with intervals."""

import json
import re
from dataclasses import asdict
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf

from perceptual.config import build_data
from perceptual.distance.lpips import LPIPS
from perceptual.distance.noticed import Noticed
from perceptual.evaluation import evaluate as evaluation
from perceptual.evaluation import notice
from perceptual.evaluation.board import make
from perceptual.evaluation.methods import identity
from perceptual.evaluation.results import DataResults, find
from perceptual.files.records import read_record, to_json
from perceptual.names import Method
from perceptual.training import lora
from perceptual.training.checkpoints import epochs, read_checkpoint
from perceptual.training.module import PerceptualRanker


def publish(ckpt: Path, folder: Path, results: Path, adapters: bool = False) -> LPIPS:
    """Save a checkpoint of training as a folder, with its ranking network and its record.

    Args:
        ckpt: checkpoint of a `PerceptualRanker`.
        folder: what `LPIPS.save_pretrained` writes.
        results: where `evaluate.py` keeps results; the card shows all that it has of this checkpoint.
        adapters: save adapters of `variant=lora` in place of the backbone that they were added to.

    Returns:
        the distance that was saved.

    Raises:
        ValueError, OSError: not such a checkpoint, or a folder that cannot be written.
    """
    record = describe(ckpt) | {"scores": scores(ckpt, results)}
    model = PerceptualRanker.load_from_checkpoint(ckpt, map_location="cpu", weights_only=True).eval()
    distance, backbone = model.merged(), model.distance.backbone
    apart = lora.adapters(backbone.net, backbone.name) if adapters else None
    distance.save_pretrained(folder, ranking=model.ranking, record=record, adapters=apart)
    return distance


def measure(ckpt: Path, results: Path) -> None:
    """Score a checkpoint on the data that it was validated on in training, unless `results` has that already.

    Raises:
        ValueError, OSError: the checkpoint does not say which data those are, or they cannot be read.
    """
    described = read_checkpoint(ckpt).get("datamodule_hyper_parameters")
    if not described:
        raise ValueError(f"{str(ckpt)!r} does not say which data it was trained on")
    data = build_data(described, str(ckpt))
    data.setup("validate")
    if not _methods(evaluation.place_of(data.fingerprint(), results), ckpt):
        evaluation.evaluate([str(ckpt)], data, results)


def describe(ckpt: Path) -> dict[str, Any]:
    """Data, settings, length and command of the training of a checkpoint."""
    checkpoint = read_checkpoint(ckpt)
    data = dict(checkpoint.get("datamodule_hyper_parameters") or {})
    module = data.pop("_target_", "").rpartition(".")[2]
    pairs = [f"{key}={value}" for key, value in data.items() if value is not None]
    record = {
        "data": shorten(" ".join([module, *pairs])) or None,
        "settings": {k: v for k, v in checkpoint["hyper_parameters"].items() if k != "backbone"},
        "epochs": epochs(checkpoint),
        "steps": checkpoint["global_step"],
        "command": _command(ckpt),
    }
    if (described := _run(ckpt) / "data.json").is_file():
        said = json.loads(described.read_text("utf-8"))
        record |= {"data": shorten(said["description"]), "fingerprint": said["train"]}
    if ckpt.stem == "last" and (curve := _run(ckpt) / notice.FILE).is_file():
        record["noticed"] = asdict(read_record(curve, Noticed, "train again"))
    return record


def scores(ckpt: Path, results: Path) -> list[dict[str, Any]]:
    """Scores of a checkpoint on all data that `results` has it on, by subset, with 95 % intervals."""
    places = find(results) if any(results.glob("*/items/row.json")) else []
    return [_score(place, _methods(place, ckpt)[0]) for place in places if _methods(place, ckpt)]


def shorten(text: str) -> str:
    """Leave folders of this machine out of the paths in a text: `/home/me/set.csv` → `…/set.csv`."""
    return re.sub(r"(?<![\w.…:])[/~](?:[^\s,=/]+/)+", "…/", text)


def _methods(place: DataResults, ckpt: Path) -> list[str]:
    """Find the checkpoint's names in results: whatever its path was, its SHA-256 is behind the `@`."""
    ending = "@" + identity(Method.parse(str(ckpt))).rpartition("@")[2]
    names = [result.method for result in place.all()]
    return [name for name in names if name.endswith(ending)]


def _score(place: DataResults, method: str) -> dict[str, Any]:
    board = make(place)
    (entry,) = (entry for entry in board.entries if entry.result.method == method)
    items = [*board.data.counts, *[sum(board.data.counts)] * 2]
    columns = zip(board.columns, items, entry.score, entry.low, entry.high, strict=True)
    rows = [dict(zip(("subset", "items", "score", "low", "high"), column, strict=True)) for column in columns]
    rows = json.loads(to_json(rows))  # as config.json will have it
    return {
        "data": board.data.name,
        "description": shorten(board.data.description),
        "kind": board.data.kind,
        "fingerprint": board.data.fingerprint,
        "rows": rows,
    }


def _run(ckpt: Path) -> Path:
    """Find the run that `train.py` wrote the checkpoint in: `<run>/checkpoints/last.ckpt`."""
    return ckpt.absolute().parent.parent


def _command(ckpt: Path) -> str | None:
    """Read the command of the run, as Hydra wrote it down."""
    overrides = _run(ckpt) / ".hydra" / "overrides.yaml"
    if not overrides.is_file():
        return None
    return shorten(" ".join(["python train.py", *map(str, OmegaConf.load(overrides))]))
