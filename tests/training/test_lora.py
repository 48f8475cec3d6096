"""LoRA: few weights are trained, the others stay bit-identical, and merging changes no distance."""

import json
import sys

import app
import pytest
import pytorch_lightning as pl
import timm
import torch
from safetensors.torch import load_file, save_file
from test_callbacks import Data, flat, last_checkpoint, trainer

from perceptual.distance.lpips import LPIPS
from perceptual.distance.saving.adapters import Adapters
from perceptual.evaluation.methods import build
from perceptual.features.backbone import Backbone
from perceptual.training import lora
from perceptual.training.cache import CachedDataModule
from perceptual.training.module import PerceptualRanker

peft = pytest.importorskip("peft")
pytestmark = pytest.mark.filterwarnings("ignore:Checkpoint directory .* exists and is not empty")


@pytest.fixture
def weights(tmp_path, monkeypatch):
    """PERCEPTUAL_WEIGHTS with random weights of two tiny transformers."""
    if not timm.is_model("test_vit4"):
        pytest.skip(f"timm {timm.__version__} has no test_vit4")
    for name in ("test_vit", "test_vit4"):
        torch.manual_seed(0)
        backbone = Backbone(name, None)
        state = {key.removeprefix("model."): value for key, value in backbone.net.state_dict().items()}
        save_file({key: value.contiguous() for key, value in state.items()}, tmp_path / f"{name}.safetensors")
    monkeypatch.setenv("PERCEPTUAL_WEIGHTS", str(tmp_path))
    return tmp_path


def fitted(tmp_path, backbone="test_vit"):
    torch.manual_seed(1)
    ranker = PerceptualRanker(backbone, "lora", lr=0.01, lora_rank=2, lora_alpha=6)
    made = trainer(tmp_path)
    made.fit(ranker, datamodule=Data())
    return ranker.eval(), made


@torch.no_grad()
def distances(metric):
    batch = Data.batch(7, 6)
    return metric(batch.role("ref"), batch.role("p1"))


def test_only_the_adapters_are_trained_and_the_rest_is_bit_identical(weights, tmp_path):
    ranker, _ = fitted(tmp_path)
    state = ranker.distance.backbone.net.state_dict()
    before = Backbone("test_vit").net.state_dict()
    after = lora.base_state(state)
    assert after.keys() == before.keys()
    assert all(torch.equal(after[key], before[key]) for key in before)
    adapters = {key: value for key, value in state.items() if "lora_" in key}
    assert len(adapters) == 2 * 6
    assert all(value.abs().max() > 0 for value in adapters.values())  # B began at zero
    trained = {name for name, p in ranker.distance.backbone.net.named_parameters() if p.requires_grad}
    assert trained == set(adapters)


def test_a_small_vit_trains_less_than_two_percent_of_its_parameters():
    ranker = PerceptualRanker({"name": "vit_tiny_patch16_224", "weights": None}, "lora")
    trained = sum(p.numel() for p in ranker.parameters() if p.requires_grad)
    assert 0 < trained < 0.02 * sum(p.numel() for p in ranker.parameters())


def test_it_begins_as_the_backbone_is(weights):
    ranker = PerceptualRanker("test_vit", "lora", lin_init="ones")
    assert torch.equal(distances(ranker), distances(LPIPS("test_vit", lin=None)))


def test_merged_it_gives_the_same_distances_and_is_a_plain_network(weights, tmp_path):
    ranker, _ = fitted(tmp_path)
    for name, parameter in ranker.distance.backbone.net.named_parameters():
        if "lora_B" in name:  # as after a long run
            parameter.data.normal_(0, 0.3)
    ours, merged = distances(ranker), ranker.merged()
    torch.testing.assert_close(distances(merged), ours, atol=1e-5, rtol=0)
    untouched = LPIPS(Backbone("test_vit"), lin=None)
    untouched.lin.load_state_dict(ranker.distance.lin.state_dict())
    assert (distances(untouched) - ours).abs().max() > 1e-3
    assert merged.backbone.net.state_dict().keys() == untouched.backbone.net.state_dict().keys()
    assert not any(p.requires_grad for p in merged.parameters())
    assert torch.equal(distances(ranker), ours)  # merging worked on a copy


