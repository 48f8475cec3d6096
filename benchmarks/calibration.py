"""Ten epochs of `model=lin` against the reference's Trainer, on the same triplets with the same weights.

    python -m benchmarks.calibration [--backbone alexnet] [--count 20000] [--output calibration.json]

`count` triplets of 3 × `count` distinct images of 64×64 lie in a packed store. Ours is `train.py`, a process
of its own from start to end, twice on one cache: with the extraction of features, then with another learning
rate. Of the reference, `lpips.Trainer` as its own script drives it, a slice of `STEPS` steps is timed, its
images in memory, and multiplied up to ten epochs: that is not a full run.
"""

import argparse
import json
import os
import re
import statistics
import subprocess
import sys
import tempfile
import time
import warnings
from dataclasses import replace
from pathlib import Path
from typing import Any

import lpips
import numpy as np
from safetensors.torch import save_file

from perceptual.data.making import make_triplets
from perceptual.data.packing import write_store
from perceptual.data.photos import packaged
from perceptual.data.store import read_store
from perceptual.data.triplets import TripletDataset, TripletTable

NETS = {"alexnet": "alex", "vgg16": "vgg"}
ROOT = Path(__file__).parents[1]
BATCH, EPOCHS, STEPS, VALIDATION = 50, 10, 7, 200


def prepare(folder: Path, count: int) -> Path:
    """A packed store of training and validation triplets; one that is there is taken."""
    if not folder.exists():
        table = make_triplets(packaged(), count + VALIDATION, seed=0)
        subset = (np.arange(len(table)) >= count).astype(np.int64)
        table = replace(table, subset=subset, subsets=["train/photos", "val/photos"])
        write_store(table, folder, "benchmark")
    return folder


def reference(net: str, store: Path) -> tuple[Any, float]:
    """The reference's Trainer, and its seconds a step: the median of `STEPS`, after two that do not count."""
    trainer = lpips.Trainer()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the package builds its networks by torchvision's old arguments
        trainer.initialize(model="lpips", net=net, use_gpu=False, is_train=True, pnet_rand=True)
    data = TripletDataset(read_store(TripletTable, store))
    taken = []
    for step in range(STEPS + 2):
        batch = data.__getitems__(list(range(step * BATCH, (step + 1) * BATCH)))
        images = {role: 2 * getattr(batch, role) - 1 for role in ("ref", "p0", "p1")}
        start = time.perf_counter()
        trainer.set_input({**images, "judge": batch.judgment.view(-1, 1, 1, 1)})
        trainer.optimize_parameters()
        taken.append(time.perf_counter() - start)
    return trainer, statistics.median(taken[2:])


def write_weights(trainer: Any, backbone: str, folder: Path) -> Path:
    """The weights of the reference's network under torchvision's names."""
    state = trainer.net.net.state_dict()
    renamed = {re.sub(r"^slice\d+\.", "features.", key): value.clone() for key, value in state.items()}
    path = folder / f"{backbone}.safetensors"
    save_file(renamed, path)
    return path


def ours(backbone: str, store: Path, weights: Path, place: Path, lr: float) -> float:
    """Seconds of train.py, from its start to its end."""
    choices = [f"backbone={backbone}", f"backbone.weights={weights}", "model=lin", f"model.lr={lr}"]
    data = ["data=bapps", f"data.root={store}", "data.train_subsets=[train/photos]"]
    command = [
        sys.executable,
        "train.py",
        *choices,
        *data,
        "data.val_subsets=[val/photos]",
        f"runs={place}/runs",
    ]
    environment = {**os.environ, "PERCEPTUAL_CACHE": str(place / "cache"), "PYTHONPATH": "."}
    start = time.perf_counter()
    subprocess.run(command, cwd=ROOT, env=environment, check=True, stdout=subprocess.DEVNULL)
    return time.perf_counter() - start


def main(backbone: str, count: int, store: Path | None) -> dict[str, Any]:
    """Seconds of ten epochs by each, and the ratios to the reference."""
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder)
        packed = prepare((store or place / "store").absolute(), count)
        trainer, step = reference(NETS[backbone], packed)
        weights = write_weights(trainer, backbone, place)
        first = ours(backbone, packed, weights, place, lr=1e-4)
        second = ours(backbone, packed, weights, place, lr=2e-4)
    epochs = EPOCHS * -(-count // BATCH) * step
    seconds = {"reference": epochs, "first run": first, "second run": second}
    setting = {"backbone": backbone, "count": count, "reference_step": step, "cores": os.cpu_count()}
    ratios = {name: epochs / taken for name, taken in seconds.items()}
    return {"setting": setting, "seconds": seconds, "ratio": ratios}


if __name__ == "__main__":
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--backbone", choices=list(NETS), default="alexnet")
    parser.add_argument("--count", type=int, default=20_000, help="training triplets")
    parser.add_argument("--store", type=Path, help="where the triplets are kept for the next time")
    parser.add_argument("--output", type=Path, default=Path("calibration.json"), help="where the JSON goes")
    options = parser.parse_args()
    result = main(options.backbone, options.count, options.store)
    for name, seconds in result["seconds"].items():
        print(f"{name:12s} {seconds:10,.1f} s {result['ratio'][name]:8.1f} ×")
    options.output.write_text(json.dumps(result, indent=1) + "\n")
