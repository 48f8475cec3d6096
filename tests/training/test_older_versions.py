"""Checkpoints and saved folders of version 0.1.0 give the numbers that it computed, on every path."""

import json
import shutil
from pathlib import Path

import app
import pytest
import torch

from perceptual import LPIPS, PerceptualRanker, cli
from perceptual.evaluation import methods
from perceptual.training.checkpoints import read_checkpoint

OLD = Path(__file__).parent / "version_0_1_0"
EXPECTED = json.loads((OLD / "expected.json").read_text())
DATA = ("data.count_train=100", "data.count_val=100", "data.size=32", "data.cache=off")


@pytest.fixture
def folder(tmp_path, monkeypatch) -> Path:
    """A folder to work in, with a checkpoint where train.py of that version left it."""
    monkeypatch.chdir(tmp_path)
    run = tmp_path / "runs/2026-01-01/00-00-00/checkpoints"
    run.mkdir(parents=True)
    shutil.copy(OLD / "last.ckpt", run)
    (run.parent / "data.json").write_text("{}")
    return tmp_path


def images() -> torch.Tensor:
    return torch.rand(2, 3, 3, 32, 32, generator=torch.Generator().manual_seed(0))


@torch.no_grad()
def assert_distances(distance, expected: str = "distances") -> None:
    torch.testing.assert_close(distance(*images()), torch.tensor(EXPECTED[expected]), atol=1e-6, rtol=1e-5)


def test_a_checkpoint_loads():
    ranker = PerceptualRanker.load_from_checkpoint(OLD / "last.ckpt").eval()
    assert_distances(ranker)
    assert ranker.hparams["augmentation"] == ["flip", "swap"]
    distance = torch.tensor(EXPECTED["distances"])
    with torch.no_grad():
        logits = ranker.ranking(distance, distance.flip(0))
    torch.testing.assert_close(logits, torch.tensor(EXPECTED["logits"]), atol=1e-6, rtol=1e-5)


def test_a_keyword_argument_still_replaces_a_hyperparameter():
    ranker = PerceptualRanker.load_from_checkpoint(OLD / "last.ckpt", augmentation=["light"], lr=0.5)
    assert (ranker.hparams["augmentation"], ranker.hparams["lr"]) == (["light"], 0.5)


@pytest.mark.parametrize(
    ("word", "changes"),
    [
        ("none", []),
        ("flip", ["flip"]),
        ("swap", ["swap"]),
        ("flip_swap", ["flip", "swap"]),
        ("flip_crop_light", ["flip", "crop", "light"]),
    ],
)
def test_each_old_word_is_a_list_of_changes(word, changes, tmp_path):
    checkpoint = torch.load(OLD / "last.ckpt", weights_only=True)
    checkpoint["hyper_parameters"]["augmentation"] = word
    torch.save(checkpoint, tmp_path / "old.ckpt")
    assert read_checkpoint(tmp_path / "old.ckpt")["hyper_parameters"]["augmentation"] == changes


def test_both_are_methods():
    assert_distances(methods.build(str(OLD / "last.ckpt")))
    assert_distances(methods.build(str(OLD / "exported")), "exported")


def test_a_saved_folder_loads():
    assert_distances(LPIPS.from_pretrained(OLD / "exported"), "exported")


def test_evaluate_py_repeats_the_scores_of_the_run(folder, monkeypatch, capsys):
    (ckpt,) = folder.glob("runs/*/*/checkpoints/last.ckpt")
    app.run("evaluate.py", f"ckpt={ckpt}", monkeypatch=monkeypatch)
    printed = capsys.readouterr().out
    for name in ("mean", "micro"):
        assert f"{100 * EXPECTED['scores'][name]:.1f}" in printed


def test_train_py_resumes_the_run(folder, monkeypatch, capsys):
    settings = (
        *(*DATA, "data.designs=[severity]", "trainer.accelerator=cpu", "trainer.max_epochs=2"),
        "model.augmentation=[flip,swap]",
    )
    app.run("train.py", *settings, "ckpt=last", monkeypatch=monkeypatch)
    assert "Resumed   runs/2026-01-01/00-00-00/checkpoints/last.ckpt" in capsys.readouterr().out
    newest = max(folder.glob("runs/*/*/checkpoints/last.ckpt"), key=lambda path: path.stat().st_mtime_ns)
    before, after = read_checkpoint(OLD / "last.ckpt"), read_checkpoint(newest)
    assert (before["global_step"], after["global_step"]) == (2, 4)
    lin = "distance.lin.0"
    moved = (after["state_dict"][lin] - before["state_dict"][lin]).abs().max()
    assert 0 < moved < 1e-3  # two steps of 1e-4 from where it was


def test_the_command_exports_it(folder, monkeypatch):
    monkeypatch.setattr("sys.argv", ["perceptual", "export", str(OLD / "last.ckpt"), "mine"])
    with pytest.raises(SystemExit) as stopped:
        cli.main()
    assert not stopped.value.code
    assert_distances(LPIPS.from_pretrained("mine"))
    config = json.loads(Path("mine/config.json").read_text())
    assert config["record"]["settings"]["augmentation"] == ["flip", "swap"]
