"""A head on a frozen embedding: what is trained of it, where the network stays as it is.

Fu et al. 2023, "DreamSim", https://arxiv.org/abs/2306.09344, appendix: e + W₂ relu(W₁ e), 512 hidden units.
"""

from torch import Tensor, nn

HIDDEN = 512


class Head(nn.Sequential):
    """Residual network of one hidden layer: (N, D, 1, 1) → (N, D, 1, 1).

    W₂ and its bias begin at 0: the distance begins as it is without the head.

    Args:
        size: D.
        hidden: units of the hidden layer.
    """

    def __init__(self, size: int, hidden: int = HIDDEN) -> None:
        last = nn.Linear(hidden, size)
        nn.init.zeros_(last.weight)
        nn.init.zeros_(last.bias)
        super().__init__(nn.Linear(size, hidden), nn.ReLU(), last)

    def forward(self, embedding: Tensor) -> Tensor:
        """Add to the embedding what was learned."""
        # as convolutions of 1×1 on a CPU, the layers take five to seven times as long
        change: Tensor = super().forward(embedding.flatten(1))
        return embedding + change[..., None, None]
