"""What scores share that sort all items: two columns of numbers, kept until they are needed."""

from typing import Any

import torch
from torch import Tensor
from torchmetrics import Metric


class TwoColumns(Metric):
    """Keeps a distance and an answer of each item, 16 bytes per item, over all processes."""

    is_differentiable = False
    full_state_update = False

    distance: list[Tensor]
    answer: list[Tensor]

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.add_state("distance", [], dist_reduce_fx="cat")
        self.add_state("answer", [], dist_reduce_fx="cat")

    def plot(self, val: Any = None, ax: Any = None) -> Any:
        """Plot the value, or those of several steps, as every metric of torchmetrics does."""
        return self._plot(val, ax)

    def reset(self) -> None:
        """Forget all items."""
        # new lists: torchmetrics empties the old ones, which its `Running` still holds
        self.distance, self.answer = [], []
        super().reset()

    def keep(self, distance: Tensor, answer: Tensor) -> None:
        """Add N items, (N,) each."""
        self.distance.append(distance.detach().to(self.device, self.float_type))
        self.answer.append(answer.detach().to(self.device, self.float_type))

    def kept(self) -> tuple[Tensor, Tensor]:
        """All items of this process, or of all of them after they are merged, on the CPU."""
        return _joined(self.distance), _joined(self.answer)

    @property
    def float_type(self) -> torch.dtype:
        """float64; float32 on mps, which has nothing wider."""
        return torch.float32 if self.device.type == "mps" else torch.float64

    def _sync_dist(self, *args: Any, **kwargs: Any) -> None:
        # torchmetrics uses float32 for a process without items, which does not mix with float64
        nothing = torch.zeros(0, dtype=self.float_type, device=self.device)
        self.distance, self.answer = [*self.distance, nothing], [*self.answer, nothing]
        super()._sync_dist(*args, **kwargs)


def _joined(state: Tensor | list[Tensor]) -> Tensor:
    # a list before processes are merged, one tensor after
    parts = state if isinstance(state, list) else [state]
    return torch.cat([torch.zeros(0, device="cpu"), *(part.cpu() for part in parts)])
