"""`perceptual export METHOD FOLDER`: a folder to share, with a model card, and optionally an ONNX file."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from perceptual.distance.lpips import LPIPS


def export(
    method: Annotated[
        str,
        typer.Argument(
            metavar="METHOD", help="A checkpoint of training, a saved folder, alexnet-v0.1, or a backbone."
        ),
    ],
    folder: Annotated[Path, typer.Argument(metavar="FOLDER", help="Folder to write; must be new or empty.")],
    onnx: Annotated[bool, typer.Option("--onnx", help="Write model.onnx into the folder as well.")] = False,
    size: Annotated[
        int | None, typer.Option(min=1, help="Side of the images that model.onnx takes; default: any.")
    ] = None,
    uint8: Annotated[
        bool, typer.Option("--uint8", help="Let model.onnx take bytes 0 … 255 rather than floats 0 … 1.")
    ] = False,
    lpips: Annotated[
        bool, typer.Option("--lpips", help="Write lin as lpips.pth too, for lpips.LPIPS(model_path=…).")
    ] = False,
    adapters: Annotated[
        bool,
        typer.Option(
            "--adapters",
            help="Save adapters of model=lora alone, as peft does; the base is loaded by its name.",
        ),
    ] = False,
    results: Annotated[
        Path, typer.Option(help="Folder of results of evaluations; those of the checkpoint go into the card.")
    ] = Path("results"),
    measure: Annotated[
        bool, typer.Option(help="Score a checkpoint on its validation data if `results` has no score yet.")
    ] = True,
    push_to_hub: Annotated[
        str | None, typer.Option(metavar="OWNER/NAME", help="Upload the folder to the Hugging Face hub.")
    ] = None,
) -> None:
    """Save a distance as a folder that LPIPS.from_pretrained reads: safetensors, config.json, model card.

    Example: `perceptual export runs/…/checkpoints/best.ckpt mine --onnx`
    """
    from perceptual.distance.saving import folders

    if (size is not None or uint8) and not onnx:
        raise ValueError("--size and --uint8 are for --onnx")
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise ValueError(f"{str(folder)!r} exists already; give a new folder")
    metric = _save(method, folder, results, measure, adapters)
    typer.echo(f"Saved     {folder}")
    if onnx:
        from perceptual.files.progress import Progress
        from perceptual.publish.onnx import to_onnx

        try:
            with Progress("Exporting to ONNX"):
                to_onnx(metric, folder / "model.onnx", (size, size) if size else None, uint8)
        except ValueError as error:
            raise ValueError(f"no model.onnx in {folder}: {error}") from error
        typer.echo(f"ONNX      {folder / 'model.onnx'}")
    if lpips:
        import torch

        from perceptual.distance.calibration import to_lpips

        torch.save(to_lpips(metric.backbone, list(metric.lin)), folder / "lpips.pth")
        typer.echo(f"lpips     {folder / 'lpips.pth'}: the channel weights, not the network")
    if push_to_hub:
        typer.echo(f"Pushed    {folders.push(folder, push_to_hub)}")


def _save(method: str, folder: Path, results: Path, measure: bool, adapters: bool) -> "LPIPS":
    from perceptual.distance.lpips import LPIPS
    from perceptual.evaluation import methods

    if method.endswith(".ckpt"):
        return _publish(Path(method).expanduser(), folder, results, measure, adapters)
    if adapters:
        raise ValueError(f"--adapters is for checkpoints of model=lora, got {method!r}")
    metric = methods.build(method)
    if not isinstance(metric, LPIPS):
        raise ValueError(f"{method!r} has no weights to export; it is a classic distance")
    metric.save_pretrained(folder)
    return metric


def _publish(ckpt: Path, folder: Path, results: Path, measure: bool, adapters: bool) -> "LPIPS":
    from perceptual.publish import record as publishing
    from perceptual.training.module import read_checkpoint

    # refuses what is no checkpoint before anything is measured
    variant = read_checkpoint(ckpt)["hyper_parameters"].get("variant")
    if adapters and variant != "lora":
        raise ValueError(
            f"--adapters is for checkpoints of model=lora, and {str(ckpt)!r} is of model={variant}"
        )
    if measure:
        try:
            publishing.measure(ckpt, results)
        except (OSError, ValueError) as error:
            typer.echo(f"not measured: {error}", err=True)
    return publishing.publish(ckpt, folder, results, adapters)
