"""`perceptual info MODEL`: what a distance is made of, and where it comes from."""

from typing import Annotated, Any

import typer

from perceptual.cli.options import Json, complete_method


def info(
    model: Annotated[
        str,
        typer.Argument(
            metavar="MODEL",
            help="A distance: alexnet, any timm name, ssim, or the path of a checkpoint or saved folder.",
            autocompletion=complete_method,
            show_default=False,
        ),
    ],
    json: Json = False,
) -> None:
    """Say what a distance is made of: its network, weights and their SHA-256, levels, calibration, training.

    Example: `perceptual info alexnet-v0.1`

    Example: `perceptual info runs/…/checkpoints/last.ckpt --json`
    """
    from perceptual.cli.output import print_json, print_table
    from perceptual.evaluation import methods
    from perceptual.evaluation.provenance import describe
    from perceptual.names import Method

    method = Method.parse(model)
    loaded = methods.load(method)
    network = getattr(loaded.distance, "backbone", None)  # a path does not say its family
    family = (Method.parse(network.name) if network else method).family
    facts: dict[str, Any] = {"method": str(method), "family": family}
    facts |= describe(loaded.distance) | _calibration(model, loaded.distance)
    if model.endswith(".ckpt"):
        facts |= _training(model)
    elif (saved := getattr(loaded.distance, "saved", None)) is not None:
        facts |= _record(saved)
    from perceptual.distance.baselines import DEFINITIONS

    if definition := DEFINITIONS.get(model):
        facts["definition"] = definition
    facts["ranking network"] = type(loaded.ranking).__name__ if loaded.ranking else None
    if json:
        print_json({name.replace(" ", "_"): value for name, value in facts.items()})
    else:
        print_table(("", ""), [(name.replace("_", " "), _text(value)) for name, value in facts.items()])


def _calibration(model: str, distance: Any) -> dict[str, Any]:
    """Say whether, how, and by whom the channels of the levels are weighted."""
    from perceptual.distance.calibration import identify
    from perceptual.features.weights import fingerprint
    from perceptual.names import UNCALIBRATED

    lin = getattr(distance, "lin", None)
    if lin is None:
        return {}
    known = identify(distance.backbone.name, list(lin))
    source = f"{known} of Zhang et al., as the lpips package has it"
    if known in (None, UNCALIBRATED):
        source = "none: all weights 1" if known else model
    return {
        "calibration": source,
        "calibration_sha256": fingerprint(dict(lin.state_dict())),
        "mean": distance.backbone.mean.flatten().tolist(),
        "std": distance.backbone.std.flatten().tolist(),
    }


def _training(path: str) -> dict[str, Any]:
    """How a checkpoint was trained, as it says."""
    from perceptual.training.checkpoints import epochs, read_checkpoint

    checkpoint = read_checkpoint(path)
    facts = {key: checkpoint["hyper_parameters"].get(key) for key in ("variant", "form", "lr", "dropout")}
    facts |= {"epochs": epochs(checkpoint), "steps": checkpoint["global_step"]}
    return facts | {"data": checkpoint.get("datamodule_hyper_parameters")}


def _record(saved: Any) -> dict[str, Any]:
    """What a saved folder says of itself and of its training; of its scores, the means over subsets."""
    record = dict(saved.config["record"])
    scores = {
        score["data"]: row
        for score in record.pop("scores", [])
        for row in score["rows"]
        if row["subset"] == "mean"
    }
    return {
        "form": saved.config["form"],
        "versions": saved.config["versions"],
        **record,
        "scores": scores or None,
    }


def _text(value: Any) -> str:
    if isinstance(value, dict):
        return ", ".join(
            f"{key} ({_text(item)})" if isinstance(item, dict) else f"{key}={_text(item)}"
            for key, item in value.items()
        )
    if isinstance(value, list):
        return ", ".join(_text(item) for item in value)
    if isinstance(value, float):
        return f"{value:g}"
    if isinstance(value, bool):
        return "yes" if value else "no"
    return "–" if value is None else f"{value:,}" if isinstance(value, int) else str(value)
