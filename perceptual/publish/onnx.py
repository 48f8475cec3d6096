"""A distance as a graph that needs no Python: a program of `torch.export`, or an ONNX file."""

import os
import warnings
from copy import deepcopy
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from typing import Any
from unittest.mock import patch

import torch
from timm.layers import padding
from torch.export import Dim, ExportedProgram

from perceptual.distance.lpips import LPIPS
from perceptual.features.backbone import PATCH
from perceptual.files.messages import first_line, install


def program(metric: LPIPS, size: tuple[int, int] | None = None, uint8: bool = False) -> ExportedProgram:
    """Export (x, y) → (N,), or with `spatial` → (N, 1, H, W), for any number of pairs of images.

    Args:
        metric: on the CPU; the program does not check the range of its images.
        size: (H, W) of the images; None: any that the network takes. Most transformers need one.
        uint8: the program takes images of 0 … 255, not floats in the metric's `value_range`.

    Raises:
        ValueError: the network can be exported for one size only, or not at all; an older PyTorch than 2.6.
    """
    if not hasattr(Dim, "DYNAMIC"):
        raise ValueError(f"torch.export of a distance needs torch 2.6 or newer, this is {torch.__version__}")
    height, width = size or (PATCH + 32, PATCH + 64)  # two sides that differ, or one would stand for both
    dtype = torch.uint8 if uint8 else torch.float32
    x, y = torch.zeros(2, 2, 3, height, width, dtype=dtype)
    free: dict[int, Any] = {0: Dim.DYNAMIC} if size else {0: Dim.DYNAMIC, 2: Dim.DYNAMIC, 3: Dim.DYNAMIC}
    if size is None and not metric.backbone.input_size and _has_windows(metric):
        raise _needs_size(metric)
    metric = deepcopy(metric).eval()
    for parameter in metric.parameters():  # torch.export.save warns of the backbone's channels last
        parameter.data = parameter.data.contiguous()
    try:
        with warnings.catch_warnings(), patch.object(padding, "get_same_padding", same_padding):
            warnings.filterwarnings("ignore", category=FutureWarning, module=r"torch\.")
            return torch.export.export(metric, (x, y), dynamic_shapes={"x": free, "y": free})
    except Exception as error:  # of many types, and of many lines that speak of the network's inside
        if size is None:
            raise _needs_size(metric) from error
        metric(x, y)  # the size may be what is wrong
        reason = first_line(error)
        raise ValueError(
            f"{metric.backbone.name} cannot be exported for images of {height}×{width} ({reason})"
        ) from error


def _has_windows(metric: LPIPS) -> bool:
    """Say if its backbone cuts maps into windows, as Swin: to trace any number takes too long."""
    return any(hasattr(module, "window_size") for module in metric.backbone.modules())


def _needs_size(metric: LPIPS) -> ValueError:
    return ValueError(
        f"{metric.backbone.name} cannot be exported for images of any size; "
        "give one: size=(224, 224), --size 224"
    )


def same_padding(side: Any, kernel: int, stride: int, dilation: int) -> Any:
    """Pixels that TensorFlow adds to a side, at both ends together, for an output of ⌈side / stride⌉.

    As timm's `get_same_padding`, but in whole numbers, and comparing only where it must: torch.export then
    follows a side that it does not know, and sees it cancel out of the sizes of all later maps.
    """
    span = dilation * (kernel - 1) + 1
    total = ((side + stride - 1) // stride - 1) * stride + span - side
    return total if span >= stride else torch.sym_max(total, 0)


def to_onnx(
    metric: LPIPS, path: str | os.PathLike[str], size: tuple[int, int] | None = None, uint8: bool = False
) -> None:
    """Write the distance as one ONNX file: inputs `x` and `y`, output `distance`; its metadata says more.

    The arguments are those of `program`. Needs the extra `onnx`.

    Raises:
        ValueError: what `program` raises, a package that is not installed, or versions that cannot write it.
    """
    for package in ("onnx", "onnxscript"):
        if find_spec(package) is None:
            raise ValueError(f"ONNX needs the package {package}: {install('onnx')}")
    exported = program(metric, size, uint8)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the converter's remarks on its own passes
        try:
            made = torch.onnx.export(
                exported, input_names=["x", "y"], output_names=["distance"], verbose=False
            )
        except torch.onnx.OnnxExporterError as error:  # many lines for whoever mends the converter
            raise ValueError(
                f"{metric.backbone.name}: torch {torch.__version__} with onnxscript {version('onnxscript')} "
                f"cannot write it ({first_line(error.__cause__ or error)}); a newer PyTorch may"
            ) from error
    assert made is not None  # it is None in the old exporter only
    made.model.metadata_props.update(contract(metric, size, uint8))
    made.save(Path(path), external_data=False)


def contract(metric: LPIPS, size: tuple[int, int] | None, uint8: bool) -> dict[str, str]:
    """Describe what an ONNX file takes and gives, for its metadata."""
    side = f"{size[0]}, {size[1]}" if size else "H, W"
    black, white = (0, 255) if uint8 else metric.value_range
    return {
        "input": f"x, y: RGB images ({'uint8' if uint8 else 'float32'}) of shape (N, 3, {side}), "
        f"black {black}, white {white}",
        "output": f"distance: float32 ({f'N, 1, {side}' if metric.spatial else 'N'}), larger: more different",
        "backbone": metric.backbone.name,
        "weights": Path(metric.backbone.source).name,
        "weights_sha256": metric.backbone.fingerprint(),
        "form": metric.form + (", centred" if metric.center else ""),
    }
