"""What a step of the loss starts on a GPU beyond the backbone: `python -m benchmarks.launches`.

Launches are operations that are not views; bytes are those of their arguments and results. `torch` are
operations of PyTorch as a GPU gets them, with whole maps, and `triton` one kernel a level. Tensors are fake:
nothing is computed. What the backbone's own forward and backward start is counted by themselves and left out,
and so is the check of the range, which a GPU does with its first batch. Shares are of the `lpips` package.
"""

import os
from collections.abc import Callable
from typing import Any
from unittest.mock import patch

os.environ["TRITON_INTERPRET"] = "1"  # before Triton is imported

import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from benchmarks.timing import arguments, report, same_weights
from perceptual.distance import level

COUNTS = {"vgg16": 1}  # images of a batch, else 4
SIDE = 256
NO_LAUNCH = ("aten.detach", "aten.empty", "aten.empty_like", "aten.empty_strided", "aten.new_empty")


class Launches(TorchDispatchMode):
    """Counts launches and bytes of what runs under it."""

    def __init__(self) -> None:
        super().__init__()
        self.count, self.bytes = 0, 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        given, made = (
            [t for t in tree_leaves(of) if isinstance(t, Tensor)] for of in ((args, kwargs), result)
        )
        if made and not func.is_view and str(func).rpartition(".")[0] not in NO_LAUNCH:
            self.count += 1
            self.bytes += sum(tensor.nbytes for tensor in given + made)
        return result


def count(step: Callable[[], object]) -> Launches:
    """Count what a step starts."""
    with Launches() as launches:
        step()
    return launches


def measure(name: str) -> dict[str, Any]:
    """Launches and bytes of each."""
    theirs, ours = same_weights(name, "cpu")
    theirs.requires_grad_(False)
    ours.check_range = False
    level.takes_triton(torch.device("cpu"), "triton")  # which computes
    with FakeTensorMode(allow_non_fake_inputs=True):
        return _row(name, theirs, ours, COUNTS.get(name, 4))


def _row(name: str, theirs: Any, ours: Any, images: int) -> dict[str, Any]:
    x, y = torch.rand(2, images, 3, SIDE, SIDE)
    moving = x.clone().requires_grad_()
    ones = [torch.ones_like(m) for m in ours.backbone(moving)]

    def bare() -> None:
        found = ours.backbone(moving)
        with torch.no_grad():
            ours.backbone(y)
        torch.autograd.grad(found, moving, ones)

    def loss(metric: Callable[..., Tensor], **options: bool) -> Callable[[], object]:
        return lambda: torch.autograd.grad(metric(moving, y, **options).sum(), moving)

    backbone = count(bare)
    found = {"lpips": count(loss(theirs, normalize=True))}
    with patch.object(level, "PIECE", {}):  # as on a GPU
        for ours.kernel in ("torch", "triton"):
            found[ours.kernel] = count(loss(ours))
    row: dict[str, Any] = {"net": name, "images": images}
    row |= {f"{kind} launches": launches.count - backbone.count for kind, launches in found.items()}
    moved = {kind: launches.bytes - backbone.bytes for kind, launches in found.items()}
    row |= {f"{kind} MB": size / 1e6 for kind, size in moved.items()}
    return row | {f"{kind} share": moved[kind] / moved["lpips"] for kind in ("torch", "triton")}


if __name__ == "__main__":
    options = arguments(__doc__, "launches.json")
    report([measure(net) for net in options.nets], options.output, side=SIDE)
