"""What benchmarks against the `lpips` package share: the same weights, taking turns, a table and a JSON."""

import argparse
import json
import os
import platform
import statistics
import time
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import lpips
import torch
from rich.console import Console
from rich.table import Table
from torch import nn
from torchmetrics.functional.image.lpips import _LPIPS

from perceptual.distance.lpips import LPIPS
from perceptual.features.backbone import Backbone
from perceptual.features.weights import find_local

NETS: dict[str, Any] = {"alexnet": "alex", "squeezenet1_1": "squeeze", "vgg16": "vgg"}
ROUNDS = 7


def same_weights(name: str, device: str = "cpu") -> tuple[lpips.LPIPS, LPIPS]:
    """`lpips.LPIPS` and ours, calibration v0.1, with one network's weights, on a device.

    Its weights are the real ones where `PERCEPTUAL_WEIGHTS` has them, else random, as fast as any others.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the package builds its networks by torchvision's old arguments
        theirs = lpips.LPIPS(net=NETS[name], pnet_rand=True, verbose=False)
    if find_local(name, "default"):
        backbone = Backbone(name)
        _copy(backbone.net, theirs.net)
        return theirs.to(device), LPIPS(backbone, "v0.1").to(device)
    generator = torch.Generator().manual_seed(0)
    for parameter in theirs.net.parameters():
        if parameter.ndim > 1:  # features keep their size from level to level, as those of trained networks
            nn.init.kaiming_normal_(parameter, generator=generator)
    backbone = Backbone(name, weights=None)
    _copy(theirs.net, backbone.net)
    return theirs.to(device), LPIPS(backbone, "v0.1").to(device)


def of_torchmetrics(name: str, theirs: lpips.LPIPS) -> nn.Module:
    """The network inside torchmetrics' metric, with the weights of the `lpips` package's; called as that."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        distance = _LPIPS(net=NETS[name], pnet_rand=True)
    _copy(theirs.net, distance.net)
    return distance.to(next(theirs.parameters()).device)


def _copy(source: nn.Module, target: nn.Module) -> None:
    """Weights of one network to another; each calls its layers by names of its own, but in one order."""
    target.load_state_dict(dict(zip(target.state_dict(), source.state_dict().values(), strict=True)))


def medians(calls: Mapping[str, Callable[[], Any]], rounds: int = ROUNDS) -> dict[str, float]:
    """Seconds of each call, the median of rounds in which all take turns, after two that are not counted."""
    times: dict[str, list[float]] = {name: [] for name in calls}
    for turn in range(-2, rounds):
        for name, call in calls.items():
            finish_device()
            start = time.perf_counter()
            call()
            finish_device()
            if turn >= 0:
                times[name].append(time.perf_counter() - start)
    return {name: statistics.median(taken) for name, taken in times.items()}


@contextmanager
def full_precision() -> Iterator[None]:
    """Without TensorFloat-32, whose three digits would hide a wrong number; nothing is timed within."""
    before = torch.backends.cudnn.allow_tf32
    torch.backends.cudnn.allow_tf32 = False
    try:
        yield
    finally:
        torch.backends.cudnn.allow_tf32 = before


def finish_device() -> None:
    """Wait for the GPU, if it is in use: calls return before it has done their work."""
    if torch.cuda.is_initialized():
        torch.cuda.synchronize()


def machine() -> dict[str, Any]:
    """Processor, graphics card, threads and libraries: ratios are of these."""
    file = Path("/proc/cpuinfo")
    lines = file.read_text(encoding="utf-8").splitlines() if file.exists() else []
    models = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return {
        "processor": models[0] if models else platform.processor(),
        "cores": os.cpu_count(),
        "card": torch.cuda.get_device_name() if torch.cuda.is_initialized() else None,
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
    }


def report(rows: Sequence[Mapping[str, Any]], output: Path, **setting: Any) -> None:
    """Print rows of one kind as a table, and write them with the machine and the setting as JSON."""
    table = Table(*rows[0], box=None)
    for row in rows:
        table.add_row(*(f"{value:.4g}" if isinstance(value, float) else str(value) for value in row.values()))
    Console(width=200).print(table)
    result = {"machine": machine(), "setting": setting, "rows": list(rows)}
    output.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")


def arguments(description: str | None, output: str) -> argparse.Namespace:
    """The options of each benchmark: which networks, and where the JSON goes."""
    parser = argparse.ArgumentParser(
        description=description, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("nets", nargs="*", metavar="NET", help=f"of {', '.join(NETS)} (default: all)")
    parser.add_argument("--output", type=Path, default=Path(output), help="where the JSON goes")
    parser.add_argument("--device", default="cpu", help="cpu (default) or cuda, where it takes one")
    options = parser.parse_args()
    if unknown := set(options.nets) - set(NETS):
        parser.error(f"NET must be of {', '.join(NETS)}, got {', '.join(sorted(unknown))}")
    options.nets = options.nets or list(NETS)
    if options.device != "cpu":
        torch.zeros(1, device=options.device)  # one line of PyTorch's if there is none
    return options
