"""Processes that are started anew, as they are on macOS, on Windows, and by default from Python 3.14."""

import os
import pickle
import subprocess
import sys
from pathlib import Path

import app
import pytest
import torch

from perceptual.data import ManifestDataModule, pack, read_manifest

PROGRAM = """
import multiprocessing
import sys

import pytorch_lightning as pl
import torch

from perceptual import PerceptualRanker
from perceptual.data import TWO_AFC, ManifestDataModule
from perceptual.data.synthetic.making import make_items
from perceptual.data.synthetic.photographs import packaged


def main(method, processes):
    multiprocessing.set_start_method(method)
    workers = 1 if processes > 1 else 0
    data = ManifestDataModule("set/triplets.csv", size=32, batch_size=10, num_workers=workers)
    pl.seed_everything(0, verbose=False)
    ranker = PerceptualRanker({"name": "test_resnet", "weights": None}, dropout=0.0, lr=0.01)
    strategy = "ddp_spawn" if processes > 1 else "auto"  # its processes have the method, too
    quiet = {"logger": False, "enable_progress_bar": False, "enable_checkpointing": False}
    trainer = pl.Trainer(accelerator="cpu", devices=processes, strategy=strategy, max_epochs=1, **quiet)
    trainer.fit(ranker, data)
    made = make_items(TWO_AFC, packaged(), 8, seed=0, size=32, workers=processes).images
    if trainer.is_global_zero:
        lin = [vector.detach() for vector in ranker.distance.lin]
        torch.save({"lin": lin, "made": made.batch(torch.arange(24))}, f"{method}-{processes}.pt")


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]))
"""


def start(*command: object, path: Path = app.ROOT) -> None:
    environment = os.environ | {"PYTHONPATH": f"{path}:{app.ROOT}", "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, "-W", "ignore", *map(str, command)],
        env=environment,
        capture_output=True,
        text=True,
        timeout=400,
    )
    assert done.returncode == 0, done.stderr


@pytest.fixture
def folder(tmp_path, monkeypatch) -> Path:
    monkeypatch.chdir(tmp_path)
    app.write_manifest(tmp_path / "set", rows=40)
    return tmp_path


def test_what_a_worker_is_given_can_be_pickled(folder):
    """Files, a store, and pixels in memory: batches of the copy are those of the original."""
    pack(read_manifest("set/triplets.csv"), folder / "store", "set", 32, workers=1)
    for path, size in (("set/triplets.csv", 32), ("set/triplets.csv", None), ("store", 32)):
        data = ManifestDataModule(path, size=size, batch_size=10, num_workers=0)
        data.setup("fit")
        copy = pickle.loads(pickle.dumps(data.train_set))
        assert torch.equal(copy.__getitems__([0, 3]).images, data.train_set.__getitems__([0, 3]).images)


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize("method", ["spawn", "forkserver"])
def test_programs_make_read_and_train_in_processes(folder, method):
    Path("program.py").write_text(PROGRAM, "utf-8")
    found = []
    for processes in (1, 2):
        start("program.py", method, processes)
        found.append(torch.load(f"{method}-{processes}.pt"))
    for one, two in zip(*(result["lin"] for result in found), strict=True):
        assert one.std() > 0  # it was trained
        torch.testing.assert_close(one, two)
    assert torch.equal(*(result["made"] for result in found))


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize("method", ["spawn", "forkserver"])
def test_the_script_trains_in_processes(folder, method):
    Path("patch").mkdir()  # Python imports this as it starts
    set_method = f"import multiprocessing\nmultiprocessing.set_start_method({method!r}, force=True)\n"
    Path("patch/sitecustomize.py").write_text(set_method)
    words = ("data=manifest", "data.path=set/triplets.csv", "data.size=32", "data.num_workers=1")
    network = ("backbone=test_resnet", "backbone.weights=null", "model=tune", "data.cache=off")
    several = ("trainer.strategy=ddp", "trainer.devices=2", "trainer.accelerator=cpu", "trainer.max_epochs=1")
    start(app.ROOT / "train.py", *words, *network, *several, path=folder / "patch")
    assert list(Path("runs").glob("*/*/scores.json"))
