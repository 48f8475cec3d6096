"""Ten epochs of `model=lin`, beside the `lpips` package's own Trainer: `python -m benchmarks.calibration`.

20,000 triplets of 60,000 distinct images of 64×64 in a packed store, batches of 50, one process, the same
weights. Ours is `train.py` with its default logging, twice on one cache: `first run` is all of it, with the
extraction of features; `fit` is Lightning's `Trainer.fit` of a second run with another learning rate.

Not all is run in full. Of theirs, `STEPS` steps are timed before our runs and as many after, the images in
memory, and the median multiplied up to ten epochs. For a network whose extraction would take many minutes
(all but AlexNet) the cache is filled with random numbers of the right shape, on which the time of the fit
does not depend, and there is no `first run`.
"""

import os
import re
import runpy
import statistics
import sys
import tempfile
import time
from collections.abc import Iterable, Iterator
from contextlib import redirect_stdout
from dataclasses import replace
from pathlib import Path
from typing import Any
from unittest.mock import patch

import lpips
import numpy as np
import pytorch_lightning as pl
import torch
from safetensors.torch import save_file
from torch import Tensor

from benchmarks.timing import NETS, arguments, report, same_weights
from perceptual.data import TWO_AFC, JudgedDataset
from perceptual.data.readers.stores import read_store
from perceptual.data.synthetic.making import make_items
from perceptual.data.synthetic.photographs import packaged
from perceptual.data.writers.stores import write_store
from perceptual.distance.lpips import LPIPS
from perceptual.files.places import cache_folder
from perceptual.training import cache

ROOT = Path(__file__).parents[1]
COUNT, VALIDATION, BATCH, EPOCHS = 20_000, 200, 50, 10
STEPS, WARM = 7, 2
EXTRACTED = ("alexnet",)  # the others take many minutes


def store(count: int = COUNT) -> Path:
    """A packed store of `count` training triplets and some for validation, made once."""
    folder = cache_folder() / f"benchmark-{count}"
    if not folder.exists():
        table = make_items(TWO_AFC, packaged(), count + VALIDATION, seed=0)
        subset = (np.arange(len(table)) >= count).astype(np.int64)
        write_store(
            replace(table, subset=subset, subsets=["train/photos", "val/photos"]), folder, "benchmark"
        )
    return folder


def reference(theirs: lpips.LPIPS, net: str) -> lpips.Trainer:
    """The package's Trainer as its own script makes it, with given weights."""
    trainer = lpips.Trainer()
    trainer.initialize(model="lpips", net=net, use_gpu=False, is_train=True, pnet_rand=True)
    trainer.net.load_state_dict(theirs.state_dict())
    return trainer


def steps(trainer: lpips.Trainer, data: JudgedDataset) -> list[float]:
    """Seconds of each step, after some that are not counted."""
    taken = []
    for step in range(STEPS + WARM):
        batch = data.__getitems__(list(range(step * BATCH, (step + 1) * BATCH)))
        images = {role: 2 * batch.role(role) - 1 for role in batch.kind.roles}
        start = time.perf_counter()
        trainer.set_input({**images, "judge": batch.answer.view(-1, 1, 1, 1)})
        trainer.optimize_parameters()
        taken.append(time.perf_counter() - start)
    return taken[WARM:]


def check_equal(trainer: lpips.Trainer, ours: LPIPS, data: JudgedDataset) -> None:
    """Raise AssertionError unless both give the same distances."""
    batch = data.__getitems__(list(range(8)))
    trainer.net.eval()
    with torch.no_grad():
        ref, p0, p1 = map(batch.role, batch.kind.roles)
        expected = [trainer.forward(2 * ref - 1, 2 * p - 1).flatten() for p in (p0, p1)]
        torch.testing.assert_close(ours.triplet(ref, p0, p1), tuple(expected))
    trainer.net.train()


def write_weights(theirs: lpips.LPIPS, name: str, folder: Path) -> Path:
    """The weights of the package's network under torchvision's names."""
    state = theirs.net.state_dict()
    renamed = {re.sub(r"^slice\d+\.", "features.", key): value.clone() for key, value in state.items()}
    path = folder / f"{name}.safetensors"
    save_file(renamed, path)
    return path


def train(*choices: str) -> tuple[float, float]:
    """Seconds of train.py, as the shell would run it, and of `Trainer.fit` within it."""
    fits = []
    fit = pl.Trainer.fit

    def timed(*args: Any, **kwargs: Any) -> None:
        start = time.perf_counter()
        fit(*args, **kwargs)
        fits.append(time.perf_counter() - start)

    start = time.perf_counter()
    with (
        patch.object(sys, "argv", ["train.py", *choices]),
        patch.object(pl.Trainer, "fit", timed),
        redirect_stdout(sys.stderr),
    ):
        runpy.run_path(str(ROOT / "train.py"), run_name="__main__")
    return time.perf_counter() - start, fits[0]


def made_up(lpips: LPIPS, pairs: Iterable[Tensor], *_: Any) -> Iterator[Tensor]:
    """Random numbers in place of what `cache.mean_differences` computes."""
    for chunk in pairs:
        yield torch.rand(len(chunk), sum(lpips.backbone.channels)) / 100


def measure(name: str) -> dict[str, Any]:
    """Seconds of ten epochs by each, and how many times the package's time is ours."""
    packed = store()
    data = JudgedDataset(read_store(packed))
    theirs, ours = same_weights(name)
    trainer = reference(theirs, NETS[name])
    check_equal(trainer, ours, data)
    taken = steps(trainer, data)
    with tempfile.TemporaryDirectory() as place, patch.dict(os.environ, PERCEPTUAL_CACHE=place):
        choices = [f"backbone={name}", f"backbone.weights={write_weights(theirs, name, Path(place))}"]
        choices += ["experiment=paper_lin", "data=bapps", f"data.root={packed}", f"runs={place}/runs"]
        choices += ["data.train_subsets=[train/photos]", "data.val_subsets=[val/photos]"]
        if name in EXTRACTED:
            first = train(*choices)[0]
        else:
            with patch.object(cache, "mean_differences", made_up):
                train(*choices, "trainer=smoke")
        second = train(*choices, "model.lr=2e-4")[1]
    step = statistics.median(taken + steps(trainer, data))
    whole = step * EPOCHS * -(-COUNT // BATCH)
    return {
        "net": name,
        "lpips step s": step,
        "lpips ten epochs s": whole,
        "first run s": first if name in EXTRACTED else "—",
        "fit s": second,
        "first run faster": whole / first if name in EXTRACTED else "—",
        "fit faster": whole / second,
    }


if __name__ == "__main__":
    options = arguments(__doc__, "calibration.json")
    report(
        [measure(name) for name in options.nets], options.output, epochs=EPOCHS, triplets=COUNT, steps=STEPS
    )
