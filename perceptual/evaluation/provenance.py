"""What a number was made with: the network, its weights, its cost, the versions of the libraries."""

import platform
import time
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from perceptual.distance.saving.folders import versions

Row = dict[str, Any]
LIBRARIES = ("torch", "torchvision", "timm", "torchmetrics", "piq")


def describe(distance: nn.Module) -> Row:
    """Weights, levels, input size and range of a distance; a distance of deep features says more."""
    row: Row = {
        "parameters": sum(parameter.numel() for parameter in distance.parameters()),
        "value_range": list(getattr(distance, "value_range", (0, 1))),
    }
    backbone: Any = getattr(distance, "backbone", None)
    if backbone is not None:
        row |= {
            "backbone": backbone.name,
            "weights": backbone.source,
            "weights_sha256": backbone.fingerprint(),
            "levels": list(backbone.out_indices),
            "channels": list(backbone.channels),
            "input_size": list(backbone.input_size) if backbone.input_size else None,
            "precision": backbone.precision,
            "compiled": distance.compiled,
        }
    return row


@torch.no_grad()
def inspect(distance: nn.Module, x: Tensor, y: Tensor) -> Row:
    """Floating-point operations of the distance of one pair, and the mean share of each level in it.

    Args:
        distance: (x, y) → (N,); one with `per_level(x, y) → (N, L)`, as LPIPS has, has shares of levels.
        x, y: a few pairs of images (N, 3, H, W), on the device of the distance.
    """
    with FlopCounterMode(display=False) as counter:
        distance(x[:1], y[:1])
    row: Row = {"flops": counter.get_total_flops()}
    per_level: Callable[[Tensor, Tensor], Tensor] | None = getattr(distance, "per_level", None)
    if per_level is not None:
        levels = per_level(x, y).cpu().double().clamp(min=0).mean(0)
        row["level_shares"] = (levels / levels.sum()).tolist()
    return row


@torch.no_grad()
def throughput(distance: nn.Module, x: Tensor, y: Tensor, seconds: float = 0.3) -> float:
    """Images per second of a distance that is given pairs, over at least so many seconds after a first pass.

    Args:
        distance: (x, y) → (N,).
        x, y: a batch of pairs of images (N, 3, H, W), on the device of the distance.
        seconds: how long to try.
    """
    distance(x, y).cpu()
    start, images = time.perf_counter(), 0
    while (passed := time.perf_counter() - start) < seconds or not images:
        distance(x, y).cpu()  # waits for the device
        images += 2 * len(x)
    return images / passed


def surroundings(device: torch.device) -> Row:
    """Versions, device, threads and date."""
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else platform.processor() or "CPU"
    return {
        "versions": {"python": platform.python_version()} | versions(*LIBRARIES),
        "device": f"{device.type} ({name})",
        "threads": torch.get_num_threads(),
        "date": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
    }
