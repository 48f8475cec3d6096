"""Pairs of large images, whole and in tiles: `python -m benchmarks.large alexnet vgg16`.

Of a distance, and of one with its gradient to the first image: time, and the peak of resident memory of a
fresh process, PyTorch and the images included. Whole images that do not fit `LIMIT` have no figures.
`difference` is that of the distance, and of the gradient, from those of the whole, as a share of the largest.
"""

import itertools
import json
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch

from benchmarks.loss import resident
from benchmarks.timing import arguments, report, same_weights

SIZES = ((1200, 1600), (3000, 4000))
BUDGETS = {"distance": 9e8, "gradient": 2e9}
LIMIT = 14 * 2**30  # bytes of a process, so that a machine with others on it goes on


def run(name: str, what: str, memory: float, file: str, *size: int) -> dict[str, float]:
    """Compare a pair in this process, and keep what is found."""
    resource.setrlimit(resource.RLIMIT_DATA, (LIMIT, LIMIT))
    metric = same_weights(name)[1]
    metric.memory = memory or None
    generator = torch.Generator().manual_seed(0)
    x, noise = torch.rand(2, 1, 3, *size, generator=generator)
    y = noise.mul_(0.2).add_(x).div_(1.2)
    x.requires_grad_(what == "gradient")
    start = time.perf_counter()
    found = [metric(x, y)]
    if what == "gradient":
        found += torch.autograd.grad(found[0].sum(), x)
    seconds = time.perf_counter() - start
    torch.save([part.detach() for part in found], file)
    return {"s": seconds, "GB": resident("VmHWM") * 2**20 / 1e9}


def measure(name: str, size: tuple[int, int], what: str, folder: Path) -> Iterator[dict[str, Any]]:
    """A row for the whole, and one for tiles."""
    expected = None
    for memory in (0, BUDGETS[what]):
        file = folder / "found.pt"
        words = [name, what, str(memory), str(file), *map(str, size)]
        done = subprocess.run(
            [sys.executable, "-m", "benchmarks.large", "--run", *words],
            capture_output=True,
            text=True,
            check=False,
        )
        row: dict[str, Any] = {"net": name, "size": "×".join(map(str, size)), "what": what}
        row |= {"memory": f"{memory:g}" if memory else "whole", "s": None, "GB": None, "difference": None}
        if done.returncode == 0:
            row |= json.loads(done.stdout)
            found = torch.load(file)
            if expected is not None:
                pairs = zip(found, expected, strict=True)
                row["difference"] = max(((a - b).abs().max() / b.abs().max()).item() for a, b in pairs)
            expected = found
        elif memory:
            raise RuntimeError(done.stderr)
        print(row, flush=True)
        yield row


if __name__ == "__main__":
    if sys.argv[1:2] == ["--run"]:
        net, what, memory, file, *size = sys.argv[2:]
        print(json.dumps(run(net, what, float(memory), file, *map(int, size))))
        sys.exit()
    options = arguments(__doc__, "large.json")
    cases = itertools.product(options.nets, SIZES, BUDGETS)
    with tempfile.TemporaryDirectory() as folder:
        rows = [row for case in cases for row in measure(*case, Path(folder))]
    report(rows, options.output, limit=LIMIT)
