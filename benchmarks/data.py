"""Triplets per second that reach a training loop: the reference loader against ours, in one run.

    python -m benchmarks.data [--count 2000] [--side 64] [--output data.json]

The reference is re-created from its repository (richzhang/PerceptualSimilarity, twoafc_dataset.py there): an
item is three `PIL.Image.open` + Resize(64) + ToTensor + Normalize and one `np.load`, default collation, batch
50, two worker processes. Ours reads the same triplets in one process, from a packed store and from the folder
(decoded once, at the start, which is not timed). Every loader makes all batches of an epoch; loaders take
turns, and the median of the rounds counts. Before that the numbers are compared: ours, scaled from [0, 1] to
[-1, 1], equal the reference's.
"""

import argparse
import json
import os
import statistics
import tempfile
import time
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch.utils.data import DataLoader, Dataset
from torchvision import transforms

from perceptual.data import TWO_AFC, BAPPSDataModule, pack
from perceptual.data.readers.folders import read_origin
from perceptual.data.synthetic.making import make_items
from perceptual.data.synthetic.photographs import packaged
from perceptual.data.writers.folders import write_new

ROUNDS = 7
BATCH = 50


class ReferenceDataset(Dataset[dict[str, Any]]):
    """The reference's items, read as in its repository."""

    def __init__(self, subset: Path) -> None:
        self.paths = {role: sorted((subset / role).iterdir()) for role in ("ref", "p0", "p1", "judge")}
        self.transform = transforms.Compose(
            [transforms.Resize(64), transforms.ToTensor(), transforms.Normalize((0.5,) * 3, (0.5,) * 3)]
        )

    def __len__(self) -> int:
        return len(self.paths["ref"])

    def __getitem__(self, index: int) -> dict[str, Any]:
        item: dict[str, Any] = {f"{role}_path": str(paths[index]) for role, paths in self.paths.items()}
        for role in ("p0", "p1", "ref"):
            item[role] = self.transform(Image.open(self.paths[role][index]).convert("RGB"))
        item["judge"] = torch.FloatTensor(np.load(self.paths["judge"][index]).reshape((1, 1, 1)))
        return item


def prepare(folder: Path, count: int, side: int) -> None:
    """A BAPPS folder with one subset of `count` triplets, its PNGs enlarged to `side`, and its store."""
    table = make_items(TWO_AFC, packaged(), count, seed=0)
    table = replace(table, subset=np.zeros(count, np.int64), subsets=["val"])
    write_new(table, folder / "bapps", "folder")
    if side != 64:
        for path in (folder / "bapps").rglob("*.png"):
            Image.open(path).resize((side, side), Image.Resampling.NEAREST).save(path)
    pack(read_origin(folder / "bapps")[""], folder / "store", "benchmark", workers=1)


def loaders(folder: Path) -> dict[str, Iterable[Any]]:
    """Shuffled training batches of the reference, of our store and of our folder."""
    reference = ReferenceDataset(folder / "bapps/val")
    found: dict[str, Iterable[Any]] = {"reference": DataLoader(reference, BATCH, shuffle=True, num_workers=2)}
    for name, root in (("store", folder / "store"), ("folder", folder / "bapps")):
        data = BAPPSDataModule(str(root), ["val"], ["val"], batch_size=BATCH)
        data.setup("fit")
        found[name] = data.train_dataloader()
    return found


def check(folder: Path) -> None:
    """Ours gives the numbers of the reference; raises AssertionError if not."""
    reference = ReferenceDataset(folder / "bapps/val")
    for root in (folder / "store", folder / "bapps"):
        data = BAPPSDataModule(str(root), ["val"], ["val"])
        data.setup("validate")
        assert data.val_set is not None
        for row in (0, len(reference) - 1):
            ours, theirs = data.val_set[row], reference[row]
            for role in ("ref", "p0", "p1"):
                torch.testing.assert_close(2 * ours.role(role)[0] - 1, theirs[role], atol=1e-6, rtol=0)
            assert ours.answer.item() == theirs["judge"].item()


def seconds(batches: Iterable[Any]) -> float:
    """Time to make all batches once."""
    start = time.perf_counter()
    for batch in batches:
        del batch
    return time.perf_counter() - start


def main(count: int, side: int) -> dict[str, Any]:
    """Triplets per second of each loader, and the ratios to the reference."""
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as place:
        prepare(Path(place), count, side)
        check(Path(place))
        found = loaders(Path(place))
        times: dict[str, list[float]] = {name: [] for name in found}
        for _ in range(ROUNDS):
            for name, batches in found.items():
                times[name].append(seconds(batches))
    rates = {name: count / statistics.median(taken) for name, taken in times.items()}
    ratios = {name: rate / rates["reference"] for name, rate in rates.items()}
    setting = {"count": count, "side": side, "batch": BATCH, "rounds": ROUNDS, "cores": os.cpu_count()}
    return {"setting": setting, "triplets_per_second": rates, "ratio": ratios}


if __name__ == "__main__":
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--count", type=int, default=2000, help="triplets")
    parser.add_argument("--side", type=int, default=64, help="side of the PNGs; BAPPS also comes as 256")
    parser.add_argument("--output", type=Path, default=Path("data.json"), help="where the JSON goes")
    options = parser.parse_args()
    result = main(options.count, options.side)
    for name, rate in result["triplets_per_second"].items():
        print(f"{name:10s} {rate:10,.0f} triplets/s {result['ratio'][name]:8.1f} ×")
    options.output.write_text(json.dumps(result, indent=1) + "\n")
