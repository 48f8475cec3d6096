"""As a loss, forward and backward to one image of each pair: `python -m benchmarks.loss`.

`held` is `LPIPS.reference`, with the target's features held. Memory is that of a fresh process for each, with
its own network alone: what three steps add to it (`grown`), and the peak of all of it, PyTorch included. On a
GPU it is what a step allocates; there `torch` is ours without Triton, `graph` as a CUDA graph, and `backbone`
its forward and backward alone.
"""

import copy
import ctypes
import gc
import json
import subprocess
import sys
from collections.abc import Callable
from functools import cache, partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from benchmarks.distance import TOLERANCE
from benchmarks.timing import ROUNDS, arguments, full_precision, medians, report, same_weights

COUNT, SIDE = 4, 256
KINDS = ("lpips", "ours", "held")
Step = Callable[[], tuple[Tensor, Tensor]]


def steps(name: str, device: str = "cpu") -> dict[str, Step]:
    """Each gives the loss and its gradient to the first images."""
    theirs, ours = same_weights(name, device)
    theirs.requires_grad_(False)
    images = torch.rand(2, COUNT, 3, SIDE, SIDE, generator=torch.Generator().manual_seed(0))
    x, y = images.to(device)
    losses: dict[str, Callable[[Tensor], Tensor]] = {
        "lpips": lambda x: theirs(x, y, normalize=True),
        "ours": lambda x: ours(x, y),
        "held": lambda x: reference()(x),
    }
    reference = cache(lambda: ours.reference(y))
    if device != "cpu":
        plain = copy.copy(ours)
        plain.kernel = "torch"
        recorded = ours.graph(x.clone().requires_grad_(), y)
        losses |= {"torch": lambda x: plain(x, y), "graph": lambda x: recorded(x, y)}
        losses["backbone"] = lambda x: sum(m.sum() for m in [*ours.backbone(x), *ours.backbone(y)])

    def step(loss: Callable[[Tensor], Tensor]) -> tuple[Tensor, Tensor]:
        moving = x.clone().requires_grad_()
        value = loss(moving).sum()
        (grad,) = torch.autograd.grad(value, moving)
        return value.detach(), grad

    return {kind: partial(step, loss) for kind, loss in losses.items()}


def measure(name: str, device: str) -> dict[str, Any]:
    """Time of each and, on the CPU, memory, and ratios to the package's."""
    calls = steps(name, device)
    with full_precision():
        expected, gradient = calls["lpips"]()
        for kind in calls.keys() - {"lpips", "backbone"}:
            value, grad = calls[kind]()
            torch.testing.assert_close(value, expected, **TOLERANCE[device])
            # as vectors: where a feature is within rounding of a ReLU's 0, single pixels differ by more
            assert (grad - gradient).norm() < 0.02 * gradient.norm(), f"the gradient of {kind} is another"
    seconds = medians(calls)
    row: dict[str, Any] = {"net": name}
    row |= {f"{kind} ms": 1000 * taken for kind, taken in seconds.items()}
    row |= {f"{kind} time": seconds[kind] / seconds["lpips"] for kind in calls if kind != "lpips"}
    if device != "cpu":
        return row | {f"{kind} MiB": allocated(step) for kind, step in calls.items()}
    found = {kind: memory(name, kind) for kind in KINDS}
    for part in ("peak", "grown"):
        row |= {f"{kind} {part} MiB": found[kind][part] for kind in KINDS}
        row |= {f"{kind} {part}": found[kind][part] / found["lpips"][part] for kind in ("ours", "held")}
    return row


def allocated(step: Step) -> float:
    """MiB that a step adds at most to what a GPU holds."""
    before = torch.cuda.memory_allocated()
    torch.cuda.reset_peak_memory_stats()
    step()
    return (torch.cuda.max_memory_allocated() - before) / 2**20


def memory(name: str, kind: str) -> dict[str, float]:
    """MiB of a fresh process that takes steps of one kind."""
    command = [sys.executable, "-m", "benchmarks.loss", "--grow", name, kind]
    found: dict[str, float] = json.loads(subprocess.check_output(command))
    return found


def grow(name: str, kind: str) -> dict[str, float]:
    """Peak of resident memory in three steps, whole and beyond that before them. Linux with glibc only."""
    step = steps(name)[kind]
    gc.collect()
    ctypes.CDLL("libc.so.6").malloc_trim(0)
    Path("/proc/self/clear_refs").write_text("5", encoding="utf-8")  # the peak starts anew
    before = resident("VmRSS")
    for _ in range(3):
        step()
    peak = resident("VmHWM")
    return {"peak": peak, "grown": peak - before}


def resident(which: str) -> float:
    """Resident memory of this process in MiB, now (VmRSS) or at its peak (VmHWM)."""
    lines = Path("/proc/self/status").read_text(encoding="utf-8").splitlines()
    (size,) = (line.split()[1] for line in lines if line.startswith(which))
    return int(size) / 1024


if __name__ == "__main__":
    if sys.argv[1:2] == ["--grow"]:
        print(json.dumps(grow(*sys.argv[2:4])))
        sys.exit()
    options = arguments(__doc__, "loss.json")
    report(
        [measure(net, options.device) for net in options.nets],
        options.output,
        count=COUNT,
        side=SIDE,
        rounds=ROUNDS,
    )
