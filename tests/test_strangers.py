"""Files of others: none of them makes anything run."""

import shutil
import subprocess
import sys
from pathlib import Path

import app
import pytest
import torch

from perceptual.cli import app as command
from perceptual.training import cache, checkpoints, run
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


@pytest.mark.parametrize("part", checkpoints.STATE)
def test_a_changed_state_of_a_checkpoint_is_refused(part, trained, tmp_path, monkeypatch, capsys):
    """The state of callbacks, random generators and optimisers, the position and the data."""
    ckpt = torch.load(trained / "run/checkpoints/last.ckpt", weights_only=True)
    before = [checkpoints.state_digest(ckpt)]
    if part == "callbacks":
        ckpt[part]["RandomState"]["processes"][0]["torch"][-1] ^= 1
    elif part == "optimizer_states":
        ckpt[part][0]["state"][0]["exp_avg"].view(torch.int32)[0] ^= 1
    elif part == "lr_schedulers":
        ckpt[part][0]["last_epoch"] += 1
    elif part == "loops":
        ckpt[part]["fit_loop"]["epoch_progress"]["total"]["ready"] += 1
    elif part == "data":
        ckpt[part]["val"]["items"] += 1
    else:
        ckpt[part] += 1
    torch.save(ckpt, tmp_path / "theirs.ckpt")
    monkeypatch.chdir(tmp_path)
    words = ("ckpt=theirs.ckpt", f"data.path={trained}/set/triplets.csv")
    message = app.refusal("train.py", *SMALL, *words, monkeypatch=monkeypatch, capsys=capsys)
    assert "theirs.ckpt' was damaged or changed: the SHA-256 of its state is another" in message
    assert before != [checkpoints.state_digest(ckpt)]


def resealed(ckpt: dict, path: Path) -> None:
    ckpt[checkpoints.STATE_SHA256] = checkpoints.state_digest(ckpt)
    torch.save(ckpt, path)


RESUME = (*SMALL, "backbone.name=test_resnet", "backbone.weights=null", "trainer.max_epochs=2")


@pytest.fixture(scope="module")
def scored(tmp_path_factory):
    """A run with a best checkpoint."""
    folder = tmp_path_factory.mktemp("scored")
    with pytest.MonkeyPatch.context() as monkeypatch:
        monkeypatch.chdir(folder)
        app.write_manifest(folder / "set", rows=20, size=64)
        words = ("trainer.max_epochs=1", "trainer.accelerator=cpu", "hydra.run.dir=run")
        app.run("train.py", *RESUME, *words, monkeypatch=monkeypatch)
    return folder


def of_best(ckpt: dict) -> dict:
    return next(state for name, state in ckpt["callbacks"].items() if name.startswith("BestCheckpoint"))


@pytest.mark.parametrize("beside", ["nothing", "a link", "best"])
def test_no_path_in_a_checkpoint_is_believed(beside, scored, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    secret = tmp_path / "home/id_rsa"
    secret.parent.mkdir()
    secret.write_text("secret")
    ckpt = torch.load(scored / "run/checkpoints/last.ckpt", weights_only=True)
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
    resealed(ckpt, Path("theirs/last.ckpt"))
    if beside == "a link":
        Path("theirs/best.ckpt").symlink_to(secret)
    elif beside == "best":
        shutil.copy(scored / "run/checkpoints/best.ckpt", "theirs")
    words = (*RESUME, f"data.path={scored}/set/triplets.csv", "ckpt=theirs/last.ckpt", "hydra.run.dir=mine")
    if beside == "a link":
        message = app.refusal("train.py", *words, monkeypatch=monkeypatch, capsys=capsys)
        assert "best.ckpt' cannot be read as a checkpoint" in message
    else:
        app.run("train.py", *words, "trainer.accelerator=cpu", monkeypatch=monkeypatch)
    kept = [path.read_bytes() for path in Path("mine/checkpoints").glob("*")]
    assert b"secret" not in kept
    assert secret.read_text() == "secret"
    if beside == "best":  # the score of the checkpoint goes with the file beside it
        assert (scored / "run/checkpoints/best.ckpt").read_bytes() in kept


@pytest.mark.parametrize(
    "score", [torch.tensor(7.0), torch.tensor(float("nan")), "high", torch.ones(2)], ids=str
)
def test_a_score_in_a_checkpoint_is_one(score, scored, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    ckpt = torch.load(scored / "run/checkpoints/last.ckpt", weights_only=True)
    of_best(ckpt)["best_model_score"] = score
    resealed(ckpt, Path("theirs.ckpt"))
    words = (*RESUME, f"data.path={scored}/set/triplets.csv", "ckpt=theirs.ckpt")
    message = app.refusal("train.py", *words, monkeypatch=monkeypatch, capsys=capsys)
    assert (
        "theirs.ckpt' is not a checkpoint of a PerceptualRanker: best_model_score of BestCheckpoint"
        in message
    )
    assert "not a score in [0, 1]" in message


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
    change, says, scored, tmp_path, monkeypatch, capsys
):
    monkeypatch.chdir(tmp_path)
    shutil.copytree(scored / "set", "moved")
    header, *lines = Path("moved/triplets.csv").read_text().splitlines()
    kept = filter(None, [change(row, line) for row, line in enumerate(lines)])
    Path("moved/triplets.csv").write_text("\n".join([header, *kept]))
    words = (
        "data.path=moved/triplets.csv",
        f"ckpt={scored}/run/checkpoints/last.ckpt",
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
