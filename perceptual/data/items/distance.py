"""The type of what a batch computes its distances by."""

from collections.abc import Callable

from torch import Tensor

Distance = Callable[[Tensor, Tensor], Tensor]
"""(x, y) → (N,): distances of images (N, 3, H, W), RGB in [0, 1]; larger = more different."""
