"""Runs of two processes that are killed, told to stop, or fail."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import app
import pytest
from test_resume import SETTINGS, assert_same, last

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]
WORDS = ("data.path=set/triplets.csv", *SETTINGS, "trainer.strategy=ddp", "trainer.devices=2", "model=lin")


@pytest.fixture
def folder(tmp_path, monkeypatch) -> Path:
    monkeypatch.chdir(tmp_path)
    app.write_manifest(tmp_path / "set", rows=120)  # 9 batches an epoch
    return tmp_path


def start(runs: str, *arguments: str, path: str = "") -> subprocess.Popen:
    """Run train.py as the first process of a group of its own; `path` is looked for modules first."""
    return subprocess.Popen(
        [sys.executable, "-W", "ignore", str(app.ROOT / "train.py"), f"runs={runs}", *WORDS, *arguments],
        env=os.environ | {"PYTHONPATH": f"{path}:{app.ROOT}", "OMP_NUM_THREADS": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )


def finish(process: subprocess.Popen) -> str:
    """What was said, when all processes of the group have ended."""
    said, _ = process.communicate(timeout=200)
    deadline = time.monotonic() + 20
    while group(process.pid):
        assert time.monotonic() < deadline, "a process is left"
        time.sleep(0.1)
    assert "Traceback" not in said
    return said


def group(leader: int) -> list[int]:
    """Processes of a group that have not ended."""
    found = []
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            state, _, number = path.read_text().rpartition(")")[2].split()[:3]
        except OSError:
            continue
        if int(number) == leader and state != "Z":
            found.append(int(path.parent.name))
    return found


def when_saved(process: subprocess.Popen, runs: str, times: int) -> None:
    """Wait until the last checkpoint was replaced some more times."""
    seen, deadline = set(), time.monotonic() + 120
    while len(seen) <= times and time.monotonic() < deadline and process.poll() is None:
        newest = last(runs)
        seen.add((newest, newest.stat().st_ino) if newest else None)
        time.sleep(0.001)


def test_a_run_of_two_that_is_killed_again_and_again_ends_as_if_it_had_not_been(folder):
    arguments = ("trainer.max_epochs=4", "model.schedule=cosine", "data.batch_size=5")
    whole = start("whole", *arguments)
    said = finish(whole)
    assert whole.returncode == 0, said
    for number in range(2):
        process = start("killed", *arguments, *(["ckpt=last"] if number else []))
        when_saved(process, "killed", 5 + 15 * number)
        os.killpg(process.pid, signal.SIGKILL)
        finish(process)
    process = start("killed", *arguments, "ckpt=last")
    said = finish(process)
    assert process.returncode == 0, said
    assert_same(last("killed"), last("whole"))
    # what the first process alone makes and says
    run = last("whole").parents[1]
    assert {path.name for path in run.glob("reports/*")} == {
        *("lin.png", "preference.png", "preference.csv", "disagreements.png", "disagreements.csv")
    }
    assert len(list(run.glob("results/*/scored/*/row.json"))) == 1
    assert json.loads((run / "scores.json").read_text())["trained"]["mean"] > 0.5
    assert len(list(Path("whole").glob("*/*"))) == 1
    assert said.count("uncalibrated") == said.count("epoch 4/4") == 1


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT], ids=["sigterm", "ctrl-c"])
def test_a_run_of_two_that_is_told_to_stop_stops_in_both(folder, number):
    process = start("told", "trainer.max_epochs=400", "callbacks.last.steps=20")
    when_saved(process, "told", 2)
    # a terminal sends Ctrl-C to both; whoever ends a job may know the first alone
    (os.killpg if number == signal.SIGINT else os.kill)(process.pid, number)
    said = finish(process)
    assert process.returncode == 128 + number
    assert said.count("Interrupted: ckpt=last goes on from") == 1
    assert said.count("Stopping after this step") == (number == signal.SIGINT)
    assert "error" not in said.lower()


@pytest.mark.parametrize("rank", [0, 1])
def test_a_process_that_fails_ends_both(folder, rank):
    patch = folder / "patch/sitecustomize.py"  # which every Python imports as it starts
    patch.parent.mkdir()
    patch.write_text(
        "from perceptual.training.module import PerceptualRanker\n"
        "step = PerceptualRanker.training_step\n"
        "def failing(self, batch, batch_idx):\n"
        f"    if self.global_rank == {rank} and self.global_step == 12:\n"
        "        raise RuntimeError('a device is gone')\n"
        "    return step(self, batch, batch_idx)\n"
        "PerceptualRanker.training_step = failing\n"
    )
    process = start("failed", "trainer.max_epochs=4", path=str(patch.parent))
    said = finish(process)
    assert process.returncode != 0
    assert said.count("RuntimeError: a device is gone") == 1


def test_what_fails_in_both_is_said_once(folder):
    process = start("failed", "callbacks.guard.floor=0.5", "model.lr=1e30", "trainer.max_epochs=30")
    said = finish(process)
    assert process.returncode == 1, said
    assert said.count("error: ") == 1