def test_a_checkpoint_is_small_and_comes_back(weights, tmp_path):
    ranker, made = fitted(tmp_path)
    path = tmp_path / "model.ckpt"
    made.save_checkpoint(path)
    saved = torch.load(path, weights_only=True)
    assert not [key for key in saved["state_dict"] if "backbone" in key and "lora_" not in key]
    assert path.stat().st_size < (weights / "test_vit.safetensors").stat().st_size / 4
    assert torch.equal(distances(PerceptualRanker.load_from_checkpoint(path).eval()), distances(ranker))
    assert torch.equal(distances(build(str(path))), distances(ranker))


def saved(ranker, folder):
    backbone = ranker.distance.backbone
    adapters = lora.adapters(backbone.net, backbone.name)
    ranker.merged().save_pretrained(folder, ranking=ranker.ranking, adapters=adapters)
    return adapters


@pytest.mark.parametrize("network", ["test_vit", "test_vit[out_indices=[cls]]+test_vit4"])
def test_adapters_are_saved_alone_as_peft_writes_them(weights, tmp_path, monkeypatch, network):
    ranker, _ = fitted(tmp_path, network)
    ours, theirs = tmp_path / "ours", tmp_path / "theirs"
    saved(ranker, ours)
    base = Backbone(network)
    wrapped = peft.PeftModel.from_pretrained(base.net, ours)  # adds them to the network itself
    x = torch.rand(2, 3, 64, 64)
    with torch.no_grad():
        for mine, other in zip(ranker.distance.backbone(x), base(x), strict=True):
            torch.testing.assert_close(mine, other, atol=1e-6, rtol=1e-5)
    wrapped.save_pretrained(theirs, save_embedding_layers=False)  # else it asks the hub for a vocabulary
    states = [load_file(folder / "adapter_model.safetensors") for folder in (ours, theirs)]
    assert states[0].keys() == states[1].keys()
    assert all(torch.equal(states[0][key], states[1][key]) for key in states[0])
    configs = [json.loads((folder / "adapter_config.json").read_text()) for folder in (ours, theirs)]
    alike = {"auto_mapping": None, "target_modules": sorted(configs[1]["target_modules"])}
    assert configs[0] == configs[1] | alike
    assert configs[0]["base_model_name_or_path"] == network
    assert configs[0]["revision"] == Backbone(network).fingerprint()
    assert sum(path.stat().st_size for path in ours.glob("*.safetensors")) < 1e5
    monkeypatch.setitem(sys.modules, "peft", None)
    loaded = LPIPS.from_pretrained(ours)
    torch.testing.assert_close(distances(loaded), distances(ranker), atol=1e-6, rtol=1e-5)
    assert "LoRA adapters in `adapter_model.safetensors`" in (ours / "README.md").read_text()
    loaded.save_pretrained(ours)  # now with the whole network, and no adapters left beside it
    assert torch.equal(distances(LPIPS.from_pretrained(ours)), distances(loaded))
    assert not list(ours.glob("adapter_*"))


