"""Triplets a second of training an AlexNet at 64 pixels: `lpips.Trainer` and ours, in one run.

    python -m benchmarks.training [--steps 12] [--output training.json]

Both train the same network from the same random weights on the same batches of 50 (noise; what is in the
images costs nothing), all weights, by Adam: what `model=tune` and `model=scratch` do. Ours runs under
Lightning as train.py runs it, its loop and loader in the time. They take turns step by step, and the median
step counts. First the numbers are compared: both give the same distances.
"""

import argparse
import json
import os
import statistics
import time
from pathlib import Path
from typing import Any

import lpips
import pytorch_lightning as pl
import torch
from torch.utils.data import DataLoader

from perceptual.data import TripletBatch
from perceptual.training.module import PerceptualRanker

BATCH, SIDE = 50, 64
WARMUP = 3  # steps of each that are not timed


def make_batch(seed: int) -> TripletBatch:
    """Triplets of noise with random judgments."""
    generator = torch.Generator().manual_seed(seed)
    ref, p0, p1 = torch.rand(3, BATCH, 3, SIDE, SIDE, generator=generator)
    judgment = torch.rand(BATCH, generator=generator)
    return TripletBatch(ref, p0, p1, judgment, torch.ones(BATCH), torch.zeros(BATCH, dtype=torch.long))


def reference_trainer(ranker: PerceptualRanker) -> lpips.Trainer:
    """The package's trainer with the weights of ours."""
    trainer = lpips.Trainer()
    trainer.initialize(net="alex", pnet_rand=True, pnet_tune=True, use_gpu=False, is_train=True)
    network = trainer.net.net.state_dict()
    ours = ranker.distance.backbone.net.state_dict()
    for value, other in zip(network.values(), ours.values(), strict=True):
        value.copy_(other)
    for layer, vector in zip(trainer.net.lins, ranker.distance.lin, strict=True):
        layer.model[1].weight.data = vector.detach().clone().view(1, -1, 1, 1)
    return trainer


def check(ranker: PerceptualRanker, trainer: lpips.Trainer, batch: TripletBatch) -> None:
    """Both give one distance of each pair."""
    trainer.net.eval()
    with torch.no_grad():
        expected = trainer.net(2 * batch.ref - 1, 2 * batch.p0 - 1).flatten()
        torch.testing.assert_close(ranker.eval()(batch.ref, batch.p0), expected, atol=1e-5, rtol=1e-4)
    trainer.net.train()


class Beside(pl.Callback):
    """Times our steps, and after each takes one of the reference on the same batch and times it too."""

    def __init__(self, trainer: lpips.Trainer) -> None:
        self.reference = trainer
        self.ours: list[float] = []
        self.theirs: list[float] = []
        self.since = time.perf_counter()

    def on_train_batch_end(
        self,
        trainer: pl.Trainer,
        pl_module: pl.LightningModule,
        outputs: Any,
        batch: TripletBatch,
        batch_idx: int,
    ) -> None:
        """End the time of our step, take theirs, and begin the time of our next one."""
        self.ours.append(time.perf_counter() - self.since)
        data = {key: 2 * getattr(batch, key) - 1 for key in ("ref", "p0", "p1")} | {"judge": batch.judgment}
        start = time.perf_counter()
        self.reference.set_input(data)
        self.reference.optimize_parameters()
        self.since = time.perf_counter()
        self.theirs.append(self.since - start)


def main(steps: int) -> dict[str, Any]:
    """Triplets a second of both, and the ratio."""
    torch.manual_seed(0)
    ranker = PerceptualRanker({"name": "alexnet", "weights": None}, "scratch")
    batches = [make_batch(seed) for seed in range(WARMUP + steps)]
    reference = reference_trainer(ranker)
    check(ranker, reference, batches[0])
    beside = Beside(reference)
    quiet = {"logger": False, "enable_checkpointing": False, "enable_model_summary": False}
    trainer = pl.Trainer(
        max_epochs=1, accelerator="cpu", callbacks=[beside], enable_progress_bar=False, **quiet
    )
    trainer.fit(ranker, DataLoader(batches, batch_size=None))
    rates = {
        name: BATCH / statistics.median(taken[WARMUP:])
        for name, taken in (("reference", beside.theirs), ("ours", beside.ours))
    }
    setting = {"batch": BATCH, "side": SIDE, "steps": steps, "threads": torch.get_num_threads()}
    return {
        "setting": setting | {"cores": os.cpu_count()},
        "triplets_per_second": rates,
        "ratio": rates["ours"] / rates["reference"],
    }


if __name__ == "__main__":
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--steps", type=int, default=12, help="timed steps of each")
    parser.add_argument("--output", type=Path, default=Path("training.json"), help="where the JSON goes")
    options = parser.parse_args()
    result = main(options.steps)
    for name, rate in result["triplets_per_second"].items():
        print(f"{name:10s} {rate:8.1f} triplets/s")
    print(f"{'ratio':10s} {result['ratio']:8.2f} ×")
    options.output.write_text(json.dumps(result, indent=1) + "\n")
