"""Files of others: none of them makes anything run."""

import subprocess
import sys
from contextlib import suppress
from pathlib import Path

import app
import pytest
import torch

from perceptual.cli import app as command

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
    torch.save({**ckpt, "datamodule_hyper_parameters": described}, tmp_path / "theirs.ckpt")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(subprocess, "getoutput", lambda cmd: Path("ran").touch())
    message = app.refusal("evaluate.py", "ckpt=theirs.ckpt", monkeypatch=monkeypatch, capsys=capsys)
    assert "theirs.ckpt" in message
    assert "which no file may call" in message or described == HOSTILE["list"]
    monkeypatch.setattr(sys, "argv", ["perceptual", "export", "theirs.ckpt", "out"])
    with suppress(SystemExit):
        command()
    assert "theirs.ckpt" in capsys.readouterr().err
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
