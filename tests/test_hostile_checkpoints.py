"""Checkpoints and names of others: none of them makes anything run, and what was changed is refused."""

import shutil
import subprocess
import sys
from pathlib import Path

import app
import pytest
import torch

from perceptual.cli import app as command
from perceptual.training import cache, run
from perceptual.training.checkpoints import SHA256, digest, read_checkpoint

SMALL = ("data=manifest", "data.path=set/triplets.csv", "data.size=64", "data.batch_size=10")
NETWORK = ("backbone.name=test_resnet", "backbone.weights=null")
RESUME = (*SMALL, *NETWORK, "trainer.max_epochs=2", *app.NO_PICTURES)
HOSTILE = {
    "subprocess": {"_target_": "subprocess.getoutput", "cmd": "touch ran"},
    "builtin": {"_target_": "builtins.eval", "source": "open('ran', 'w')"},
    "ours": {"_target_": "perceptual.training.module.PerceptualRanker", "backbone": "alexnet"},
    "list": ["_target_", "subprocess.getoutput"],
    "nothing": {},
}


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """The folder of a run with a best checkpoint."""
    folder = tmp_path_factory.mktemp("trained")
    with pytest.MonkeyPatch.context() as monkeypatch:
        monkeypatch.chdir(folder)
        app.write_manifest(folder / "set", rows=20, size=64)
        words = ("trainer.max_epochs=1", "trainer.accelerator=cpu", "hydra.run.dir=run")
        app.run("train.py", *RESUME, *words, monkeypatch=monkeypatch)
    return folder


@pytest.fixture
def theirs(trained, tmp_path, monkeypatch):
    """A copy of the run's last checkpoint, to be changed in a folder of its own."""
    monkeypatch.chdir(tmp_path)
    return torch.load(trained / "run/checkpoints/last.ckpt", weights_only=True)


@pytest.mark.parametrize("described", HOSTILE.values(), ids=HOSTILE.keys())
def test_the_data_of_a_checkpoint_run_nothing(described, theirs, monkeypatch, capsys):
    theirs["datamodule_hyper_parameters"] = described
    theirs[SHA256] = digest(theirs)
    torch.save(theirs, "theirs.ckpt")
    monkeypatch.setattr(subprocess, "getoutput", lambda cmd: Path("ran").touch())
    message = app.refusal("evaluate.py", "ckpt=theirs.ckpt", monkeypatch=monkeypatch, capsys=capsys)
    assert "theirs.ckpt" in message
    assert "which no file may call" in message or described == HOSTILE["list"]
    monkeypatch.setattr(sys, "argv", ["perceptual", "export", "theirs.ckpt", "out"])
    said = ""
    try:
        command()
    except SystemExit as stopped:
        said = str(stopped.code)
    assert "theirs.ckpt" in capsys.readouterr().err + said
    assert not Path("ran").exists()


def put(value, *keys):
    """A change that puts a value somewhere."""

    def change(checkpoint):
        for key in keys[:-1]:
            checkpoint = checkpoint[key]
        checkpoint[keys[-1]] = value

    return change


def flip(*keys):
    """A change of one bit of numbers."""

    def change(checkpoint):
        for key in keys:
            checkpoint = checkpoint[key]
        checkpoint.view(torch.int32)[0] ^= 1 << 21

    return change


def best_score(score):
    """A change of the best score, by whoever also writes the digest anew."""

    def change(checkpoint):
        states = checkpoint["callbacks"].items()
        next(state for name, state in states if name.startswith("BestCheckpoint"))["best_model_score"] = score
        checkpoint[SHA256] = digest(checkpoint)

    return change


