"""Checkpoints: what is in them, where they load, and which are refused."""

import re

import pytest
import pytorch_lightning as pl
import torch
from networks import torchvision_state, trunk
from rankers import RANDOM, distances, fit, loader, make_batches, trained, trainer
from safetensors.torch import save_file

from perceptual.distance.lpips import LPIPS
from perceptual.features.backbone import Backbone
from perceptual.training.checkpoints import digest
from perceptual.training.module import PerceptualRanker


def load_raw(path):
    return torch.load(path, weights_only=True)


def test_a_lin_checkpoint_leaves_out_the_backbone_and_loads_by_its_path_alone(alexnet, tmp_path):
    ranker, path = trained(tmp_path, "alexnet")
    saved = load_raw(path)
    assert not [key for key in saved["state_dict"] if "backbone" in key]
    assert path.stat().st_size < 200_000
    assert saved["backbone"] == {
        "name": "alexnet",
        "source": f"file:{alexnet / 'alexnet.safetensors'}",
        "saved": False,
        "sha256": ranker.distance.backbone.fingerprint(),
    }
    loaded = PerceptualRanker.load_from_checkpoint(path)
    assert torch.equal(distances(loaded), distances(ranker))
    assert all(vector.min() >= 0 for vector in loaded.distance.lin)


def test_a_loaded_model_measures_alike_each_time(alexnet, tmp_path):
    _, path = trained(tmp_path, "alexnet")
    loaded = PerceptualRanker.load_from_checkpoint(path)
    assert torch.equal(distances(loaded), distances(loaded))  # no dropout before fit asks for it


def test_other_weights_under_the_same_name_are_refused_by_name(alexnet, tmp_path):
    _, path = trained(tmp_path, "alexnet")
    state = torchvision_state(trunk("alexnet"))
    state["features.0.bias"][0] += 1e-3
    save_file(state, alexnet / "alexnet.safetensors")
    with pytest.raises(
        ValueError, match=r"calibrated on weights of alexnet from file:.* holds others"
    ) as raised:
        PerceptualRanker.load_from_checkpoint(path)
    assert len(str(raised.value).splitlines()) == 1


def test_the_same_weights_in_another_place_are_accepted(alexnet, tmp_path, monkeypatch):
    ranker, path = trained(tmp_path, "alexnet")
    alexnet.rename(tmp_path / "moved")
    monkeypatch.setenv("PERCEPTUAL_WEIGHTS", str(tmp_path / "moved"))
    loaded = PerceptualRanker.load_from_checkpoint(path)
    assert torch.equal(distances(loaded), distances(ranker))


def test_weights_that_are_gone_are_named(alexnet, tmp_path, monkeypatch):
    _, path = trained(tmp_path, "alexnet")
    monkeypatch.delenv("PERCEPTUAL_WEIGHTS")
    with pytest.raises(FileNotFoundError, match="no weights for alexnet"):
        PerceptualRanker.load_from_checkpoint(path)


@pytest.mark.parametrize("variant", ["lin", "tune", "scratch"])
def test_a_random_backbone_is_saved_and_comes_back(variant, tmp_path):
    ranker, path = trained(tmp_path, RANDOM, variant)
    assert load_raw(path)["backbone"]["saved"]
    loaded = PerceptualRanker.load_from_checkpoint(path).eval()
    assert torch.equal(distances(loaded), distances(ranker))
    assert loaded.distance.backbone.source == "random"


def test_a_tuned_checkpoint_loads_where_the_weights_are_not(alexnet, tmp_path, monkeypatch):
    ranker, path = trained(tmp_path, "alexnet", "tune")
    assert ranker.hparams["backbone"] == {"name": "alexnet"}  # the running model keeps its own
    monkeypatch.delenv("PERCEPTUAL_WEIGHTS")
    loaded = PerceptualRanker.load_from_checkpoint(path).eval()
    assert torch.equal(distances(loaded), distances(ranker))
    assert loaded.distance.backbone.source.startswith("file:")


def test_a_frozen_backbone_that_was_changed_is_saved(alexnet, tmp_path):
    ranker = PerceptualRanker("alexnet")
    made = fit(ranker, tmp_path)
    with torch.no_grad():
        next(ranker.distance.backbone.parameters()).mul_(1.5)
    ranker.eval()
    made.save_checkpoint(tmp_path / "model.ckpt")
    loaded = PerceptualRanker.load_from_checkpoint(tmp_path / "model.ckpt")
    assert torch.equal(distances(loaded), distances(ranker))
    again = trainer(tmp_path)
    again.strategy.connect(loaded)
    again.save_checkpoint(tmp_path / "again.ckpt")
    assert torch.equal(
        distances(PerceptualRanker.load_from_checkpoint(tmp_path / "again.ckpt")), distances(ranker)
    )