def test_adapters_of_another_base_rank_or_training_are_one_line(weights, tmp_path):
    ranker, made = fitted(tmp_path)
    made.save_checkpoint(tmp_path / "model.ckpt")
    adapters = saved(ranker, tmp_path / "mine")
    base = Backbone("test_vit")
    wrong = adapters.state | {"base_model.model.head.lora_A.weight": torch.ones(2, 3)}
    whole = adapters.state | {
        f"base_model.model.head.lora_{part}.weight": torch.ones(2, 2) for part in ("A", "B")
    }
    for load, says in (
        (lambda: LPIPS("test_vit", lin=tmp_path / "mine"), "calibrated on a backbone that it holds itself"),
        (
            lambda: PerceptualRanker.load_from_checkpoint(tmp_path / "model.ckpt", lora_rank=4),
            r"does not fit the model: it has \S+\.lora_A\.default\.weight=\[2, 64\], the model \[4, 64\]$",
        ),
        (
            lambda: made.fit(
                PerceptualRanker("test_vit", "lora", lora_rank=4), Data(), ckpt_path=tmp_path / "model.ckpt"
            ),
            "a resumed run goes on with the settings of its checkpoint: .*lora_rank=2 there, 4 here",
        ),
        (
            lambda: Adapters(adapters.config | {"r": 4}, adapters.state).merge(base.net, "file"),
            r"file holds adapters of rank 2, but adapter_config\.json says r = 4",
        ),
        (lambda: adapters._replace(state=wrong).merge(base.net, "file"), "must hold lora_A and lora_B"),
        (lambda: adapters._replace(state=whole).merge(base.net, "file"), "adapts head, which test_vit"),
        (lambda: adapters.merge(Backbone("test_vit4").net, "file"), r"file holds \(192, 2\) and"),
        (lambda: change(weights, tmp_path), r"mine was calibrated on weights of test_vit .* holds others"),
    ):
        with pytest.raises(ValueError, match=says) as caught:
            load()
        assert "\n" not in str(caught.value)
    for name in ("adapter_config.json", "adapter_model.safetensors"):
        saved(ranker, tmp_path / "mine")
        torch.manual_seed(2)
        saved(PerceptualRanker("test_vit", "lora", lin_init="ones", lora_rank=4), tmp_path / "other")
        (tmp_path / "other" / name).replace(tmp_path / "mine" / name)
        with pytest.raises(ValueError, match=rf"{name}' is not the file that config\.json describes"):
            LPIPS.from_pretrained(tmp_path / "mine")


def change(weights, folder):
    """Load what was saved on other weights of its base."""
    state = load_file(weights / "test_vit.safetensors")
    save_file({key: value + 1e-3 for key, value in state.items()}, weights / "test_vit.safetensors")
    LPIPS.from_pretrained(folder / "mine")


def test_on_random_weights_the_checkpoint_holds_them(tmp_path):
    ranker, made = fitted(tmp_path, {"name": "test_vit", "weights": None})
    made.save_checkpoint(tmp_path / "model.ckpt")
    loaded = PerceptualRanker.load_from_checkpoint(tmp_path / "model.ckpt").eval()
    assert torch.equal(distances(loaded), distances(ranker))


@pytest.mark.parametrize("average", [False, True], ids=["plain", "ema"])
def test_resumed_it_is_one_run(weights, tmp_path, average, averaging):
    def run(epochs, path=None):
        torch.manual_seed(1)
        ranker = PerceptualRanker("test_vit", "lora", lr=0.01, dropout=0, schedule="constant")
        callbacks = [*([averaging()] if average else []), last_checkpoint(tmp_path)]
        made = trainer(tmp_path, *callbacks, epochs=epochs)
        made.fit(ranker, datamodule=Data(), ckpt_path=path)
        return ranker

    run(1)
    (tmp_path / "last.ckpt").rename(tmp_path / "one.ckpt")
    assert torch.equal(flat(run(2, tmp_path / "one.ckpt")), flat(run(2)))


def test_its_features_do_not_stay_so_they_are_not_cached(weights, tmp_path):
    ranker = PerceptualRanker("test_vit", "lora")
    assert not ranker.distance.backbone.frozen
    with pytest.raises(ValueError, match="test_vit cannot be cached"):
        CachedDataModule(pl.LightningDataModule(), ranker.distance, tmp_path)


def test_without_peft_the_extra_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "peft", None)
    with pytest.raises(ValueError, match=r"needs the package peft: pip install -e '.\[lora\]'"):
        PerceptualRanker({"name": "test_vit", "weights": None}, "lora")


def test_train_py_tunes_a_vit_and_evaluate_py_repeats_its_score(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    path = app.write_manifest(tmp_path / "set", rows=40, size=64)
    network = ("backbone.name=vit_tiny_patch16_224", "backbone.weights=null", "model=lora")
    data = ("data=manifest", f"data.path={path}", "data.batch_size=4")
    app.run("train.py", *data, *network, "trainer=smoke", *app.NO_PICTURES, monkeypatch=monkeypatch)
    trained = [line for line in capsys.readouterr().out.splitlines() if "trained" in line]
    (ckpt,) = tmp_path.glob("runs/*/*/checkpoints/last.ckpt")
    app.run("evaluate.py", f"ckpt={ckpt}", monkeypatch=monkeypatch)
    assert trained[0].split()[-1] in capsys.readouterr().out
