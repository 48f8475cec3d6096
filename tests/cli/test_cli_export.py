import json

import pytest
import pytorch_lightning as pl
import torch
from app import run, write_manifest

from perceptual import LPIPS, PerceptualRanker, cli
from perceptual.evaluation import methods


@pytest.fixture
def checkpoint(tmp_path, monkeypatch):
    """The best checkpoint of a short run of train.py in tmp_path, where the test is."""
    write_manifest(tmp_path / "set")
    monkeypatch.chdir(tmp_path)
    arguments = (
        "backbone.name=test_resnet",
        "backbone.weights=null",
        "data=manifest",
        "data.path=set/triplets.csv",
    )
    run("train.py", *arguments, "data.size=32", "trainer.max_epochs=2", "seed=3", monkeypatch=monkeypatch)
    (path,) = tmp_path.glob("runs/*/*/checkpoints/best.ckpt")
    return path


def perceptual(*arguments, monkeypatch):
    monkeypatch.setattr("sys.argv", ["perceptual", *map(str, arguments)])
    try:
        cli.main()
    except SystemExit as stopped:
        return stopped.code or 0
    return 0


def test_a_checkpoint_becomes_a_folder_with_all_that_is_known(checkpoint, tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    assert perceptual("export", checkpoint, "mine", "--results=~/kept", monkeypatch=monkeypatch) == 0
    assert "Saved     mine" in capsys.readouterr().out
    assert (tmp_path / "home/kept").is_dir()
    ranker = PerceptualRanker.load_from_checkpoint(checkpoint).eval()
    x, y = torch.rand(2, 3, 3, 32, 32)
    loaded = LPIPS.from_pretrained("mine")
    assert torch.equal(loaded(x, y), ranker(x, y))
    d0, d1 = torch.rand(2, 4)
    assert torch.equal(methods.load(str(tmp_path / "mine")).ranking(d0, d1), ranker.ranking(d0, d1))

    record = loaded.saved.config["record"]
    assert record["data"].startswith("set/triplets.csv: 30 training and 10 validation triplets")
    assert record["epochs"] in (1, 2)
    assert perceptual("info", checkpoint.with_name("last.ckpt"), "--json", monkeypatch=monkeypatch) == 0
    assert json.loads(capsys.readouterr().out)["epochs"] == 2
    assert record["settings"]["variant"] == "lin"
    assert record["command"].startswith("python train.py backbone.name=test_resnet backbone.weights=null")
    (score,) = record["scores"]
    mean = next(row for row in score["rows"] if row["subset"] == "mean")
    logged = torch.load(checkpoint, weights_only=True)["callbacks"]
    (best,) = {state.get("best_model_score") for state in logged.values()} - {None}
    torch.testing.assert_close(mean["score"], best.item(), atol=1e-5, rtol=0)
    assert mean["low"] < mean["score"] < mean["high"]
    assert mean["items"] == 10
    card = (tmp_path / "mine" / "README.md").read_text()
    assert f"| mean | 10 | {100 * mean['score']:.1f} |" in card
    assert str(tmp_path) not in card + (tmp_path / "mine" / "config.json").read_text()

    capsys.readouterr()
    assert perceptual("info", "./mine", "--json", monkeypatch=monkeypatch) == 0
    said = json.loads(capsys.readouterr().out)
    assert (said["data"], said["command"]) == (record["data"], record["command"])
    assert said["scores"][score["data"]]["score"] == mean["score"]
    assert (said["form"], said["ranking_network"]) == ("per_position", "PaperRanking")


def test_the_form_of_a_checkpoint_is_exported(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    model = PerceptualRanker({"name": "test_resnet", "weights": None}, form="pooled").eval()
    model.distance.project()  # as after a step of training
    trainer = pl.Trainer(
        logger=False, enable_checkpointing=False, enable_progress_bar=False, accelerator="cpu"
    )
    trainer.strategy.connect(model)
    trainer.save_checkpoint("model.ckpt")
    assert perceptual("export", "model.ckpt", "mine", monkeypatch=monkeypatch) == 0
    x, y = torch.rand(2, 3, 3, 32, 32)
    loaded = LPIPS.from_pretrained("mine")
    assert loaded.form == "pooled"
    assert torch.equal(loaded(x, y), model.distance(x, y))
    assert "| form | `pooled` |" in (tmp_path / "mine" / "README.md").read_text()
    capsys.readouterr()
    assert perceptual("info", "./mine", monkeypatch=monkeypatch) == 0
    lines = [line.split() for line in capsys.readouterr().out.splitlines()]
    assert ["form", "pooled"] in lines


def test_results_that_are_there_are_not_computed_again(checkpoint, tmp_path, monkeypatch):
    perceptual("export", checkpoint, "first", monkeypatch=monkeypatch)
    (row,) = tmp_path.glob("results/*/scored/*/row.json")
    before = row.stat().st_mtime_ns
    perceptual("export", "./" + str(checkpoint.relative_to(tmp_path)), "second", monkeypatch=monkeypatch)
    assert row.stat().st_mtime_ns == before
    first, second = (
        json.loads((tmp_path / name / "config.json").read_text()) for name in ("first", "second")
    )
    assert first["record"] == second["record"]
    assert len(second["record"]["scores"]) == 1


def test_a_checkpoint_whose_data_is_gone_is_exported_without_its_scores(
    checkpoint, tmp_path, monkeypatch, capsys
):
    (tmp_path / "set").rename(tmp_path / "moved")
    checkpoint = checkpoint.rename(tmp_path / "best.ckpt")  # away from its run, which knows more
    assert perceptual("export", checkpoint, "mine", monkeypatch=monkeypatch) == 0
    assert "not measured: " in capsys.readouterr().err
    record = LPIPS.from_pretrained("mine").saved.config["record"]
    assert record["scores"] == []
    assert record["data"].startswith("ManifestDataModule size=32")
    assert record["command"] is None


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("nowhere.ckpt", "new"), "checkpoint 'nowhere.ckpt' does not exist"),
        (("ssim", "new"), "'ssim' has no weights to export"),
        (("alexnett-v0.1", "new"), "unknown method 'alexnett-v0.1'"),
        (("some/thing", "new"), "folder 'some/thing' does not exist"),
        (("alexnet-v0.1", "full"), "'full' exists already"),
        (("alexnet-v0.1", "new", "--size", "64"), "--size and --uint8 are for --onnx"),
    ],
)
def test_what_cannot_be_exported_is_one_line(tmp_path, monkeypatch, arguments, message):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "precious.txt").write_text("mine")
    said = perceptual("export", *arguments, monkeypatch=monkeypatch)
    assert message in said
    assert len(said.splitlines()) == 1
    assert not (tmp_path / "new").exists()
    assert [path.name for path in (tmp_path / "full").iterdir()] == ["precious.txt"]
