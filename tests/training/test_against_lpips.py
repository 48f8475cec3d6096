"""Training gives the numbers of the `lpips` package's trainer, but for its clamping of other layers."""

from contextlib import contextmanager

import lpips
import pytest
import torch
from networks import NETS, patch_trunk, torchvision_state, write_weights
from rankers import fit, make_batches, snapshot

from perceptual.training.module import PerceptualRanker


class ReferenceTrainer(lpips.Trainer):
    """The package's trainer, except that it projects only what is calibrated and drops nothing."""

    def clamp_weights(self):
        for lin in self.net.lins:
            lin.model[1].weight.data.clamp_(min=0)

    def __init__(self, ranker, name, dtype, monkeypatch):
        patch_trunk(name, monkeypatch)
        tune = ranker.hparams["variant"] != "lin"
        self.initialize(net=NETS[name], pnet_rand=True, pnet_tune=tune, use_gpu=False, is_train=True)
        self.net.to(dtype)
        # ours are float32 before they are double
        self.net.scaling_layer.shift = 2 * ranker.distance.backbone.mean.to(dtype) - 1
        self.net.scaling_layer.scale = 2 * ranker.distance.backbone.std.to(dtype)
        for module in [*self.net.modules()]:
            if isinstance(module, torch.nn.Dropout):
                module.p = 0
        for layer, vector in zip(self.net.lins, ranker.distance.lin, strict=True):
            layer.model[1].weight.data = vector.detach().to(dtype, copy=True).view(1, -1, 1, 1)
        for mine, other in zip(self.rankLoss.net.parameters(), ranker.ranking.parameters(), strict=True):
            mine.data = other.detach().clone().view_as(mine)
        theirs = torchvision_state(self.net.net)
        ours = ranker.distance.backbone.net.state_dict()
        assert len(theirs) == len(ours)
        for (key, value), other in zip(self.net.net.state_dict().items(), ours.values(), strict=True):
            assert value.shape == other.shape, key
            value.copy_(other)

    def step(self, batch, dtype):
        images = {key: 2 * batch.role(key).to(dtype) - 1 for key in ("ref", "p0", "p1")}
        self.set_input({**images, "judge": batch.answer.to(dtype)})
        self.optimize_parameters()


@contextmanager
def default_dtype(dtype):
    torch.set_default_dtype(dtype)
    yield
    torch.set_default_dtype(torch.float32)


@pytest.mark.parametrize(
    ("name", "variant", "precision", "tolerance"),
    [
        ("alexnet", "lin", "32-true", 1e-6),
        ("squeezenet1_1", "lin", "32-true", 1e-6),
        ("alexnet", "tune", "64-true", 1e-10),
        ("squeezenet1_1", "scratch", "64-true", 1e-10),
    ],
)
def test_twenty_steps_equal_those_of_the_lpips_trainer(
    name, variant, precision, tolerance, tmp_path, monkeypatch
):
    torch.manual_seed(0)
    dtype = torch.float64 if precision == "64-true" else torch.float32
    write_weights(tmp_path, name)
    monkeypatch.setenv("PERCEPTUAL_WEIGHTS", str(tmp_path))
    with default_dtype(dtype):
        ranker = PerceptualRanker(name, variant, dropout=0)
        theirs = ReferenceTrainer(ranker, name, dtype, monkeypatch)
    before = [vector.detach().clone() for vector in ranker.distance.lin]
    network = snapshot(ranker.distance.backbone.net)
    batches = make_batches(20, items=2, side=32)

    fit(ranker, tmp_path, batches, max_steps=20, max_epochs=-1, precision=precision)
    for batch in batches:
        theirs.step(batch, dtype)

    moved = 0.0
    for ours, layer, start in zip(ranker.distance.lin, theirs.net.lins, before, strict=True):
        expected = layer.model[1].weight.detach().flatten()
        torch.testing.assert_close(ours.detach(), expected, atol=tolerance, rtol=0)
        moved = max(moved, (ours.detach() - start.clamp(min=0)).abs().max().item())
    assert moved > 100 * tolerance
    for ours, expected in zip(ranker.ranking.parameters(), theirs.rankLoss.net.parameters(), strict=True):
        torch.testing.assert_close(ours, expected.view_as(ours), atol=10 * tolerance, rtol=0)
    after = ranker.distance.backbone.net.state_dict()
    if variant == "lin":
        assert all(torch.equal(value, network[key]) for key, value in after.items())
    else:
        assert any((value - network[key]).abs().max() > 1e-4 for key, value in after.items())
        for ours, expected in zip(after.values(), theirs.net.net.state_dict().values(), strict=True):
            torch.testing.assert_close(ours, expected, atol=tolerance, rtol=0)


def test_a_frozen_squeezenet_keeps_the_negative_weights_that_the_reference_clamps(tmp_path, monkeypatch):
    write_weights(tmp_path, "squeezenet1_1")
    monkeypatch.setenv("PERCEPTUAL_WEIGHTS", str(tmp_path))
    ranker = PerceptualRanker("squeezenet1_1")
    before = snapshot(ranker.distance.backbone)
    fit(ranker, tmp_path)
    after = ranker.distance.backbone.state_dict()
    pointwise = [key for key, value in after.items() if value.shape[2:] == (1, 1)]
    assert len(pointwise) == 16
    assert all((after[key] < 0).any() for key in pointwise)
    assert all(torch.equal(value, before[key]) for key, value in after.items())
