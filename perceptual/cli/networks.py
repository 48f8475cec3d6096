"""`perceptual models` and `perceptual info`: which networks there are, and what a distance is made of."""

import sys
from fnmatch import fnmatch
from typing import Annotated, Any

import typer

from perceptual.cli.options import Csv, Json, complete_method

COLUMNS = ("backbone", "calibrations", "weights")
ON_HUB = "hub"


def models(
    pattern: Annotated[
        str | None,
        typer.Argument(metavar="PATTERN", help="Names to list, with * and ?.", show_default=False),
    ] = None,
    variant: Annotated[
        str | None,
        typer.Option(metavar="NAME", help="Show what one network costs: 'resnet18[aa_layer=blurpc]', A+B, …"),
    ] = None,
    json: Json = False,
    csv: Csv = False,
) -> None:
    """List backbones, their published calibrations, and where their weights are.

    Without a pattern, those with a calibration or with weights on this machine. Weights: `file` (in the
    directory PERCEPTUAL_WEIGHTS), `package` (installed), `cached` (downloaded before), or `hub` (to be
    downloaded at first use).

    Example: `perceptual models`

    Example: `perceptual models '*convnext*' --json`

    Example: `perceptual models --variant 'resnet18[aa_layer=blurpc]'`
    """
    if variant is not None:
        if pattern is not None or csv:
            raise ValueError("--variant is for one network: leave out PATTERN and --csv")
        return _show(variant, json)
    import timm

    from perceptual.cli.output import print_json, print_table, write_csv
    from perceptual.distance.calibration import versions
    from perceptual.features.networks import TORCHVISION

    known = [*TORCHVISION, *timm.list_pretrained()]
    rows = [(name, versions(name), _weights(name)) for name in known if _fits(name, pattern)]
    if pattern and not rows:
        raise ValueError(f"no backbone with weights fits {pattern!r}")
    if not pattern:
        rows = [row for row in rows if row[1] or row[2] != ON_HUB]
    if json:
        print_json([dict(zip(COLUMNS, row, strict=True)) for row in rows])
        return
    lines = [(name, " ".join(calibrations), weights) for name, calibrations, weights in rows]
    if csv:
        write_csv(sys.stdout, COLUMNS, lines)
        return
    print_table(COLUMNS, lines)
    if not pattern:
        typer.echo(f"\n{len(known) - len(rows):,} more: perceptual models '*resnet*' lists those that fit")


def _show(variant: str, json: bool) -> None:
    """Levels, channels, parameters and operations of a network, with random weights: none are downloaded."""
    import torch
    from torch.utils.flop_counter import FlopCounterMode

    from perceptual.cli.output import print_json, print_table
    from perceptual.features.backbone import PATCH, Backbone

    backbone = Backbone(variant, weights=None)
    side = backbone.smallest_size()
    size = backbone.input_size or ((max(PATCH, side),) * 2 if side else (PATCH, PATCH))
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        maps = backbone(torch.zeros(1, 3, *size))
    facts = {
        "backbone": backbone.name,
        "levels": list(backbone.out_indices),
        "channels": list(backbone.channels),
        f"maps of {size[0]}×{size[1]}": ["×".join(map(str, m.shape[2:])) for m in maps],
        "parameters": sum(p.numel() for p in backbone.parameters()),
        f"FLOPs of {size[0]}×{size[1]}": counter.get_total_flops(),
        "smallest size": backbone.input_size[0] if backbone.input_size else side,
    }
    if json:
        return print_json({key.replace(" ", "_"): value for key, value in facts.items()})
    shown = {k: ", ".join(map(str, v)) if isinstance(v, list) else v for k, v in facts.items()}
    print_table(("", ""), [(k, f"{v:,}" if isinstance(v, int) else str(v)) for k, v in shown.items()])


def _fits(name: str, pattern: str | None) -> bool:
    """Return whether a name, with or without its tag, fits a pattern, or contains one without * or ?."""
    if pattern is None:
        return True
    if not set("*?[") & set(pattern):
        return pattern in name
    return fnmatch(name, pattern) or fnmatch(name.partition(".")[0], pattern)


def _weights(name: str) -> str:
    from perceptual.features.weights import locate

    if found := locate(name):
        return found[1].partition(":")[0]
    return "cached" if _is_cached(name) else ON_HUB


def _is_cached(name: str) -> bool:
    """Return whether weights are in the cache of torch.hub or of the hub."""
    from pathlib import Path

    import timm
    import torch
    from huggingface_hub import try_to_load_from_cache

    from perceptual.features.networks import TORCHVISION

    downloads = Path(torch.hub.get_dir(), "checkpoints")
    if name in TORCHVISION:
        return any(downloads.glob(f"{name}-*.pth"))
    cfg = timm.get_pretrained_cfg(name)
    if cfg is None:
        return False
    files = ("model.safetensors", "pytorch_model.bin")
    if cfg.hf_hub_id and any(isinstance(try_to_load_from_cache(cfg.hf_hub_id, file), str) for file in files):
        return True
    return isinstance(cfg.url, str) and Path(downloads, Path(cfg.url).name).is_file()


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
    from perceptual.distance import packages
    from perceptual.distance.baselines import DEFINITIONS

    if definition := DEFINITIONS.get(model):
        facts["definition"] = definition
    facts |= packages.about(model)
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
    """Return how a checkpoint was trained, as it says."""
    from perceptual.training.checkpoints import epochs, read_checkpoint

    checkpoint = read_checkpoint(path)
    facts = {key: checkpoint["hyper_parameters"].get(key) for key in ("variant", "form", "lr", "dropout")}
    facts |= {"epochs": epochs(checkpoint), "steps": checkpoint["global_step"]}
    return facts | {"data": checkpoint.get("datamodule_hyper_parameters")}


def _record(saved: Any) -> dict[str, Any]:
    """Return the record of a saved folder; of its scores, the means over subsets."""
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
