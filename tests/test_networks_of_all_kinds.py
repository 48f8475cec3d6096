"""A network of each kind goes the whole way: calibrated, tuned, killed, resumed, scored, exported, read."""

import json
import sys
from pathlib import Path

import app
import numpy as np
import onnxruntime
import pytest
import pytorch_lightning as pl
import timm
import torch
from hub import hub
from killing import run_and_kill_when
from safetensors.torch import save_file
from torch import nn

from perceptual import LPIPS, PerceptualRanker
from perceptual.cli import app as command
from perceptual.data import ManifestDataModule
from perceptual.evaluation.methods import identity
from perceptual.features import custom
from perceptual.features.build import build_backbone
from perceptual.names import Method
from perceptual.publish.onnx import to_onnx
from perceptual.training.cache import CachedDataModule
from perceptual.training.checkpoints import read_checkpoint

MY_NETS = """
import timm
from torch import nn
class MyNet(nn.Module):
    def __init__(self, width=4):
        super().__init__()
        self.first, self.second = nn.Conv2d(3, width, 3), nn.Conv2d(width, 2 * width, 3, stride=2)
    def forward(self, images):
        first = self.first(images).relu()
        return [first, self.second(first).relu()]
def my_registered_net(pretrained=False, **kwargs):
    return timm.create_model("test_resnet", pretrained=pretrained, **kwargs)
if not timm.is_model("my_registered_net"):  # by an earlier test
    timm.models.register_model(my_registered_net)
"""
SMALL = ("data=manifest", "data.path=set/triplets.csv", "data.size=64", "data.batch_size=10")
RUN = (
    "trainer.accelerator=cpu",
    "trainer.devices=1",
    "model.lr=0.01",
    "callbacks.last.steps=2",
    *app.NO_PICTURES,
)
# slow: those that share their way with another
KINDS = {
    "timm": ("backbone.name=test_resnet",),
    "options": ("backbone.name=test_resnet", "backbone.options.aa_layer=blurpc"),
    "registered": ("imports=[my_nets]", "backbone.name=my_registered_net"),
    "hub": ("backbone.name=hf-hub:me/mine", "backbone.weights=default"),
    "folder": ("backbone.name=local-dir:timm_folder", "backbone.weights=default"),
    "nodes": ("backbone.name=torchvision:resnet18", "backbone.nodes=[maxpool,layer1]"),
    "target": ("backbone._target_=my_nets.MyNet", "backbone.width=6"),
    "joint": ("backbone.members=[test_resnet,test_efficientnet]",),
    "kmeans": ("backbone._target_=my_nets.MyNet", "backbone.weights=kmeans"),
}
IN_SHORT = ("target",)


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    app.write_manifest(tmp_path / "set", rows=60, size=64)
    Path("my_nets.py").write_text(MY_NETS)
    monkeypatch.setattr(sys, "path", [*sys.path])
    monkeypatch.delitem(sys.modules, "my_nets", raising=False)
    monkeypatch.setattr(custom, "_imported", set())
    torch.manual_seed(0)
    Path("timm_folder").mkdir()
    save_file(timm.create_model("test_resnet").state_dict(), "timm_folder/model.safetensors")
    Path("timm_folder/config.json").write_text(json.dumps({"architecture": "test_resnet"}))
    with hub(monkeypatch, tmp_path / "cache") as server:
        files = {path.name: path.read_bytes() for path in Path("timm_folder").iterdir()}
        server.repositories["me/mine"] = files
        yield tmp_path


