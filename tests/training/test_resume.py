"""Runs that are killed, told to stop, or fail: what is left of them, and what comes of it."""

import csv
import os
import runpy
import signal
import subprocess
import sys
import time
from contextlib import suppress
from importlib import import_module
from pathlib import Path

import app
import numpy as np
import pytest
import timm
import torch

from perceptual.training import resume
from perceptual.training.module import PerceptualRanker, read_checkpoint
from perceptual.training.resume import AtomicCheckpointIO, random_state, set_random_state

SETTINGS = (
    *(
        "data=manifest",
        "data.size=32",
        "data.batch_size=10",
        "backbone.name=test_resnet",
        "backbone.weights=null",
    ),
    *("trainer.accelerator=cpu", "trainer.devices=1", "model.lr=0.01", "callbacks.last.steps=1"),
)


@pytest.fixture(autouse=True, scope="module")
def _imported():
    """Import what train.py does, once: the processes that are forked here need not do so again."""
    for name in (
        "train",
        "callbacks",
        "timm",
        "torchvision",
        "matplotlib.pyplot",
        "pytorch_lightning.loggers",
    ):
        import_module(name)


@pytest.fixture
def folder(tmp_path, monkeypatch) -> Path:
    monkeypatch.chdir(tmp_path)
    app.write_manifest(tmp_path / "set", rows=120)  # 9 batches an epoch
    return tmp_path


def start(runs: str, *arguments: str) -> int:
    """Run train.py in a process of its own; its id."""
    if pid := os.fork():
        return pid
    status = 1
    try:
        sys.stdout = sys.stderr = Path(f"{runs}.log").open("a")  # noqa: SIM115
        sys.argv = ["train.py", f"runs={runs}", "data.path=set/triplets.csv", *SETTINGS, *arguments]
        sys.path.insert(0, str(app.ROOT))
        runpy.run_path(str(app.ROOT / "train.py"), run_name="__main__")
        status = 0
    except SystemExit as stop:
        status = stop.code if isinstance(stop.code, int) else print(stop.code) or int(stop.code is not None)
    finally:
        sys.stdout.flush()
        os._exit(status)


def finish(pid: int) -> int:
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def last(runs: str) -> Path | None:
    found = []
    with suppress(FileNotFoundError):  # a folder of logs that is moved aside
        found = list(Path(runs).glob("**/checkpoints/last.ckpt"))
    return max(found, key=lambda path: path.stat().st_mtime_ns, default=None)


def when_saved(pid: int, runs: str, times: int) -> None:
    """Wait until the last checkpoint was replaced some more times, or the process has ended."""
    seen, deadline = set(), time.monotonic() + 120
    while len(seen) <= times and time.monotonic() < deadline:
        newest = last(runs)
        seen.add((newest, newest.stat().st_ino) if newest else None)
        if os.waitid(os.P_PID, pid, os.WEXITED | os.WNOHANG | os.WNOWAIT):
            return
        time.sleep(0.0005)


def wait_for(path: Path) -> None:
    deadline = time.monotonic() + 120
    while not path.exists():
        assert time.monotonic() < deadline, f"no {path}"
        time.sleep(0.005)


def assert_same(one: Path, other: Path) -> None:
    one, other = read_checkpoint(one), read_checkpoint(other)
    assert one["global_step"] == other["global_step"]
    assert all(torch.equal(one["state_dict"][key], value) for key, value in other["state_dict"].items())
    for ours, theirs in zip(*(c["optimizer_states"][0]["state"].values() for c in (one, other)), strict=True):
        assert all(torch.equal(ours[key], value) for key, value in theirs.items())
    for key in ("lr_schedulers", "epoch"):
        assert one[key] == other[key]


KILLS = [
    pytest.param("lin", ("model.schedule=cosine",), 2, id="lin-cached"),
    pytest.param("lin", (), 10, id="lin-cached-ten", marks=pytest.mark.slow),
    pytest.param("lin", ("data.cache=off",), 10, id="lin-images-ten", marks=pytest.mark.slow),
    pytest.param("tune", ("data.num_workers=1",), 10, id="tune-ten", marks=pytest.mark.slow),
    pytest.param("lin", ("averaging=ema", "model.schedule=cosine"), 10, id="ema-ten", marks=pytest.mark.slow),
    pytest.param("tune", ("robust=fast", "robust.warmup=0.5"), 2, id="robust", marks=pytest.mark.slow),
]


