"""A distance and a reader of another package: `pip install ./examples/plugin`, then use their names.

python evaluate.py methods=[colours:mean,l2] data=manifest data.path=set data.layout=pairs_txt
"""

from collections.abc import Callable, Iterator
from pathlib import Path

from torch import Tensor


def distance(name: str) -> Callable[[Tensor, Tensor], Tensor]:
    """Return the distance of a name: (x, y) → (N,), images (N, 3, H, W) in [0, 1]."""
    statistics = {"mean": lambda x: x.mean((2, 3)), "spread": lambda x: x.std((2, 3))}
    if name not in statistics:
        raise ValueError(f"colours has {' and '.join(statistics)}, got {name!r}")
    of = statistics[name]
    return lambda x, y: (of(x) - of(y)).abs().sum(1)


def read(folder: Path) -> Iterator[tuple[str, str, str, float]]:
    """Yield a reference, two images and the share of people who found the second one closer, of each line."""
    for line in (folder / "pairs.txt").read_text().splitlines():
        ref, p0, p1, share = line.split()
        yield ref, p0, p1, float(share)
