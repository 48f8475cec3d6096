"""The protocol of training: what is trained, how, and what is refused."""

import numpy as np
import pytest
import pytorch_lightning as pl
import torch
from judged import triplets
from rankers import RANDOM, distances, fit, loader, make_batches, snapshot, trained, trainer

from perceptual.data import Batch
from perceptual.distance.lpips import LPIPS
from perceptual.ranking import RANKINGS, ranking_loss
from perceptual.training.module import PerceptualRanker


class Watch(pl.Callback):
    """Notes the rate of each epoch, and of each step the lin and the modes of the model."""

    def __init__(self):
        self.rates, self.lowest, self.modes = [], [], []

    def on_train_epoch_start(self, trainer, module):
        self.rates.append(trainer.optimizers[0].param_groups[0]["lr"])

    def on_train_batch_start(self, trainer, module, batch, batch_idx):
        distance = module.distance
        self.modes.append(
            (distance.dropout.training, distance.backbone.training, distance.backbone.net.training)
        )

    def on_train_batch_end(self, trainer, module, outputs, batch, batch_idx):
        self.lowest.append(min(vector.min().item() for vector in module.distance.lin))


def test_the_trainer_runs_that_schedule_and_lin_is_projected_after_every_step(tmp_path):
    watch, ranker = Watch(), PerceptualRanker(RANDOM, lr=0.01)
    assert min(vector.min() for vector in ranker.distance.lin) < 0
    fit(ranker, tmp_path, max_epochs=10, callbacks=[watch])
    np.testing.assert_allclose(watch.rates, [0.01] * 6 + [0.008, 0.006, 0.004, 0.002])
    assert len(watch.lowest) == 20
    assert min(watch.lowest) >= 0
    assert max(watch.lowest) == 0  # without the projection some would have been below


@pytest.mark.parametrize(("variant", "network"), [("lin", False), ("tune", True), ("scratch", True)])
def test_dropout_acts_in_training_and_a_trained_backbone_is_in_training_mode(variant, network, tmp_path):
    watch = Watch()
    ranker = PerceptualRanker(RANDOM, variant)
    batches = make_batches()
    made = trainer(tmp_path, max_epochs=2, callbacks=[watch])
    made.fit(ranker, loader(batches), loader(batches))  # validation between epochs switches modes
    assert watch.modes == [(True, network, network)] * 4


def test_what_is_trained_is_what_the_variant_says(tmp_path):
    for variant, more in (
        ("lin", set()),
        ("tune", {"distance.backbone"}),
        ("scratch", {"distance.backbone"}),
    ):
        ranker = PerceptualRanker(RANDOM, variant)
        before = snapshot(ranker)
        made = fit(ranker, tmp_path)
        changed = {key for key, value in ranker.state_dict().items() if not torch.equal(value, before[key])}
        parts = {".".join(key.split(".")[:2]) for key in changed}
        assert parts == {"distance.lin", "ranking.layers"} | more
        groups = made.optimizers[0].param_groups
        assert len(groups) == 1 + len(more)
        for group in groups:
            assert (group["betas"], group["weight_decay"], group["initial_lr"]) == ((0.5, 0.999), 0, 1e-4)
        ids = [id(p) for group in groups for p in group["params"]]
        assert sorted(ids) == sorted(id(p) for p in ranker.parameters() if p.requires_grad)


def test_the_backbone_may_have_a_rate_of_its_own(tmp_path):
    ranker = PerceptualRanker(RANDOM, "tune", lr=0.01, backbone_lr_factor=0.1)
    head, backbone = fit(ranker, tmp_path).optimizers[0].param_groups
    assert (head["lr"], backbone["lr"]) == (0.01, pytest.approx(0.001))
    assert {id(p) for p in backbone["params"]} == {id(p) for p in ranker.distance.backbone.parameters()}


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("adam", {"betas": (0.9, 0.99), "weight_decay": 0.1}),
        ("adamw", {"betas": (0.9, 0.99), "weight_decay": 0.1}),
        ("sgd", {"momentum": 0.9, "weight_decay": 0.1}),
    ],
)
def test_optimisers_are_pytorchs_with_the_arguments_given(name, expected, tmp_path):
    ranker = PerceptualRanker(RANDOM, optimizer=name, betas=(0.9, 0.99), weight_decay=0.1, lr=0.01)
    before = snapshot(ranker)
    (optimizer,) = fit(ranker, tmp_path).optimizers
    assert type(optimizer).__name__.lower() == name
    assert {key: optimizer.param_groups[0][key] for key in expected} == expected
    assert not torch.equal(ranker.distance.lin[0], before["distance.lin.0"].clamp(min=0))