@pytest.mark.parametrize(("variant", "more", "kills"), KILLS)
def test_a_run_killed_again_and_again_ends_as_if_it_had_not_been(folder, variant, more, kills):
    # 45 batches per epoch, so that most moments are inside one
    epochs = 2 if kills == 2 else 4
    arguments = (f"model={variant}", f"trainer.max_epochs={epochs}", "data.batch_size=2", *more)
    assert finish(start("whole", *arguments)) == 0
    rng, within = np.random.default_rng(0), 0
    for _ in range(kills):
        pid = start("killed", *arguments, *(["ckpt=last"] if last("killed") else []))
        when_saved(pid, "killed", int(rng.integers(2, 4)))
        time.sleep(rng.uniform(0, 0.02))
        os.kill(pid, signal.SIGKILL)
        assert finish(pid) == -signal.SIGKILL, "it had ended before"
        within += read_checkpoint(last("killed"))["global_step"] % 45 != 0
    assert within >= kills / 2
    assert finish(start("killed", *arguments, "ckpt=last")) == 0
    assert_same(last("killed"), last("whole"))
    assert_same(last("killed").with_name("best.ckpt"), last("whole").with_name("best.ckpt"))
    assert "not resumable" not in Path("killed.log").read_text()


@pytest.mark.slow
def test_steps_that_end_a_run_may_be_raised(folder):
    # 9 batches an epoch: it ends with one, then within one
    arguments = (
        "model=lin",
        "trainer.max_epochs=6",
        "model.augmentation=[swap]",
        "callbacks.last.steps=null",
    )
    assert finish(start("whole", *arguments, "trainer.max_steps=27")) == 0
    for number, steps in enumerate((9, 13, 27)):
        more = ["ckpt=last"] if number else []
        assert finish(start("raised", *arguments, f"trainer.max_steps={steps}", *more)) == 0
    assert_same(last("raised"), last("whole"))


def test_sigterm_leaves_a_checkpoint_to_go_on_from(folder):
    arguments = ("model=lin", "trainer.max_epochs=300", "callbacks.last.steps=20")
    pid = start("told", *arguments)
    when_saved(pid, "told", 2)
    os.kill(pid, signal.SIGTERM)
    assert finish(pid) == 128 + signal.SIGTERM
    assert read_checkpoint(last("told"))["global_step"] > 0
    assert "ckpt=last goes on from" in Path("told.log").read_text()


@pytest.mark.slow
def test_slurm_preempts_a_job_and_starts_it_again(folder, monkeypatch):
    arguments = ("model=lin", "trainer.max_epochs=30", "model.schedule=cosine", "callbacks.last.steps=10")
    assert finish(start("whole", *arguments)) == 0
    job = {"JOB_ID": "42", "JOB_NAME": "train", "NTASKS": "1", "PROCID": "0", "LOCALID": "0", "NODEID": "0"}
    for name, value in job.items():
        monkeypatch.setenv(f"SLURM_{name}", value)
    scontrol = folder / "bin/scontrol"  # stands in for the one that asks SLURM
    scontrol.parent.mkdir()
    scontrol.write_text('#!/bin/sh\necho "$@" >> asked\n')
    scontrol.chmod(0o755)
    monkeypatch.setenv("PATH", str(scontrol.parent), prepend=os.pathsep)

    command = ("job", *arguments, "hydra.run.dir=job/42")
    pid = start(*command)
    when_saved(pid, "job", 2)
    os.kill(pid, signal.SIGUSR1)
    wait_for(folder / "asked")
    os.kill(pid, signal.SIGTERM)  # as SLURM does when it was asked
    assert finish(pid) == 128 + signal.SIGTERM
    assert Path("asked").read_text() == "requeue 42\n"
    assert 0 < read_checkpoint("job/42/hpc_ckpt_1.ckpt")["global_step"] < 270

    monkeypatch.setenv("SLURM_RESTART_COUNT", "1")
    pid = start(*command)
    when_saved(pid, "job", 2)
    os.kill(pid, signal.SIGKILL)  # a node that fails
    finish(pid)
    assert finish(start(*command)) == 0
    assert_same(last("job"), last("whole"))
    said = Path("job.log").read_text()
    assert said.count("SIGUSR1: saved, and asking SLURM to start the job again") == 1
    assert said.count("Resumed   ") == 2
    assert "Traceback" not in said