FIT = ("loops", "fit_loop", "epoch_progress", "total", "ready")
RANDOM = ("callbacks", "RandomState", "processes", 0, "torch")
OTHER = "was damaged or changed: its SHA-256 is another"
SCORE = "is not a checkpoint of a PerceptualRanker: best_model_score of BestCheckpoint"
CHANGES = {
    "bit": (flip("state_dict", "distance.lin.0"), OTHER),
    "removed": (lambda c: c["state_dict"].pop("ranking.log_slope"), OTHER),
    "extra": (put(torch.ones(1), "state_dict", "more"), OTHER),
    **{
        " ".join(keys): (put(3.5, *keys), "")
        for keys in (
            *(("state_dict",), ("hyper_parameters",), ("backbone",), ("epoch",), ("backbone", "name")),
            *(("backbone", "saved"), ("hyper_parameters", "backbone"), ("datamodule_hyper_parameters",)),
            (SHA256,),
        )
    },
    "form": (put("pooled", "hyper_parameters", "form"), OTHER),
    "no form": (lambda c: c["hyper_parameters"].pop("form"), OTHER),
    "size": (put(32, "datamodule_hyper_parameters", "size"), OTHER),
    "val_fraction": (put(0.5, "datamodule_hyper_parameters", "val_fraction"), OTHER),
    "source": (put("file:/elsewhere", "backbone", "source"), OTHER),
    "callbacks": (flip(*RANDOM), OTHER),
    "optimizer_states": (flip("optimizer_states", 0, "state", 0, "exp_avg"), OTHER),
    "lr_schedulers": (put(99, "lr_schedulers", 0, "last_epoch"), OTHER),
    "loops": (put(99, *FIT), OTHER),
    "data": (put(99, "data", "val", "items"), OTHER),
    "epoch of the run": (put(99, "epoch"), OTHER),
    "global_step": (put(99, "global_step"), OTHER),
    **{
        f"score {score}": (best_score(score), SCORE)
        for score in (torch.tensor(7.0), torch.tensor(float("nan")), "high", torch.ones(2))
    },
}


@pytest.mark.parametrize("how", CHANGES)
def test_a_changed_checkpoint_is_refused(how, theirs):
    """By `read_checkpoint`, which is what every program reads it with."""
    change, says = CHANGES[how]
    change(theirs)
    torch.save(theirs, "theirs.ckpt")
    with pytest.raises(ValueError, match=r"theirs\.ckpt") as error:
        read_checkpoint("theirs.ckpt")
    assert says in str(error.value)
    assert "\n" not in str(error.value)
    assert "not a score in [0, 1]" in str(error.value) or says != SCORE


def test_every_program_refuses_a_changed_checkpoint(trained, theirs, monkeypatch, capsys):
    change, says = CHANGES["bit"]
    change(theirs)
    torch.save(theirs, "theirs.ckpt")
    data = f"data.path={trained}/set/triplets.csv"
    for script, *words in (("evaluate.py",), ("train.py", *SMALL, data)):
        message = app.refusal(script, *words, "ckpt=theirs.ckpt", monkeypatch=monkeypatch, capsys=capsys)
        assert f"theirs.ckpt' {says}" in message
        assert "\n" not in message.strip()


def train(*words, monkeypatch):
    here = ("trainer.accelerator=cpu", "trainer.devices=1", "callbacks.last.steps=1")
    app.run("train.py", *SMALL, *NETWORK, *here, *words, monkeypatch=monkeypatch)


