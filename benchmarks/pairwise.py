"""All pairs of images, beside the `lpips` package's loop: `python -m benchmarks.pairwise`.

The package's way is one call for each of the N·(N−1)/2 pairs; a slice of them is timed, and the rest taken to
last as long. Ours is `LPIPS.pairwise`. Then the memory for many images: what a fresh process grows by, beside
the budget, and the vectors that would not fit it. The numbers are compared first.
"""

import itertools
import json
import resource
import subprocess
import sys
from typing import Any

import torch

from benchmarks.timing import ROUNDS, arguments, full_precision, medians, report, same_weights

COUNT, SLICE, SIDE = 200, 40, 64
MANY, BUDGET = 2000, 256 << 20


def measure(name: str, device: str) -> dict[str, Any]:
    """Time of both for `COUNT` images, and on the CPU memory of ours for `MANY`."""
    theirs, ours = same_weights(name, device)
    images = torch.rand(COUNT, 3, SIDE, SIDE, generator=torch.Generator().manual_seed(0)).to(device)
    pairs = list(itertools.combinations(range(COUNT), 2))
    timed = pairs[:: len(pairs) // SLICE][:SLICE]

    def loop() -> torch.Tensor:
        calls = [theirs(images[i : i + 1], images[j : j + 1], normalize=True) for i, j in timed]
        return torch.cat(calls).flatten()

    rows, columns = torch.tensor(timed).T
    with full_precision():
        torch.testing.assert_close(ours.pairwise(images)[rows, columns], loop(), atol=1e-6, rtol=1e-4)
    seconds = medians({"lpips": loop, "ours": lambda: ours.pairwise(images)})
    whole = seconds["lpips"] * len(pairs) / len(timed)
    return {
        "net": name,
        f"lpips s ({len(pairs)} calls)": whole,
        "ours s": seconds["ours"],
        "faster": whole / seconds["ours"],
        **(memory(name) if device == "cpu" else {}),
    }


def memory(name: str) -> dict[str, float]:
    """MiB that a fresh process grows by, for `MANY` images."""
    command = [sys.executable, "-m", "benchmarks.pairwise", "--grow", name]
    found: dict[str, float] = json.loads(subprocess.check_output(command))
    return found


def grow(name: str) -> dict[str, float]:
    """Peak of memory beyond that before the call, without the pages of mapped files, which can be dropped."""
    _, ours = same_weights(name)
    images = torch.rand(MANY, 3, SIDE, SIDE, generator=torch.Generator().manual_seed(0))
    like = ours.embed(images[:2])
    ours.pairwise(images[:2])
    vectors = MANY * like.shape[1] * like.element_size()
    before = peak()
    ours.pairwise(images, memory=BUDGET)
    return {
        "vectors MiB": vectors / 2**20,
        "budget MiB": BUDGET / 2**20,
        "grown by MiB": peak() - before,
    }


def peak() -> float:
    """Largest resident memory of this process so far, in MiB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


if __name__ == "__main__":
    if sys.argv[1:2] == ["--grow"]:
        print(json.dumps(grow(sys.argv[2])))
        sys.exit()
    options = arguments(__doc__, "pairwise.json")
    with torch.no_grad():
        rows = [measure(net, options.device) for net in options.nets]
    report(rows, options.output, images=COUNT, side=SIDE, rounds=ROUNDS, many=MANY)
