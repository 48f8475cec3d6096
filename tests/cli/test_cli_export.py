import json
import shutil

import pytest
import pytorch_lightning as pl
import torch
from app import run, write_manifest

from perceptual import LPIPS, PerceptualRanker
from perceptual.evaluation import methods


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """The folder of a short run of train.py."""
    folder = tmp_path_factory.mktemp("trained")
    words = (
        "backbone.name=test_resnet",
        "backbone.weights=null",
        "data=manifest",
        "data.path=set/triplets.csv",
    )
    with pytest.MonkeyPatch.context() as monkeypatch:
        monkeypatch.chdir(folder)
        write_manifest(folder / "set")
        run("train.py", *words, "data.size=32", "trainer.max_epochs=2", "seed=3", monkeypatch=monkeypatch)
    return folder


@pytest.fixture
def checkpoint(trained, folder):
    """Its best checkpoint in a copy, where the test is."""
    shutil.copytree(trained, folder, dirs_exist_ok=True)
    (path,) = folder.glob("runs/*/*/checkpoints/best.ckpt")
    return path


def test_a_checkpoint_becomes_a_folder_with_all_that_is_known(shell, checkpoint, tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    code, out, _ = shell("export", checkpoint, "mine", "--results=~/kept")
    assert (code, "Saved     mine" in out) == (0, True)
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
    assert json.loads(shell("info", checkpoint.with_name("last.ckpt"), "--json")[1])["epochs"] == 2
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

    said = json.loads(shell("info", "./mine", "--json")[1])
    assert (said["data"], said["command"]) == (record["data"], record["command"])
    assert said["scores"][score["data"]]["score"] == mean["score"]
    assert (said["form"], said["ranking_network"]) == ("per_position", "BoundedRanking")


def test_the_form_of_a_checkpoint_is_exported(shell, folder):
    model = PerceptualRanker({"name": "test_resnet", "weights": None}, form="pooled").eval()
    model.distance.project()  # as after a step of training
    trainer = pl.Trainer(
        logger=False, enable_checkpointing=False, enable_progress_bar=False, accelerator="cpu"
    )
    trainer.strategy.connect(model)
    trainer.save_checkpoint("model.ckpt")
    assert shell("export", "model.ckpt", "mine")[0] == 0
    x, y = torch.rand(2, 3, 3, 32, 32)
    loaded = LPIPS.from_pretrained("mine")
    assert loaded.form == "pooled"
    assert torch.equal(loaded(x, y), model.distance(x, y))
    assert "| form | `pooled` |" in (folder / "mine" / "README.md").read_text()
    assert ["form", "pooled"] in [line.split() for line in shell("info", "./mine")[1].splitlines()]


def test_results_that_are_there_are_not_computed_again(shell, checkpoint, tmp_path):
    shell("export", checkpoint, "first")
    (row,) = tmp_path.glob("results/*/scored/*/row.json")
    before = row.stat().st_mtime_ns
    shell("export", "./" + str(checkpoint.relative_to(tmp_path)), "second")
    assert row.stat().st_mtime_ns == before
    first, second = (
        json.loads((tmp_path / name / "config.json").read_text()) for name in ("first", "second")
    )
    assert first["record"] == second["record"]
    assert len(second["record"]["scores"]) == 1


def test_a_checkpoint_whose_data_is_gone_is_exported_without_its_scores(shell, checkpoint, tmp_path):
    (tmp_path / "set").rename(tmp_path / "moved")
    checkpoint = checkpoint.rename(tmp_path / "best.ckpt")  # away from its run, which knows more
    code, _, err = shell("export", checkpoint, "mine")
    assert (code, "not measured: " in err) == (0, True)
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
        (
            ("alexnet-v0.1", "new", "--adapters"),
            "--adapters is for checkpoints of model=lora, got 'alexnet-v0",
        ),
    ],
)
def test_what_cannot_be_exported_is_one_line(shell, folder, arguments, message):
    (folder / "full").mkdir()
    (folder / "full" / "precious.txt").write_text("mine")
    code, _, err = shell("export", *arguments)
    assert (code, message in err, len(err.splitlines())) == (1, True, 1)
    assert not (folder / "new").exists()
    assert [path.name for path in (folder / "full").iterdir()] == ["precious.txt"]