def test_a_run_is_not_mixed_with_another(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    app.write_manifest(tmp_path / "set", rows=20, size=64)
    train("hydra.run.dir=run", "trainer.max_steps=1", monkeypatch=monkeypatch)
    before = Path("run/scores.json").read_bytes()
    words = (*NETWORK, "hydra.run.dir=run")
    message = app.refusal("train.py", *SMALL, *words, monkeypatch=monkeypatch, capsys=capsys)
    assert "holds a run already" in message
    assert "run/checkpoints/last.ckpt to go on with it" in message
    assert Path("run/scores.json").read_bytes() == before
    words = (*words, "ckpt=run/checkpoints/last.ckpt", "trainer.max_steps=2")
    message = app.refusal("train.py", *SMALL, *words, "model.lr=0.5", monkeypatch=monkeypatch, capsys=capsys)
    assert "lr=0.005 there, 0.5 here" in message
    train("hydra.run.dir=run", *words[-2:], monkeypatch=monkeypatch)
    assert torch.load("run/checkpoints/last.ckpt", weights_only=True)["global_step"] == 2


def test_two_runs_are_not_in_one_folder(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    app.write_manifest(tmp_path / "set", rows=20, size=64)
    (tmp_path / "run").mkdir()
    words = (*NETWORK, "hydra.run.dir=run")
    with run.alone_in(tmp_path / "run"):
        message = app.refusal("train.py", *SMALL, *words, monkeypatch=monkeypatch, capsys=capsys)
    assert "hydra.run.dir=" in message
    assert "another process is training there" in message
    train("hydra.run.dir=run", "trainer.max_steps=1", monkeypatch=monkeypatch)
    assert not Path("run/train.lock").exists()


@pytest.mark.parametrize("beside", ["nothing", "a link", "best"])
def test_no_path_in_a_checkpoint_is_believed(beside, trained, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    secret = tmp_path / "home/id_rsa"
    secret.parent.mkdir()
    secret.write_text("secret")
    ckpt = torch.load(trained / "run/checkpoints/last.ckpt", weights_only=True)
    for state in ckpt["callbacks"].values():
        if "best_model_path" in state:
            state |= {
                key: str(secret) for key in ("best_model_path", "kth_best_model_path", "last_model_path")
            }
            state |= {
                "best_model_score": torch.tensor(0.999),
                "best_k_models": {str(secret): torch.tensor(0.9)},
            }
    Path("theirs").mkdir()
    ckpt[SHA256] = digest(ckpt)
    torch.save(ckpt, "theirs/last.ckpt")
    if beside == "a link":
        Path("theirs/best.ckpt").symlink_to(secret)
    elif beside == "best":
        shutil.copy(trained / "run/checkpoints/best.ckpt", "theirs")
    words = (*RESUME, f"data.path={trained}/set/triplets.csv", "ckpt=theirs/last.ckpt", "hydra.run.dir=mine")
    if beside == "a link":
        message = app.refusal("train.py", *words, monkeypatch=monkeypatch, capsys=capsys)
        assert "best.ckpt' cannot be read as a checkpoint" in message
    else:
        app.run("train.py", *words, "trainer.accelerator=cpu", monkeypatch=monkeypatch)
    kept = [path.read_bytes() for path in Path("mine/checkpoints").glob("*")]
    assert b"secret" not in kept
    assert secret.read_text() == "secret"
    if beside == "best":  # the score of the checkpoint goes with the file beside it
        assert (trained / "run/checkpoints/best.ckpt").read_bytes() in kept


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (
            lambda row, line: _invert(line),
            "the training side has 15 triplets, in the checkpoint it had 15 others; the val",
        ),
        (
            lambda row, line: line if row != 1 else None,
            "the training side has 14 triplets, in the checkpoint it had 15;",
        ),
        (
            lambda row, line: line if row != 4 else None,
            "the validation side has 4 triplets, in the checkpoint it had 5;",
        ),
        (lambda row, line: line, None),
    ],
    ids=["inverted", "cut", "cut from validation", "only moved"],
)
def test_data_that_have_changed_are_refused_before_features_are_computed(
    change, says, trained, tmp_path, monkeypatch, capsys
):
    monkeypatch.chdir(tmp_path)
    shutil.copytree(trained / "set", "moved")
    header, *lines = Path("moved/triplets.csv").read_text().splitlines()
    kept = filter(None, [change(row, line) for row, line in enumerate(lines)])
    Path("moved/triplets.csv").write_text("\n".join([header, *kept]))
    words = (
        "data.path=moved/triplets.csv",
        f"ckpt={trained}/run/checkpoints/last.ckpt",
        "trainer.max_epochs=2",
    )
    if says is None:
        return app.run("train.py", *words, "trainer.accelerator=cpu", monkeypatch=monkeypatch)
    monkeypatch.setattr(cache, "cached", None)
    message = app.refusal("train.py", *words, monkeypatch=monkeypatch, capsys=capsys)
    assert f"the data have changed: {says}" in message


def _invert(line: str) -> str:
    ref, p0, p1, judge, *others = line.split(",")
    return ",".join([ref, p0, p1, str(1 - float(judge)), *others])


def test_a_name_that_no_file_can_have_does_not_stop_the_others(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    app.write_manifest(tmp_path / "set", rows=20, size=64)
    words = ("data=manifest", "data.path=set/triplets.csv", f"methods=[l2,{'a' * 300}/{'b' * 300}.ckpt]")
    app.run("evaluate.py", *words, monkeypatch=monkeypatch)
    said = capsys.readouterr().out
    assert "l2" in said
    assert "Failed    " in said


@pytest.mark.parametrize("name", ["alexnet+bf16-mixed", "alexnet@deadbeef", "alexnet-v0.1+bf16-mixed"])
def test_names_of_results_are_no_methods(name, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    app.write_manifest(tmp_path / "set", rows=20, size=64)
    words = ("data=manifest", "data.path=set/triplets.csv", f"methods=['{name}']")
    message = app.refusal("evaluate.py", *words, monkeypatch=monkeypatch, capsys=capsys)
    assert "unknown" in message
    assert not list(Path("results").glob("*/scored/*"))
