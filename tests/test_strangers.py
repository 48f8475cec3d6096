"""Files of others: none of them makes anything run."""

import subprocess
import sys
from pathlib import Path

import app
import pytest
import torch

from perceptual.cli import app as command
from perceptual.training import run
from perceptual.training.checkpoints import SETTINGS_SHA256, settings_digest

SMALL = ("data=manifest", "data.path=set/triplets.csv", "data.size=64", "data.batch_size=10")
HOSTILE = {
    "subprocess": {"_target_": "subprocess.getoutput", "cmd": "touch ran"},
    "builtin": {"_target_": "builtins.eval", "source": "open('ran', 'w')"},
    "ours": {"_target_": "perceptual.training.module.PerceptualRanker", "backbone": "alexnet"},
    "list": ["_target_", "subprocess.getoutput"],
    "nothing": {},
}


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    folder = tmp_path_factory.mktemp("trained")
    with pytest.MonkeyPatch.context() as monkeypatch:
        monkeypatch.chdir(folder)
        app.write_manifest(folder / "set", rows=20, size=64)
        words = ("backbone.name=test_resnet", "backbone.weights=null", "trainer.max_steps=1")
        run = ("trainer.accelerator=cpu", "trainer.devices=1", "hydra.run.dir=run")
        app.run("train.py", *SMALL, *run, *words, monkeypatch=monkeypatch)
    return folder


@pytest.mark.parametrize("described", HOSTILE.values(), ids=HOSTILE.keys())
def test_the_data_of_a_checkpoint_run_nothing(described, trained, tmp_path, monkeypatch, capsys):
    ckpt = torch.load(trained / "run/checkpoints/last.ckpt", weights_only=True)
    ckpt["datamodule_hyper_parameters"] = described
    ckpt[SETTINGS_SHA256] = settings_digest(ckpt)
    torch.save(ckpt, tmp_path / "theirs.ckpt")
    monkeypatch.chdir(tmp_path)
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


def changed(checkpoint, how):
    if how == "bit":
        checkpoint["state_dict"]["distance.lin.0"].view(torch.int32)[0] ^= 1 << 21
    elif how == "removed":
        del checkpoint["state_dict"]["ranking.layers.4.bias"]
    elif how == "extra":
        checkpoint["state_dict"]["more"] = torch.ones(1)
    else:
        name, _, key = how.rpartition(".")
        (checkpoint[name] if name else checkpoint)[key] = 3.5
    return checkpoint


@pytest.mark.parametrize(
    "how",
    [
        *("bit", "removed", "extra", "state_dict", "hyper_parameters", "backbone", "epoch", "backbone.name"),
        *("backbone.saved", "hyper_parameters.backbone", "datamodule_hyper_parameters", "weights_sha256"),
    ],
)
def test_a_changed_checkpoint_is_refused(how, trained, tmp_path, monkeypatch, capsys):
    ckpt = torch.load(trained / "run/checkpoints/last.ckpt", weights_only=True)
    torch.save(changed(ckpt, how), tmp_path / "theirs.ckpt")
    monkeypatch.chdir(tmp_path)
    message = app.refusal("evaluate.py", "ckpt=theirs.ckpt", monkeypatch=monkeypatch, capsys=capsys)
    assert "theirs.ckpt" in message
    assert "\n" not in message.strip()
    words = ("ckpt=theirs.ckpt", f"data.path={trained}/set/triplets.csv")
    message = app.refusal("train.py", *SMALL, *words, monkeypatch=monkeypatch, capsys=capsys)
    assert "theirs.ckpt" in message


def train(*words, monkeypatch):
    network = ("backbone.name=test_resnet", "backbone.weights=null")
    here = ("trainer.accelerator=cpu", "trainer.devices=1", "callbacks.last.steps=1")
    app.run("train.py", *SMALL, *network, *here, *words, monkeypatch=monkeypatch)


def test_a_run_is_not_mixed_with_another(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    app.write_manifest(tmp_path / "set", rows=20, size=64)
    train("hydra.run.dir=run", "trainer.max_steps=1", monkeypatch=monkeypatch)
    before = Path("run/scores.json").read_bytes()
    words = ("backbone.name=test_resnet", "backbone.weights=null", "hydra.run.dir=run")
    message = app.refusal("train.py", *SMALL, *words, monkeypatch=monkeypatch, capsys=capsys)
    assert "holds a run already" in message
    assert "run/checkpoints/last.ckpt to go on with it" in message
    assert Path("run/scores.json").read_bytes() == before
    words = (*words, "ckpt=run/checkpoints/last.ckpt", "trainer.max_steps=2")
    message = app.refusal("train.py", *SMALL, *words, "model.lr=0.5", monkeypatch=monkeypatch, capsys=capsys)
    assert "lr=0.0001 there, 0.5 here" in message
    train("hydra.run.dir=run", *words[-2:], monkeypatch=monkeypatch)
    assert torch.load("run/checkpoints/last.ckpt", weights_only=True)["global_step"] == 2


def test_two_runs_are_not_in_one_folder(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    app.write_manifest(tmp_path / "set", rows=20, size=64)
    (tmp_path / "run").mkdir()
    words = ("backbone.name=test_resnet", "backbone.weights=null", "hydra.run.dir=run")
    with run.alone_in(tmp_path / "run"):
        message = app.refusal("train.py", *SMALL, *words, monkeypatch=monkeypatch, capsys=capsys)
    assert "hydra.run.dir=" in message
    assert "another process is training there" in message
    train("hydra.run.dir=run", "trainer.max_steps=1", monkeypatch=monkeypatch)
    assert not Path("run/train.lock").exists()


@pytest.mark.parametrize(
    ("section", "key", "value"),
    [
        ("hyper_parameters", "form", "pooled"),
        ("hyper_parameters", "form", None),
        ("datamodule_hyper_parameters", "size", 32),
        ("datamodule_hyper_parameters", "val_fraction", 0.5),
        ("backbone", "source", "file:/elsewhere"),
    ],
)
def test_changed_settings_of_a_checkpoint_are_refused(
    section, key, value, trained, tmp_path, monkeypatch, capsys
):
    ckpt = torch.load(trained / "run/checkpoints/last.ckpt", weights_only=True)
    if value is None:
        del ckpt[section][key]
    else:
        ckpt[section][key] = value
    torch.save(ckpt, tmp_path / "theirs.ckpt")
    monkeypatch.chdir(tmp_path)
    message = app.refusal("evaluate.py", "ckpt=theirs.ckpt", monkeypatch=monkeypatch, capsys=capsys)
    assert "theirs.ckpt' was damaged or changed: the SHA-256 of its settings is another" in message


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