def test_a_run_goes_on_when_nobody_reads_what_it_prints(folder):
    """As in `train.py … | head`."""
    reader, writer = os.pipe()
    if (pid := os.fork()) == 0:
        os.close(reader)
        for stream in (1, 2):
            os.dup2(writer, stream)
        sys.stdout, sys.stderr = (open(stream, "w", closefd=False) for stream in (1, 2))  # noqa: SIM115
        sys.__stdout__, sys.__stderr__ = sys.stdout, sys.stderr
        signal.signal(signal.SIGPIPE, signal.SIG_IGN)  # as Python starts
        status = 1
        try:
            sys.argv = [
                "train.py",
                "data.path=set/triplets.csv",
                *SETTINGS,
                "model=lin",
                "trainer.max_epochs=2",
            ]
            sys.path.insert(0, str(app.ROOT))
            runpy.run_path(str(app.ROOT / "train.py"), run_name="__main__")
            status = 0
        finally:
            os._exit(status)
    os.close(writer)
    os.close(reader)  # nobody has read a line
    assert finish(pid) == 0
    assert list(Path("runs").glob("*/*/scores.json"))
    assert not list(Path("runs").glob("*/*/failed"))


def test_a_full_disk_leaves_the_checkpoint_before(folder, monkeypatch, capsys):
    fsync, calls = os.fsync, []

    def full(descriptor):
        calls.append(descriptor)
        if len(calls) > 4:
            raise OSError(28, "No space left on device")
        fsync(descriptor)

    monkeypatch.setattr(resume.os, "fsync", full)
    message = refused(monkeypatch, capsys)
    assert "cannot write checkpoint" in message
    assert "No space left on device; the one before is complete; ckpt=last goes on from" in message
    assert read_checkpoint(last("runs"))["global_step"] == 2
    assert not list(Path("runs").glob("**/*.part"))


def test_a_file_that_may_not_grow_is_named_and_the_old_one_stays(tmp_path):
    path = tmp_path / "last.ckpt"
    AtomicCheckpointIO().save_checkpoint({"step": 1}, path)
    if (pid := os.fork()) == 0:
        import resource

        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))
        try:
            AtomicCheckpointIO().save_checkpoint({"step": torch.zeros(10**6)}, path)
        except OSError as error:
            os._exit(42 if "File too large; the one before is complete" in str(error) else 43)
        os._exit(44)
    assert finish(pid) == 42
    assert torch.load(path) == {"step": 1}
    assert [file.name for file in tmp_path.iterdir()] == ["last.ckpt"]


def test_a_logger_that_raises_is_one_line(folder, monkeypatch, capsys):
    from pytorch_lightning.loggers import CSVLogger

    log = CSVLogger.log_metrics

    def broken(self, metrics, step=None):
        if step and step >= 5:
            raise RuntimeError("the server\nis gone")
        log(self, metrics, step)

    monkeypatch.setattr(CSVLogger, "log_metrics", broken)
    message = refused(monkeypatch, capsys, "trainer.log_every_n_steps=1")
    assert "RuntimeError: the server is gone (see " in message
    assert len(message.splitlines()) == 1
    assert "RuntimeError" in next(Path("runs").glob("*/*/error.txt")).read_text()
    assert read_checkpoint(last("runs"))["global_step"] >= 5


def test_a_loss_that_is_not_finite_leaves_the_checkpoint_before(folder, monkeypatch, capsys):
    step = PerceptualRanker.optimizer_step

    def poisoned(self, *arguments, **keywords):
        step(self, *arguments, **keywords)
        if self.global_step == 4:
            self.distance.lin[0].data.fill_(float("nan"))

    monkeypatch.setattr(PerceptualRanker, "optimizer_step", poisoned)
    message = refused(monkeypatch, capsys, "callbacks.last.steps=3")
    assert "nan" in message or "not finite" in message
    saved = read_checkpoint(last("runs"))
    assert saved["global_step"] == 3
    assert all(value.isfinite().all() for key, value in saved["state_dict"].items() if ".lin." in key)


