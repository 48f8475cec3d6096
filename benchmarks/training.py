"""Triplets per second of training at 64 pixels: `lpips.Trainer` and ours, and ours in bfloat16.

    python -m benchmarks.training [--steps 12] [--output training.json]

Both train the same AlexNet from the same random weights on the same batches of 50 (noise; the content of the
images does not matter), all weights, by Adam: what `model=tune` and `model=scratch` do. Ours runs under
Lightning as train.py runs it, its loop and loader in the time. They take turns step by step, and the median
step counts. First the numbers are compared: both give the same distances. Then ours tunes a VGG16 with
`trainer.precision=32-true` and with `bf16-mixed`, in short runs by turns.
"""

import argparse
import json
import math
import os
import statistics
import time
from itertools import pairwise
from pathlib import Path
from typing import Any

import lpips
import pytorch_lightning as pl
import torch
from torch.utils.data import DataLoader

from perceptual.data import TWO_AFC, Batch
from perceptual.training.module import PerceptualRanker

BATCH, SIDE = 50, 64
WARMUP = 3  # steps of each that are not timed
ROUNDS = 3  # runs of each precision
# a network whose convolutions take most of the time; in small batches, since a step takes seconds
MIXED, MIXED_BATCH = "vgg16", 8


def make_batch(seed: int, count: int = BATCH) -> Batch:
    """Triplets of noise with random judgments."""
    generator = torch.Generator().manual_seed(seed)
    ref, p0, p1 = torch.rand(3, count, 3, SIDE, SIDE, generator=generator)
    judgment = torch.rand(count, generator=generator)
    return Batch(
        TWO_AFC,
        torch.cat([ref, p0, p1]),
        None,
        judgment,
        torch.ones(count),
        torch.zeros(count, dtype=torch.long),
    )


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


def check(ranker: PerceptualRanker, trainer: lpips.Trainer, batch: Batch) -> None:
    """Both give one distance of each pair."""
    trainer.net.eval()
    with torch.no_grad():
        ref, p0 = batch.role("ref"), batch.role("p0")
        expected = trainer.net(2 * ref - 1, 2 * p0 - 1).flatten()
        torch.testing.assert_close(ranker.eval()(ref, p0), expected, atol=1e-5, rtol=1e-4)
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
        batch: Batch,
        batch_idx: int,
    ) -> None:
        """End the time of our step, take theirs, and begin the time of our next one."""
        self.ours.append(time.perf_counter() - self.since)
        data = {key: 2 * batch.role(key) - 1 for key in ("ref", "p0", "p1")} | {"judge": batch.answer}
        start = time.perf_counter()
        self.reference.set_input(data)
        self.reference.optimize_parameters()
        self.since = time.perf_counter()
        self.theirs.append(self.since - start)


class Clock(pl.Callback):
    """Times the steps, from the end of one to the end of the next."""

    def __init__(self) -> None:
        self.ends: list[float] = []

    def on_train_batch_end(self, *args: Any) -> None:
        """Note the end of a step."""
        self.ends.append(time.perf_counter())

    def seconds(self) -> list[float]:
        """The time of each step but those that warm up."""
        return [end - start for start, end in pairwise(self.ends)][WARMUP - 1 :]


def fit(
    ranker: PerceptualRanker, batches: list[Batch], callback: pl.Callback, precision: Any = "32-true"
) -> None:
    """Train on each batch once as train.py does, without files and output."""
    trainer = pl.Trainer(
        max_epochs=1,
        accelerator="cpu",
        precision=precision,
        callbacks=[callback],
        logger=False,
        enable_checkpointing=False,
        enable_model_summary=False,
        enable_progress_bar=False,
    )
    trainer.fit(ranker, DataLoader(batches, batch_size=None))  # type: ignore[arg-type]


def beside_lpips(steps: int) -> dict[str, float]:
    """Triplets per second of the reference and of ours."""
    torch.manual_seed(0)
    ranker = PerceptualRanker({"name": "alexnet", "weights": None}, "scratch")
    reference = reference_trainer(ranker)
    check(ranker, reference, make_batch(0))
    beside = Beside(reference)
    fit(ranker, [make_batch(seed) for seed in range(WARMUP + steps)], beside)
    taken = {"reference": beside.theirs, "ours": beside.ours}
    return {name: BATCH / statistics.median(seconds[WARMUP:]) for name, seconds in taken.items()}


def by_precision(steps: int) -> dict[str, float]:
    """Triplets per second of `model=tune` by precision of the trainer."""
    batches = [make_batch(seed, MIXED_BATCH) for seed in range(WARMUP + math.ceil(steps / ROUNDS))]
    taken: dict[str, list[float]] = {"32-true": [], "bf16-mixed": []}
    for _ in range(ROUNDS):
        for precision, seconds in taken.items():
            torch.manual_seed(0)
            ranker, clock = PerceptualRanker({"name": MIXED, "weights": None}, "tune"), Clock()
            fit(ranker, batches, clock, precision)
            seconds += clock.seconds()
    return {precision: MIXED_BATCH / statistics.median(seconds) for precision, seconds in taken.items()}


def main(steps: int) -> dict[str, Any]:
    """Triplets per second, and the ratios."""
    rates, precisions = beside_lpips(steps), by_precision(steps)
    setting = {"batch": BATCH, "side": SIDE, "steps": steps, "threads": torch.get_num_threads()}
    return {
        "setting": setting | {"cores": os.cpu_count()},
        "triplets_per_second": rates | precisions,
        "ratio": rates["ours"] / rates["reference"],
        "bf16_gain": precisions["bf16-mixed"] / precisions["32-true"],
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
    print(f"{'ratio':10s} {result['ratio']:8.2f} × the reference")
    print(f"{'gain':10s} {result['bf16_gain']:8.2f} × by trainer.precision=bf16-mixed")
    options.output.write_text(json.dumps(result, indent=1) + "\n")