class Rates(pl.Callback):
    """Notes the rate of each step."""

    def __init__(self):
        self.seen = []

    def on_before_optimizer_step(self, trainer, module, optimizer):
        self.seen.append(optimizer.param_groups[0]["lr"])


@pytest.mark.parametrize(
    ("schedule", "warmup", "expected"),
    [
        ("constant", 0.0, [1] * 8),
        ("constant", 0.25, [1 / 3, 2 / 3, 1, 1, 1, 1, 1, 1]),
        ("cosine", 0.0, [(1 + np.cos(np.pi * k / 8)) / 2 for k in range(8)]),
        ("cosine", 0.5, [0.2, 0.4, 0.6, 0.8, 1, 0.853553, 0.5, 0.146447]),
    ],
)
def test_schedules_by_step_span_the_run(schedule, warmup, expected, tmp_path):
    rates = Rates()
    ranker = PerceptualRanker(RANDOM, schedule=schedule, warmup=warmup, lr=0.01)
    fit(ranker, tmp_path, max_epochs=4, callbacks=[rates])
    np.testing.assert_allclose(rates.seen, 0.01 * np.array(expected), rtol=1e-5)


def test_a_schedule_that_ends_with_the_run_needs_an_end(tmp_path):
    with pytest.raises(ValueError, match=r"schedule=cosine .*needs a run of max_epochs or max_steps"):
        fit(PerceptualRanker(RANDOM, schedule="cosine"), tmp_path, max_epochs=-1)


@pytest.mark.parametrize(("init", "expected"), [("ones", lambda p: torch.ones_like(p)), ("v0.1", None)])
def test_lin_may_start_elsewhere(init, expected, alexnet, tmp_path):
    lin = PerceptualRanker("alexnet", lin_init=init).distance.lin
    published = LPIPS("alexnet").lin
    assert all(vector.requires_grad for vector in lin)
    for ours, released in zip(lin, published, strict=True):
        assert torch.equal(ours, expected(released) if expected else released)
    ranker, path = trained(tmp_path, "alexnet", lin_init=init)
    assert torch.equal(distances(PerceptualRanker.load_from_checkpoint(path)), distances(ranker))


def test_weights_of_the_loss_are_used(tmp_path):
    def train(weight):
        torch.manual_seed(0)
        ranker = PerceptualRanker(RANDOM, dropout=0)
        batches = [batch._replace(weight=torch.tensor(weight)) for batch in make_batches()]
        fit(ranker, tmp_path, batches)
        return ranker.ranking.layers[0].weight

    assert not torch.equal(train([1.0, 1.0, 1.0, 1.0]), train([0.0, 0.0, 0.0, 4.0]))


def test_lin_starts_as_the_references_convolutions_do():
    torch.manual_seed(0)
    lin = PerceptualRanker("tf_efficientnet_lite0").distance.lin
    bounds = [len(vector) ** -0.5 for vector in lin]
    for vector, bound in zip(lin, bounds, strict=True):
        assert vector.abs().max() <= bound
        assert abs(vector.std().item() / (bound / 3**0.5) - 1) < 0.4


