"""The recipes of DreamSim on triplets in NIGHTS' layout, with tiny networks."""

import csv
import json
from pathlib import Path

import app
import pytest
import timm
import torch
from killing import run_and_kill_when
from safetensors.torch import save_file
from test_callbacks import Data, trainer

from callbacks import LastCheckpoint
from perceptual import LPIPS, Backbone
from perceptual.data import ManifestDataModule
from perceptual.publish.record import publish
from perceptual.training import lora
from perceptual.training.cache import CachedDataModule
from perceptual.training.checkpoints import read_checkpoint
from perceptual.training.module import PerceptualRanker

pytest.importorskip("peft")
if not timm.is_model("test_vit4"):
    pytest.skip(f"timm {timm.__version__} has no test_vit4", allow_module_level=True)

NAMES = {
    "dreamsim_dino": ("backbone.name=test_vit",),
    "dreamsim_dinov2": ("backbone.name=test_vit",),
    "dreamsim_clip": ("backbone.name=test_vit",),
    "dreamsim_ensemble": (
        "backbone.members=['test_vit[out_indices=[cls]]','test_vit4[out_indices=[embedding]]']",
    ),
}
NAMES["dreamsim_head"] = NAMES["dreamsim_ensemble"]
IN_SHORT = ("dreamsim_ensemble", "dreamsim_head")
TINY = ("data.path=nights", "data.size=32", "data.batch_size=20", "model.lr=0.003")
TINY += ("trainer.accelerator=cpu", "trainer.log_every_n_steps=1")