@pytest.mark.parametrize(
    "kind", [pytest.param(kind, marks=[] if kind in IN_SHORT else [pytest.mark.slow]) for kind in KINDS]
)
def test_the_whole_way(kind, folder, monkeypatch, capsys):
    words = KINDS[kind]
    if not any(word.startswith("backbone.weights=") for word in words):
        words = (*words, "backbone.weights=null")

    def train(runs, *more):
        app.run("train.py", f"runs={runs}", *SMALL, *RUN, *words, *more, monkeypatch=monkeypatch)
        return max(Path(runs).glob("*/*"), key=lambda path: path.stat().st_mtime_ns)

    lin = train("lin", "model=lin", "trainer.max_steps=2")
    tune = ("model=tune", "trainer.max_steps=30")
    whole = train("whole", *tune)
    run_and_kill_when(lambda: train("parts", *tune), lambda: any(Path("parts").rglob("last.ckpt")))
    (killed,) = Path("parts").rglob("last.ckpt")
    assert 0 < read_checkpoint(killed)["global_step"] < 30
    resumed = train("parts", *tune, "ckpt=last")
    states = [read_checkpoint(run / "checkpoints/last.ckpt")["state_dict"] for run in (whole, resumed)]
    assert all(torch.equal(states[0][key], states[1][key]) for key in states[0])
    assert len(states[0]) == len(states[1])

    for number, run in enumerate((lin, whole)):
        ckpt = run / "checkpoints/last.ckpt"
        capsys.readouterr()
        imports = [word for word in words if word.startswith("imports=")] or ["imports=[my_nets]"]
        app.run("evaluate.py", f"ckpt={ckpt}", *imports, monkeypatch=monkeypatch)
        score = json.loads((run / "scores.json").read_text())["trained"]["mean"]
        assert f"{100 * score:.1f}" in capsys.readouterr().out
        model = PerceptualRanker.load_from_checkpoint(ckpt)
        model.eval()
        (row,) = (json.loads(path.read_text()) for path in run.glob("results/*/scored/*/row.json"))
        assert row["backbone"] == model.distance.backbone.name

        monkeypatch.setattr(sys, "argv", ["perceptual", "export", str(ckpt), f"out{number}", "--no-measure"])
        with pytest.raises(SystemExit) as stopped:
            command()
        assert not stopped.value.code
        x, y = torch.rand(2, 3, 3, 64, 64, generator=torch.Generator().manual_seed(0))
        with torch.no_grad():
            saved = LPIPS.from_pretrained(f"out{number}")(x, y)
            torch.testing.assert_close(saved, model.distance(x, y), atol=1e-6, rtol=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize(
    "described",
    [
        {"name": "test_resnet", "options": {"aa_layer": "blurpc"}},
        {"name": "torchvision:resnet18", "nodes": ["maxpool", "layer1"]},
        {"members": ["test_resnet", "alexnet"]},
        {"_target_": "my_nets.MyNet", "width": 6},
    ],
    ids=["options", "nodes", "joint", "target"],
)
def test_onnx_gives_the_same_distances(described, folder):
    torch.manual_seed(0)
    metric = LPIPS(build_backbone({**described, "weights": None}))
    to_onnx(metric, "metric.onnx", (64, 64))
    x, y = torch.rand(2, 3, 3, 64, 64)
    session = onnxruntime.InferenceSession("metric.onnx")
    (found,) = session.run(None, {"x": x.numpy(), "y": y.numpy()})
    with torch.no_grad():
        np.testing.assert_allclose(found, metric(x, y).numpy(), rtol=1e-4, atol=1e-5)


@pytest.mark.slow
def test_variants_of_a_sweep_stand_in_one_leaderboard(folder, monkeypatch, capsys):
    names = "test_resnet,'test_resnet[aa_layer=blurpc]'"
    words = ("--multirun", "runs=sweep", f"backbone.name={names}", "backbone.weights=null", "model=lin")
    app.run("train.py", *words, *SMALL, *RUN, "trainer.max_steps=2", monkeypatch=monkeypatch)
    (board,) = Path("sweep").rglob("leaderboard.md")
    said = board.read_text()
    assert "| test_resnet |" in said
    assert "| test_resnet[aa_layer=blurpc] |" in said


class Pyramid(nn.Module):
    """A network that no file names."""

    def __init__(self, pool=2):
        super().__init__()
        self.layer, self.pool = nn.Conv2d(3, 4, 3), nn.AvgPool2d(pool)

    def forward(self, images):
        return [self.layer(images).relu(), self.layer(self.pool(images)).relu()]


def trained(network, data, variant, steps=2, **fit):
    torch.manual_seed(0)
    model = PerceptualRanker(network, variant, lr=0.01)
    batches = CachedDataModule(data, model.distance) if variant == "lin" else data
    how = {"accelerator": "cpu", "devices": 1, "logger": False, "enable_progress_bar": False}
    how |= {"enable_model_summary": False, "enable_checkpointing": False}
    trainer = pl.Trainer(max_steps=steps, **how)
    trainer.fit(model, batches, **fit)
    trainer.save_checkpoint(f"{variant}{steps}.ckpt")
    return model.eval()


def test_a_built_network_goes_the_whole_way(folder):
    data = ManifestDataModule("set/triplets.csv", size=32, batch_size=10)
    data.setup("fit")
    torch.manual_seed(1)
    network = Pyramid()
    for variant in ("lin", "tune"):
        model = trained(network, data, variant)
        with pytest.raises(ValueError, match=r"network Pyramid was passed as an object, .* backbone=network"):
            PerceptualRanker.load_from_checkpoint(f"{variant}2.ckpt")
        again = PerceptualRanker.load_from_checkpoint(f"{variant}2.ckpt", backbone=Pyramid()).eval()
        model.merged().save_pretrained(variant)
        with pytest.raises(ValueError, match="network Pyramid was passed as an object"):
            LPIPS.from_pretrained(variant)
        saved = LPIPS.from_pretrained(variant, backbone=Pyramid())
        x, y = torch.rand(2, 3, 3, 32, 32)
        with torch.no_grad():
            torch.testing.assert_close(again.distance(x, y), model.distance(x, y))
            torch.testing.assert_close(saved(x, y), model.distance(x, y))


def test_networks_that_differ_in_one_option_share_nothing(folder, monkeypatch):
    data = ManifestDataModule("set/triplets.csv", size=32, batch_size=10)
    data.setup("fit")
    torch.manual_seed(1)
    networks = [Pyramid(), Pyramid(pool=3)]
    networks[1].load_state_dict(networks[0].state_dict())
    caches = []
    for network in networks:
        monkeypatch.setenv("PERCEPTUAL_CACHE", str(folder / "features"))
        trained(network, data, "lin")
        caches.append({path.name for path in (folder / "features").iterdir() if path.is_dir()})
    assert len(caches[1]) == 2 * len(caches[0]), "same name and weights, another pool"
    for name in ("test_resnet", "test_resnet[drop_path_rate=0.1]"):
        assert identity(Method.parse(name)) == name


def test_several_networks_as_one_share_their_caches_with_each_alone(folder, monkeypatch):
    for name in ("test_resnet", "test_efficientnet"):
        save_file(timm.create_model(name).state_dict(), f"{name}.safetensors")
    monkeypatch.setenv("PERCEPTUAL_WEIGHTS", str(folder))

    def caches(name):
        cached = CachedDataModule(data, PerceptualRanker(name).distance, folder / "features")
        cached.setup()
        return {path.name for path in (folder / "features").iterdir() if path.is_dir()}, cached

    data = ManifestDataModule("set/triplets.csv", size=32, batch_size=10)
    data.setup("fit")
    alone, _ = caches("test_resnet")
    joint, batches = caches("test_resnet+test_efficientnet")
    assert alone < joint
    assert len(joint) == 2 * len(alone)
    assert caches("test_efficientnet")[0] == joint
    distance = PerceptualRanker("test_resnet+test_efficientnet").distance
    for cached, images in zip(batches.val_dataloader(), data.val_dataloader(), strict=True):
        with torch.no_grad():
            ours, expected = cached.distances(distance), images.distances(distance)
        np.testing.assert_allclose(torch.stack(ours), torch.stack(expected), rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (("backbone._target_=my_nets.MyNett",), "did you mean MyNet"),
        (("backbone._target_=my_nets.MyNet", "backbone.widht=3"), "unexpected keyword argument 'widht'"),
        (("backbone.name=test_resnet", "backbone.options.aa_layr=blur"), "has no option aa_layr; it takes"),
        (("backbone.name=test_resnet", "+backbone.aa_layer=blur"), "said as options.aa_layer"),
        (("imports=[broken]",), "broken cannot be imported: SyntaxError"),
        (
            ("backbone.name=alexnet", "backbone.weights=w.pth", "backbone.prefix=x."),
            "begins with prefix='x.'",
        ),
        (("backbone.members=[alexnet,alexnett]",), "did you mean alexnet"),
    ],
)
def test_each_mistake_is_first_line(words, says, folder, monkeypatch, capsys):
    Path("broken.py").write_text("def f(:\n")
    torch.save({"a.weight": torch.ones(1)}, "w.pth")
    message = app.refusal("train.py", *SMALL, *words, monkeypatch=monkeypatch, capsys=capsys)
    assert says in message
    assert "\n" not in message.strip()


def test_a_checkpoint_of_a_users_network_asks_for_its_module(folder, monkeypatch, capsys):
    custom.import_modules(["my_nets"])
    data = ManifestDataModule("set/triplets.csv", size=32, batch_size=10)
    data.setup("fit")
    trained({"_target_": "my_nets.MyNet"}, data, "lin", steps=1)
    trained({"name": "my_registered_net", "weights": None}, data, "tune", steps=1)
    custom._imported.clear()
    message = app.refusal("evaluate.py", "ckpt=lin1.ckpt", *SMALL, monkeypatch=monkeypatch, capsys=capsys)
    assert "add imports=[my_nets], or pass the built network" in message
    monkeypatch.delitem(timm.models._registry._model_entrypoints, "my_registered_net")
    message = app.refusal("evaluate.py", "ckpt=tune1.ckpt", *SMALL, monkeypatch=monkeypatch, capsys=capsys)
    assert "say the module: imports=[MODULE]" in message
    monkeypatch.setattr(sys, "argv", ["perceptual", "info", "tune1.ckpt"])
    with pytest.raises(SystemExit) as stopped:
        command()
    said = str(stopped.value.code)
    assert "say the module: --import MODULE" in said
    assert "imports=" not in said
