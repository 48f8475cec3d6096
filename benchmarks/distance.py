"""Distances of triplets, beside the `lpips` package: `python -m benchmarks.distance`.

Ours is `LPIPS.triplet`; theirs, and torchmetrics', are two calls, of (ref, p0) and (ref, p1). `backbone` is
ours alone on the three images, the limit. Ratios: how many times the package's time is ours (`faster`), and
ours is the backbone's (`of backbone`): as it comes, with the comparison compiled, and with a backbone in
bfloat16 too.
"""

import copy
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor

from benchmarks.timing import (
    ROUNDS,
    arguments,
    full_precision,
    medians,
    of_torchmetrics,
    report,
    same_weights,
)

SIZES = {"cpu": ((50, 64), (4, 256)), "cuda": ((50, 64), (32, 256))}
TOLERANCE: dict[str, dict[str, Any]] = {
    "cpu": {"atol": 1e-6, "rtol": 1e-5},
    "cuda": {"atol": 1e-5, "rtol": 1e-4},
}


def measure(name: str, device: str) -> Iterator[dict[str, Any]]:
    """A row for each size of images."""
    theirs, ours = same_weights(name, device)
    third = of_torchmetrics(name, theirs)
    compiled, half = copy.deepcopy(ours), copy.deepcopy(ours)
    compiled.accelerate(compile=True)
    half.accelerate(precision="bf16-mixed", compile=True)
    exact = TOLERANCE[device]
    for count, side in SIZES[device]:
        images = torch.rand(3, count, 3, side, side, generator=torch.Generator().manual_seed(0))
        images = images.to(device)
        ref, p0, p1 = images
        stacked = images.flatten(0, 1)
        with full_precision():
            expected = twice(theirs, ref, p0, p1)
            for distance, close in ((ours, exact), (compiled, exact), (half, {"atol": 1e-3, "rtol": 0.05})):
                torch.testing.assert_close(torch.stack(distance.triplet(*images)), expected, **close)
            torch.testing.assert_close(twice(third, ref, p0, p1), expected, **exact)
        calls: dict[str, Callable[[], Any]] = {
            "lpips": lambda: twice(theirs, ref, p0, p1),  # noqa: B023 (called in this turn)
            "torchmetrics": lambda: twice(third, ref, p0, p1),  # noqa: B023
            "backbone": lambda: ours.backbone(stacked),  # noqa: B023
            "ours": lambda: ours.triplet(ref, p0, p1),  # noqa: B023
            "compiled": lambda: compiled.triplet(ref, p0, p1),  # noqa: B023
            "bfloat16": lambda: half.triplet(ref, p0, p1),  # noqa: B023
        }
        yield {"net": name, "triplets": f"{count} × {side}²", **ratios(medians(calls))}


def twice(distance: torch.nn.Module, ref: Tensor, p0: Tensor, p1: Tensor) -> Tensor:
    """Two calls, as users of pair metrics make them: (2, N)."""
    return torch.stack([distance(ref, p, normalize=True).flatten() for p in (p0, p1)])


def ratios(seconds: dict[str, float]) -> dict[str, float]:
    """Milliseconds of each, and what they are of each other."""
    faster = {
        "faster" if name == "ours" else f"{name} faster": seconds["lpips"] / seconds[name]
        for name in ("ours", "compiled", "bfloat16")
    }
    limit = {
        "of backbone" if name == "ours" else f"{name} of backbone": seconds[name] / seconds["backbone"]
        for name in ("ours", "compiled")
    }
    return {f"{name} ms": 1000 * taken for name, taken in seconds.items()} | faster | limit


if __name__ == "__main__":
    options = arguments(__doc__, "distance.json")
    with torch.no_grad():
        rows = [row for net in options.nets for row in measure(net, options.device)]
    report(rows, options.output, rounds=ROUNDS)