@pytest.fixture
def nights(tmp_path, monkeypatch):
    """A hundred triplets with the columns of NIGHTS, and weights of two tiny transformers."""
    app.write_manifest(tmp_path / "nights", rows=100)
    with (tmp_path / "nights/triplets.csv").open() as file:
        rows = list(csv.DictReader(file))
    columns = [
        "id",
        "ref_path",
        "left_path",
        "right_path",
        "left_vote",
        "right_vote",
        "votes",
        "split",
        "is_imagenet",
        "prompt",
    ]
    with (tmp_path / "nights/data.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(columns)
        for i, row in enumerate(rows):
            right = float(row["judge"])
            images = (row["ref"], row["p0"], row["p1"])
            writer.writerow([i, *images, 1 - right, right, 6, row["split"], i % 3 > 0, "a fox"])
    for number, name in enumerate(("test_vit", "test_vit4")):
        write_weights(tmp_path, name, number)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PERCEPTUAL_WEIGHTS", str(tmp_path))
    monkeypatch.setenv("PERCEPTUAL_CACHE", str(tmp_path / "cache"))
    return tmp_path


def write_weights(folder, name, seed):
    torch.manual_seed(seed)
    net = Backbone(name, weights=None, out_indices=["embedding"]).net.model
    save_file({k: v.contiguous() for k, v in net.state_dict().items()}, folder / f"{name}.safetensors")


def train(runs, experiment, *more, monkeypatch):
    words = (f"experiment={experiment}", f"runs={runs}", *TINY, *NAMES[experiment], *more)
    app.run("train.py", *words, monkeypatch=monkeypatch)
    return max(Path(runs).glob("*/*"), key=lambda path: path.stat().st_mtime_ns)


def losses(run):
    with next(run.glob("logs*/**/metrics.csv")).open() as file:
        return [float(row["train/loss"]) for row in csv.DictReader(file) if row["train/loss"]]


@pytest.mark.parametrize(
    "experiment", [pytest.param(n, marks=[] if n in IN_SHORT else pytest.mark.slow) for n in NAMES]
)
def test_a_recipe_learns(experiment, nights, monkeypatch, capsys):
    run = train("runs", experiment, "trainer.max_epochs=6", monkeypatch=monkeypatch)
    seen = losses(run)
    assert sum(seen[-4:]) < sum(seen[:4])
    said = capsys.readouterr()
    assert "imagenet" in said.out
    assert "loss=hinge trains no ranking network, so it predicts no preference" in said.out + said.err
    model = PerceptualRanker.load_from_checkpoint(run / "checkpoints/last.ckpt").eval()
    assert model.ranking is None
    trained = {name for name, parameter in model.named_parameters() if parameter.requires_grad}
    assert all(("lora_" in name) != ("distance.head" in name) for name in trained)
    scores = json.loads((run / "scores.json").read_text())
    assert scores["trained"]["micro"] > scores["uncalibrated"]["micro"] - 0.05
    x, y = torch.rand(2, 3, 3, 32, 32)
    merged = model.merged()
    with torch.no_grad():
        torch.testing.assert_close(merged(x, y), model.distance(x, y), atol=1e-6, rtol=1e-4)
        merged.save_pretrained("out")
        torch.testing.assert_close(
            LPIPS.from_pretrained("out")(x, y), model.distance(x, y), atol=1e-6, rtol=1e-4
        )
        if model.hparams["variant"] == "lora":
            publish(run / "checkpoints/last.ckpt", Path("adapted"), Path("results"), adapters=True)
            torch.testing.assert_close(
                LPIPS.from_pretrained("adapted")(x, y), model.distance(x, y), atol=1e-6, rtol=1e-4
            )
    assert read_checkpoint(run / "checkpoints/last.ckpt")["backbone"]["saved"] is False
    write_weights(nights, "test_vit", 7)  # another base
    with pytest.raises(ValueError, match=r"was calibrated on weights of .* holds others"):
        PerceptualRanker.load_from_checkpoint(run / "checkpoints/last.ckpt")


@pytest.mark.slow
@pytest.mark.parametrize("experiment", ["dreamsim_dino", "dreamsim_head"])
def test_a_killed_run_goes_on_bit_by_bit(experiment, nights, monkeypatch):
    how = ("trainer.max_steps=24", "callbacks.last.steps=2")
    whole = train("whole", experiment, *how, monkeypatch=monkeypatch)
    run_and_kill_when(
        lambda: train("parts", experiment, *how, monkeypatch=monkeypatch),
        lambda: any(Path("parts").rglob("last.ckpt")),
    )
    resumed = train("parts", experiment, *how, "ckpt=last", monkeypatch=monkeypatch)
    states = [read_checkpoint(run / "checkpoints/last.ckpt")["state_dict"] for run in (whole, resumed)]
    assert states[0].keys() == states[1].keys()
    assert all(torch.equal(states[0][key], states[1][key]) for key in states[0])


def test_cached_embeddings_give_the_distances_of_the_images(nights):
    data = ManifestDataModule("nights", size=32, batch_size=10)
    data.setup("fit")
    model = PerceptualRanker(
        "test_vit[out_indices=[cls]]+test_vit4[out_indices=[embedding]]", "head", "hinge", form="concatenated"
    )
    torch.nn.init.normal_(model.distance.head[2].weight)
    batches = CachedDataModule(data, model.distance)
    batches.setup("fit")
    for images, cached in zip(data.val_dataloader(), batches.val_dataloader(), strict=True):
        with torch.no_grad():
            for change in (
                lambda batch: batch,
                lambda batch: batch.swap(torch.zeros(len(batch.answer), 4)),
            ):
                ours, theirs = (
                    change(cached).distances(model.distance),
                    change(images).distances(model.distance),
                )
                torch.testing.assert_close(ours, theirs, atol=1e-5, rtol=1e-4)


def test_adapters_have_a_scale_dropout_and_targets():
    backbone = Backbone("test_vit", weights=None, out_indices=["cls"])
    x = torch.rand(2, 3, 32, 32)
    ranker = PerceptualRanker(
        {"name": "test_vit", "weights": None, "out_indices": ["cls"]},
        variant="lora",
        loss="hinge",
        form="concatenated",
        lora_rank=3,
        lora_alpha=12,
        lora_dropout=0.5,
        lora_targets=["fc1"],
    )
    adapters = [name for name, p in ranker.named_parameters() if p.requires_grad]
    assert adapters
    assert all(".fc1.lora_" in name for name in adapters)
    layer = next(m for n, m in ranker.distance.backbone.named_modules() if n.endswith("blocks.0.mlp.fc1"))
    torch.nn.init.normal_(layer.lora_B["default"].weight)
    tokens = torch.rand(1, 5, layer.in_features)
    with torch.no_grad():
        added = tokens @ layer.lora_A["default"].weight.T @ layer.lora_B["default"].weight.T * 12 / 3
        torch.testing.assert_close(layer(tokens) - layer.base_layer(tokens), added, atol=1e-4, rtol=1e-4)
        ranker.train()
        assert not ranker.distance.backbone.net.training, "the frozen network stays as it is"
        assert not torch.equal(ranker.distance.backbone(x)[0], ranker.distance.backbone(x)[0])
        ranker.eval()
        assert torch.equal(ranker.distance.backbone(x)[0], ranker.distance.backbone(x)[0])
    with pytest.raises(ValueError, match="test_vit has no linear layer qvk; it has qkv, proj, fc1, fc2"):
        lora.add(backbone.net, "test_vit", 2, targets=["qvk"])


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({"loss": "hinge", "margin": -0.1}, "margin must be at least 0, got -0.1"),
        ({"loss": "hing"}, "loss must be one of bce, hinge, got 'hing'"),
        ({"variant": "head"}, "variant=head is for form=concatenated, got form=per_position"),
        ({"variant": "lora", "lora_alpha": -1}, "lora_alpha must be positive, got -1"),
        ({"variant": "lora", "lora_dropout": 1.0}, "lora_dropout must be at least 0 and less than 1"),
        ({"form": "concatenated"}, "takes embeddings, and test_resnet gives maps"),
    ],
)
def test_settings_out_of_range_are_one_line(settings, says):
    with pytest.raises(ValueError, match=says):
        PerceptualRanker({"name": "test_resnet", "weights": None}, **settings)


def test_checkpoints_of_adapters_alone_ask_for_their_base(tmp_path):
    def base(seed):
        torch.manual_seed(seed)
        return Backbone("test_vit", weights=None, out_indices=["cls"])

    sizes = {}
    for only in (False, True):
        model = PerceptualRanker(base(0), "lora", "hinge", form="concatenated", lr=0.01, lora_rank=2)
        callback = LastCheckpoint(tmp_path / str(only), adapters_only=only)
        fitting = trainer(tmp_path, callback, epochs=1)
        fitting.fit(model, datamodule=Data())
        path = tmp_path / str(only) / "last.ckpt"
        sizes[only] = len(read_checkpoint(path)["state_dict"])
    names = read_checkpoint(path)["state_dict"]
    assert sizes[True] < sizes[False]
    assert all("lora_" in name or ".lin." in name for name in names)
    again = PerceptualRanker.load_from_checkpoint(path, backbone=base(0)).eval()
    x, y = torch.rand(2, 2, 3, 32, 32)
    with torch.no_grad():
        torch.testing.assert_close(again.distance(x, y), model.eval().distance(x, y), atol=1e-6, rtol=0)
    with pytest.raises(
        ValueError, match=r"the checkpoint was calibrated on weights of test_vit .* holds others"
    ):
        PerceptualRanker.load_from_checkpoint(path, backbone=base(1))