def test_a_checkpoint_of_another_precision_comes_back(alexnet, tmp_path):
    ranker = PerceptualRanker("alexnet")
    fit(ranker, tmp_path, precision="64-true").save_checkpoint(tmp_path / "model.ckpt")
    loaded = PerceptualRanker.load_from_checkpoint(tmp_path / "model.ckpt")
    torch.testing.assert_close(distances(loaded), distances(ranker.float().eval()))


class Interrupt(pl.Callback):
    """Ends a run after its second epoch."""

    def on_train_epoch_end(self, trainer, module):
        trainer.should_stop = trainer.current_epoch == 1


def test_an_interrupted_run_resumed_equals_one_that_was_not(alexnet, tmp_path):
    def run(seed, ckpt_path=None, **arguments):
        torch.manual_seed(seed)
        ranker = PerceptualRanker("alexnet", dropout=0)
        made = trainer(tmp_path, max_epochs=5, **arguments)
        made.fit(ranker, loader(make_batches()), ckpt_path=ckpt_path)
        return ranker, made

    whole, _ = run(0)
    _, stopped = run(0, callbacks=[Interrupt()])
    assert stopped.global_step == 4
    stopped.save_checkpoint(tmp_path / "last.ckpt")
    resumed, made = run(1, tmp_path / "last.ckpt")
    assert made.global_step == 10
    for ours, expected in zip(resumed.parameters(), whole.parameters(), strict=True):
        torch.testing.assert_close(ours, expected, atol=1e-6, rtol=1e-4)


@pytest.mark.parametrize("variant", ["lin", "tune"])
def test_a_run_resumes_from_its_checkpoint(alexnet, tmp_path, variant):
    ranker, path = trained(tmp_path, "alexnet", variant)
    resumed = PerceptualRanker("alexnet", variant)
    made = trainer(tmp_path, max_epochs=2)
    made.fit(resumed, loader(make_batches()), ckpt_path=path)
    assert made.global_step == 4
    assert not torch.equal(distances(resumed.eval()), distances(ranker))
    made.save_checkpoint(path)
    assert torch.equal(distances(PerceptualRanker.load_from_checkpoint(path).eval()), distances(resumed))


def test_a_checkpoint_of_another_backbone_is_refused_by_both_names(tmp_path):
    _, path = trained(tmp_path, RANDOM)
    other = PerceptualRanker({"name": "test_convnext", "weights": None})
    with pytest.raises(
        ValueError, match="checkpoint is of backbone test_resnet, the model has test_convnext"
    ):
        trainer(tmp_path, max_epochs=2).fit(other, loader(make_batches()), ckpt_path=path)


def test_a_checkpoint_of_something_else_is_refused(tmp_path):
    path = tmp_path / "other.ckpt"
    hyperparameters = {"backbone": RANDOM}
    version = {"pytorch-lightning_version": pl.__version__}
    torch.save({"state_dict": {}, "hyper_parameters": hyperparameters, **version}, path)
    with pytest.raises(ValueError, match="not a checkpoint of a PerceptualRanker"):
        PerceptualRanker.load_from_checkpoint(path)


def test_hyperparameters_are_plain_values(alexnet, tmp_path):
    _, path = trained(tmp_path, "alexnet", lr=2e-4, dropout=0.25)
    saved = load_raw(path)["hyper_parameters"]
    robust = saved.pop("robust")
    assert (robust["steps"], robust["radius"]) == (0, "4/255")
    assert saved == {
        "backbone": {"name": "alexnet"},
        "variant": "lin",
        "loss": "bce",
        "margin": 0.1,
        "ranking": "paper",
        "form": "per_position",
        "center": False,
        "lin_init": "random",
        "optimizer": "adam",
        "lr": 2e-4,
        "backbone_lr_factor": 1.0,
        "betas": [0.5, 0.999],
        "weight_decay": 0.0,
        "schedule": "paper",
        "warmup": 0.0,
        "dropout": 0.25,
        "lora_rank": 8,
        "lora_alpha": None,
        "lora_dropout": 0.0,
        "lora_targets": None,
        "augmentation": [],
        "seed": 0,
    }


def test_arguments_of_the_backbone_come_back(tmp_path):
    spec = {**RANDOM, "out_indices": [1, 3], "input_size": 48}
    ranker, path = trained(tmp_path, spec)
    loaded = PerceptualRanker.load_from_checkpoint(path)
    assert loaded.distance.backbone.out_indices == (1, 3)
    assert loaded.distance.backbone.input_size == (48, 48)
    assert torch.equal(distances(loaded), distances(ranker))


