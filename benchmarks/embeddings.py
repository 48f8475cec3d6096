"""Maps or embeddings? `python -m benchmarks.embeddings FILE.csv --size 64` compares the levels of networks.

For each network and each of several splits by image (held-out images are never seen in training), the 2AFC
score in % of its embedding, the means of its maps (`form=pooled`), its maps, and its maps with the embedding
as one more level; uncalibrated, and with `lin` trained by train.py's default recipe without views.
"""

import argparse
from collections.abc import Iterator

import numpy as np
import torch
from torch import Tensor

from benchmarks.recipes import interval, start, train
from perceptual.data import ManifestDataModule
from perceptual.data.batch import chunks_of_pairs
from perceptual.data.images import as_floats
from perceptual.data.splits import split_by_image
from perceptual.distance.level import unit_normalize
from perceptual.features.backbone import PRECISIONS, Backbone, Precision
from perceptual.metrics import two_afc_score

NETWORKS = ("alexnet", "vgg16", "squeezenet1_1", "tf_efficientnet_lite0")
RECIPE = {"ranking": "bounded", "ones": True, "lr": 0.005, "dropout": 0.0, "views": 0}
EMBEDDING, POOLED, MAPS, BOTH = "embedding", "pooled maps", "maps", "maps and embedding"


class Triplets:
    """All triplets of a manifest, as pairs of images by number."""

    def __init__(self, path: str, size: int | None) -> None:
        data = ManifestDataModule(path, val_fraction=1, size=size)
        data.setup("validate")
        self.set = data.val_set
        self.table = self.set.table
        self.pairs = torch.from_numpy(self.table.distinct_pairs[1].T.copy())
        self.judgment = torch.from_numpy(self.table.answer)

    @torch.no_grad()
    def means(self, backbone: Backbone) -> tuple[Tensor, Tensor]:
        """(P, C) of every pair that the triplets compare: of maps at each position, and of their means."""
        pairs, found = self.set.pairs(), list[tuple[Tensor, Tensor]]()
        for chunk in chunks_of_pairs(pairs):
            images, place = chunk.unique(return_inverse=True)
            maps = [m.float() for m in backbone(as_floats(pairs.images.batch(images)))]
            pooled = [m.mean((2, 3), keepdim=True) for m in maps]
            found.append((_differences(maps, place), _differences(pooled, place)))
        positions, means = map(torch.cat, zip(*found, strict=True))
        return positions, means

    def levels(self, name: str, precision: Precision) -> Iterator[tuple[str, Tensor]]:
        """What is compared, and its means."""
        backbone = Backbone(name, precision=precision)
        count = sum(backbone.channels)
        try:
            levels = [*backbone.out_indices, EMBEDDING]
            backbone = Backbone(name, out_indices=levels, precision=precision)
        except ValueError as error:  # the weights are of its maps alone
            print(f"no embedding: {error}")
        positions, pooled = self.means(backbone)
        yield POOLED, pooled[:, :count]
        yield MAPS, positions[:, :count]
        if positions.shape[1] > count:
            yield EMBEDDING, positions[:, count:]
            yield BOTH, positions

    def score(self, lin: Tensor, means: Tensor, rows: Tensor) -> float:
        """2AFC of channel weights on some triplets, in %."""
        d0, d1 = (means @ lin)[self.pairs[rows]].T
        return 100 * two_afc_score(d0, d1, self.judgment[rows]).item()


def _differences(levels: list[Tensor], pairs: Tensor) -> Tensor:
    """(n, C) mean squared differences of the unit-normalised maps of pairs (n, 2), of all levels."""
    first, second = pairs.T
    units = map(unit_normalize, levels)
    return torch.cat([(f[first] - f[second]).square().mean((2, 3)) for f in units], 1)


def main() -> None:
    """Print a line for each network and what of it is compared: mean ± deviation, and the gain of lin."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("path", help="manifest of triplets")
    parser.add_argument("--size", type=int, help="side that images are resized to; default: their own")
    parser.add_argument("--networks", nargs="+", default=NETWORKS)
    parser.add_argument("--precision", choices=PRECISIONS, default="32-true", help="of features")
    parser.add_argument("--splits", type=int, default=10)
    asked = parser.parse_args()
    data = Triplets(asked.path, asked.size)
    masks = [split_by_image(data.table, 0.3, split) for split in range(asked.splits)]
    print(f"{len(data.table):,} triplets, {asked.splits} splits: uncalibrated, lin, gain with 95 % interval")
    for name in asked.networks:
        for what, means in data.levels(name, asked.precision):
            scores = np.empty((asked.splits, 2))
            for split, (rows, held_out) in enumerate(masks):
                trained, judged = (torch.from_numpy(np.flatnonzero(mask)) for mask in (rows, held_out))
                ones = start([means.shape[1]], split, ones=True)
                lin = train(data, ones.clone(), [means], trained, RECIPE)
                scores[split] = [data.score(weights, means, judged) for weights in (ones, lin)]
            spread = [f"{score.mean():.1f} ± {score.std(ddof=1):.1f}" for score in scores.T]
            gain = interval(scores[:, 1] - scores[:, 0])
            print(f"{name:22} {what:20} {means.shape[1]:5}", *spread, gain, flush=True)


if __name__ == "__main__":
    main()