@pytest.mark.parametrize(
    ("argument", "says"),
    [
        ("callbacks.last.minutes=0", "callbacks.last.minutes must be positive or null, got 0"),
        ("callbacks.last.steps=-1", "callbacks.last.steps must be positive or null, got -1"),
        ("trainer.max_epochs=-2", "max_epochs"),
        ("trainer.accumulate_grad_batches=0", "accumulate_grad_batches"),
        ("trainer.precision=8", "precision"),
        ("trainer.limit_train_batches=1.5", "limit_train_batches"),
    ],
)
def test_values_out_of_range_are_one_line(folder, monkeypatch, capsys, argument, says):
    assert says in refused(monkeypatch, capsys, argument)
    assert last("runs") is None


def refused(monkeypatch, capsys, *arguments: str) -> str:
    command = ("data.path=set/triplets.csv", *SETTINGS, "model=lin", "trainer.max_epochs=2", *arguments)
    return app.refusal("train.py", *command, monkeypatch=monkeypatch, capsys=capsys)


def test_generators_come_back():
    state = random_state()
    drawn = []
    for _ in range(2):
        set_random_state(state)
        drawn.append((torch.rand(3).tolist(), np.random.rand(3).tolist()))  # noqa: NPY002  # the global one
    assert drawn[0] == drawn[1]


def scores(run: Path) -> list[float]:
    with (run.parents[1] / "logs/metrics.csv").open() as file:
        return [float(row["val/2afc/mean"]) for row in csv.DictReader(file) if row["val/2afc/mean"]]


LIN = ["model=lin"]
TUNE = [
    "model=tune",
    "model.backbone_lr_factor=0.01",
    "backbone.weights=net.pt",
    "data.size=null",
    "data.crop=24",
]

# each process draws its own starts, which nothing tells apart in so small a ball
ROBUST = [*TUNE, "robust=fast", "robust.images=all", "robust.radius=1e-7"]


@pytest.mark.slow
@pytest.mark.parametrize(("epochs", "model"), [(2, LIN), (29, LIN), (2, TUNE), (2, ROBUST)])  # of 7 steps
def test_two_processes_train_as_one(folder, epochs, model):
    # with weights, batch normalisation keeps its statistics; of random ones each process has its own
    torch.save(timm.create_model("test_resnet").state_dict(), "net.pt")
    common = (
        # each process draws its own dropout and views
        *(*model, "model.lin_init=ones", "model.dropout=0", "data.views=0"),
        *("data.batch_size=13", f"trainer.max_epochs={epochs}"),
    )
    words = [word for word in SETTINGS if word not in ("trainer.devices=1", "data.batch_size=10")]
    words = ["data.path=set/triplets.csv", *words, "callbacks.last.steps=null", *common]
    assert finish(start("one", "callbacks.last.steps=null", *common)) == 0
    two = [
        sys.executable,
        "-W",
        "ignore",
        str(app.ROOT / "train.py"),
        "runs=two",
        "trainer.strategy=ddp",
        *words,
    ]
    done = subprocess.run([*two, "trainer.devices=2"], capture_output=True, text=True, timeout=280)
    assert done.returncode == 0, done.stderr
    one, two = (read_checkpoint(last(runs)) for runs in ("one", "two"))
    assert one["global_step"] == two["global_step"] == 7 * epochs
    lin = [key for key in one["state_dict"] if ".lin." in key]
    for key, weights in one["state_dict"].items():
        atol = 1e-5 if ".lin." in key else 2e-4 if model is ROBUST else 5e-5
        torch.testing.assert_close(two["state_dict"][key], weights, atol=atol, rtol=0)
    assert max((one["state_dict"][key] - 1).abs().max() for key in lin) > 100 * 1e-5
    np.testing.assert_allclose(scores(last("two")), scores(last("one")), atol=1e-6)