def test_the_form_comes_back_and_another_is_refused(tmp_path):
    ranker, path = trained(tmp_path, RANDOM, form="pooled")
    loaded = PerceptualRanker.load_from_checkpoint(path).eval()
    assert loaded.distance.form == "pooled"
    assert torch.equal(distances(loaded), distances(ranker))
    with pytest.raises(ValueError, match=r"it has form=pooled, the model per_position$"):
        trainer(tmp_path).fit(PerceptualRanker(RANDOM), loader(make_batches()), ckpt_path=path)


def test_the_trained_distance_is_an_lpips_with_its_lin(alexnet, tmp_path):
    ranker, _ = trained(tmp_path, "alexnet")
    vectors = {f"lin.{i}": v.detach().clone() for i, v in enumerate(ranker.distance.lin)}
    save_file(vectors, tmp_path / "lin.safetensors")
    assert torch.equal(distances(LPIPS(Backbone("alexnet"), tmp_path / "lin.safetensors")), distances(ranker))


def change_state(change):
    """Change a tensor of each kind in the state dict of a checkpoint."""

    def changed(saved, key):
        saved["state_dict"][key] = change(saved["state_dict"][key])

    return changed


LIN, RANKING = "distance.lin.0", "ranking.layers.0.weight"
CONV = "distance.backbone.net.conv1.0.weight"
MANY = 10**12
NOT_FINITE = change_state(lambda value: value * torch.nan)
THEIRS = {
    "lin that is not finite": (lambda saved: NOT_FINITE(saved, LIN), LIN),
    "negative lin": (lambda saved: change_state(lambda lin: -lin - 1)(saved, LIN), LIN),
    "lin as a scalar": (lambda saved: change_state(lambda lin: lin[0].clone())(saved, LIN), LIN),
    "lin as whole numbers": (lambda saved: change_state(lambda lin: lin.long())(saved, LIN), LIN),
    "ranking that is not finite": (lambda saved: NOT_FINITE(saved, RANKING), RANKING),
    "backbone that is not finite": (lambda saved: NOT_FINITE(saved, CONV), CONV),
    "sparse": (lambda saved: change_state(lambda w: w.to_sparse())(saved, RANKING), ""),
    "meta": (lambda saved: change_state(lambda w: w.to("meta"))(saved, RANKING), RANKING),
    "expanded": (lambda saved: change_state(lambda w: torch.zeros(1).expand(MANY))(saved, RANKING), RANKING),
    "expanded in an optimiser": (
        lambda saved: saved.update(
            optimizer_states=[{"state": {0: {"exp_avg": torch.zeros(1).expand(MANY)}}}]
        ),
        "exp_avg",
    ),
    "no checksum": (lambda saved: saved.update(sha256=None), "sha256"),
    "the checksum of nothing": (lambda saved: saved.update(sha256=""), "was damaged or changed"),
    "huge images": (
        lambda saved: saved["hyper_parameters"]["backbone"].update(input_size=10**6),
        "input_size",
    ),
    "no size": (lambda saved: saved["hyper_parameters"]["backbone"].update(input_size="64"), "input_size"),
    "std of nearly 0": (lambda saved: saved["hyper_parameters"]["backbone"].update(std=[1e-300] * 3), "std"),
    "a name that opens a file": (
        lambda saved: saved["hyper_parameters"]["backbone"].update(name="test_resnet[checkpoint_path=/x]"),
        "checkpoint_path",
    ),
    "options that open a file": (
        lambda saved: saved["hyper_parameters"]["backbone"].update(options={"checkpoint_path": "/x"}),
        "checkpoint_path",
    ),
    "names that are no text": (lambda saved: saved["hyper_parameters"].update({3: 1}), "hyper_parameters"),
}


@pytest.fixture(scope="module")
def checkpoint_bytes(tmp_path_factory):
    return trained(tmp_path_factory.mktemp("trained"), RANDOM)[1].read_bytes()


@pytest.mark.parametrize("how", THEIRS)
def test_a_checkpoint_out_of_range_is_refused_in_one_line(how, checkpoint_bytes, tmp_path):
    change, what = THEIRS[how]
    path = tmp_path / "theirs.ckpt"
    path.write_bytes(checkpoint_bytes)
    saved = load_raw(path)
    change(saved)
    weights = saved["state_dict"][RANKING]
    if saved["sha256"] and weights.layout == torch.strided and weights.is_cpu and "expanded" not in how:
        saved["sha256"] = digest(saved)
    torch.save(saved, path)
    with pytest.raises(ValueError, match=rf"theirs\.ckpt.*{re.escape(what)}") as raised:
        PerceptualRanker.load_from_checkpoint(path)
    assert "\n" not in str(raised.value)