@pytest.mark.parametrize("ranking", RANKINGS)
def test_both_rankings_train(ranking, tmp_path):
    ranker = PerceptualRanker(RANDOM, ranking=ranking)
    before = snapshot(ranker.ranking)
    fit(ranker, tmp_path)
    assert all(not torch.equal(v, before[k]) for k, v in ranker.ranking.state_dict().items())


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"variant": "frozen"}, "variant must be one of lin, tune, scratch, lora, head, got 'frozen'"),
        ({"ranking": "bce"}, "ranking must be one of paper, antisymmetric, bounded, ratio, got 'bce'"),
        ({"form": "mean"}, "form must be one of per_position, pooled, concatenated, got 'mean'"),
        ({"lr": 0}, "lr must be positive, got 0"),
        ({"dropout": 1}, "dropout must be at least 0 and less than 1, got 1"),
        ({"dropout": -0.1}, "dropout must be at least 0"),
        ({"lr": float("nan")}, "lr must be positive, got nan"),
        ({"optimizer": "lion"}, "optimizer must be one of adam, adamw, sgd, got 'lion'"),
        ({"schedule": "step"}, "schedule must be one of paper, constant, cosine, got 'step'"),
        ({"lin_init": "zeros"}, "lin_init must be one of random, ones, v0.1, file, got 'zeros'"),
        ({"augmentation": "flip"}, "augmentation must be a list of flip, swap, crop, light, got 'flip'"),
        (
            {"augmentation": ["flop"]},
            r"augmentation must be a list of flip, swap, crop, light, got \['flop'\]",
        ),
        ({"lin_init": "v0.1"}, "no calibration 'v0.1' was published for 'test_resnet'"),
        ({"betas": (0.9,)}, "betas must be two numbers, at least 0 and less than 1, got"),
        ({"betas": (0.9, 1)}, "betas must be two numbers, at least 0 and less than 1, got"),
        ({"weight_decay": -1}, "weight_decay must be at least 0, got -1"),
        ({"backbone_lr_factor": 0}, "backbone_lr_factor must be positive, got 0"),
        ({"schedule": "cosine", "warmup": 1}, "warmup must be at least 0 and less than 1, got 1"),
        ({"warmup": 0.1}, "schedule=paper has no warmup: use schedule=constant or schedule=cosine"),
        ({"lora_rank": 0}, "lora_rank must be at least 1, got 0"),
        ({"variant": "lora"}, "adapts the attention of transformers, and test_resnet has none"),
        ({"seed": -1}, "seed must be at least 0, got -1"),
        ({"backbone": "alexnt"}, "did you mean .*alexnet"),
    ],
)
def test_arguments_out_of_range_are_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        PerceptualRanker(**{"backbone": RANDOM, **arguments})


def bytes_kept(ranker: PerceptualRanker, batch: Batch) -> int:
    """Bytes of activations that a step keeps for its backward pass, which it takes."""
    kept = {}

    def keep(tensor):
        kept[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    torch.manual_seed(3)
    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        d0, d1 = batch.distances(ranker.distance.train())
        loss = ranking_loss(ranker.ranking(d0, d1), batch.answer, batch.weight)
    loss.backward()
    return sum(kept.values())


@pytest.mark.parametrize(
    ("name", "variant"),
    [
        ("test_vit", "scratch"),
        ("test_vit", "lora"),
        ("test_convnext", "scratch"),
        ("test_vit+test_vit", "scratch"),
    ],
)
def test_gradient_checkpointing_gives_the_same_gradients_in_less_memory(name, variant):
    if "vit" in name:
        pytest.importorskip("timm", "1.0.20")
    if variant == "lora":
        pytest.importorskip("peft")
    torch.manual_seed(0)
    plain = PerceptualRanker({"name": name, "weights": None}, variant, dropout=0)
    spare = PerceptualRanker({"name": name, "weights": None}, variant, dropout=0, grad_checkpointing=True)
    spare.load_state_dict(plain.state_dict())
    images = torch.rand(3, 6, 3, 64, 64)
    batch = triplets(*images, torch.rand(6), torch.ones(6), torch.zeros(6, dtype=torch.int64))
    assert bytes_kept(spare, batch) < 0.8 * bytes_kept(plain, batch)
    for (key, one), other in zip(plain.named_parameters(), spare.parameters(), strict=True):
        if one.requires_grad:
            torch.testing.assert_close(one.grad, other.grad, msg=lambda text, key=key: f"{key}: {text}")


@pytest.mark.parametrize(
    ("name", "variant", "reason"),
    [
        ("alexnet", "scratch", "alexnet has no gradient checkpointing"),
        ("test_vit", "lin", "variant=lin freezes it"),
    ],
)
def test_gradient_checkpointing_is_refused_where_it_can_do_nothing(name, variant, reason):
    with pytest.raises(ValueError, match=reason):
        PerceptualRanker({"name": name, "weights": None}, variant, grad_checkpointing=True)
