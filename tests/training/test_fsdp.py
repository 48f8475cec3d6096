"""A backbone spread over two processes trains as one that is not."""

import os
import subprocess
import sys
from pathlib import Path

import app
import pytest
import torch

from perceptual.training.module import PerceptualRanker, read_checkpoint

SETTINGS = (
    *("data=manifest", "data.path=set/triplets.csv", "data.size=32", "data.batch_size=10", "data.cache=off"),
    *("backbone.name=test_vit", "backbone.weights=null", "trainer.accelerator=cpu", "trainer.devices=2"),
    *("model.lr=0.001", "model.dropout=0"),
)


@pytest.fixture
def folder(tmp_path, monkeypatch) -> Path:
    monkeypatch.chdir(tmp_path)
    app.write_manifest(tmp_path / "set", rows=120)  # 9 batches an epoch
    return tmp_path


def run(runs: str, *arguments: str) -> subprocess.CompletedProcess:
    return subprocess.run(
        [sys.executable, "-W", "ignore", str(app.ROOT / "train.py"), f"runs={runs}", *SETTINGS, *arguments],
        env=os.environ | {"PYTHONPATH": str(app.ROOT), "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=280,
    )


def checkpoint(runs: str) -> dict:
    found = Path(runs).glob("**/checkpoints/last.ckpt")
    return read_checkpoint(max(found, key=lambda path: path.stat().st_mtime))


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_a_spread_backbone_trains_and_resumes_as_a_whole_one(folder):
    for runs, *words in (
        ("whole", "trainer=ddp", "trainer.max_steps=18"),
        ("spread", "trainer=fsdp", "trainer.max_steps=18"),
        ("resumed", "trainer=fsdp", "trainer.max_steps=5"),
        ("resumed", "trainer=fsdp", "trainer.max_steps=18", "ckpt=last"),
    ):
        done = run(runs, "model=tune", *words)
        assert done.returncode == 0, done.stderr
    whole, spread, resumed = (checkpoint(runs) for runs in ("whole", "spread", "resumed"))
    assert whole["global_step"] == spread["global_step"] == 18
    untrained = PerceptualRanker({"name": "test_vit", "weights": None}, "tune").state_dict()
    assert whole["state_dict"].keys() == spread["state_dict"].keys() == untrained.keys()
    moved = 0.0
    for key, value in whole["state_dict"].items():
        torch.testing.assert_close(spread["state_dict"][key], value, atol=2e-4, rtol=1e-3)
        assert torch.equal(resumed["state_dict"][key], spread["state_dict"][key])
        moved = max(moved, (untrained[key] - value).abs().max().item())
    assert moved > 0.01
    assert len(list(Path("spread").glob("**/reports/*.png"))) == 3  # made by the first process alone


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (("trainer.gradient_clip_val=1",), "strategy=fsdp2 does not clip gradients"),
        (("averaging=ema",), "strategy=fsdp2 does not average weights"),
    ],
)
def test_what_would_see_parts_only_is_refused(folder, monkeypatch, capsys, words, says):
    arguments = (*SETTINGS, "trainer=fsdp", "trainer.devices=1", "model=tune", *words)
    assert says in app.refusal("train.py", *arguments, monkeypatch=monkeypatch, capsys=capsys)
