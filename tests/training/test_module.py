from contextlib import contextmanager

import lpips
import numpy as np
import pytest
import pytorch_lightning as pl
import reference
import torch
from networks import NETS, patch_trunk, torchvision_state, trunk, write_weights
from safetensors.torch import save_file
from torch.utils.data import DataLoader

from perceptual.data import SharedTripletBatch, TripletBatch
from perceptual.distance.lpips import LPIPS
from perceptual.features.backbone import Backbone
from perceptual.training.module import Diverged, PerceptualRanker

RANDOM = {"name": "test_resnet", "weights": None}


def make_batches(count=2, items=4, side=40, seed=0, subsets=1):
    generator = torch.Generator().manual_seed(seed)

    def batch(first):
        ref = torch.rand(items, 3, side, side, generator=generator)
        p0, p1 = ((ref + s * torch.randn(ref.shape, generator=generator)).clamp(0, 1) for s in (0.1, 0.3))
        judgment = torch.randint(6, (items,), generator=generator) / 5
        subset = (torch.arange(items) + first) % subsets
        return TripletBatch(ref, p0, p1, judgment, torch.ones(items), subset)

    return [batch(first) for first in range(count)]


def loader(batches):
    return DataLoader(batches, batch_size=None)


class Data(pl.LightningDataModule):
    """The same batches to train on and to score, in named subsets."""

    def __init__(self, batches, subsets):
        super().__init__()
        self.batches, self.subsets = batches, subsets

    def train_dataloader(self):
        return loader(self.batches)

    def val_dataloader(self):
        return loader(self.batches)


def trainer(tmp_path, **arguments):
    quiet = {"logger": False, "enable_progress_bar": False, "enable_model_summary": False}
    callbacks = arguments.pop("callbacks", [])
    return pl.Trainer(
        accelerator="cpu",
        default_root_dir=tmp_path,
        enable_checkpointing=False,
        callbacks=callbacks,
        **{"max_epochs": 1, **quiet, **arguments},
    )


def fit(ranker, tmp_path, batches=None, **arguments):
    made = trainer(tmp_path, **arguments)
    made.fit(ranker, loader(make_batches() if batches is None else batches))
    return made


def snapshot(module):
    return {key: value.detach().clone() for key, value in module.state_dict().items()}


@pytest.fixture
def alexnet(tmp_path, monkeypatch):
    """PERCEPTUAL_WEIGHTS with random weights of AlexNet; the folder."""
    folder = tmp_path / "weights"
    folder.mkdir()
    write_weights(folder, "alexnet")
    monkeypatch.setenv("PERCEPTUAL_WEIGHTS", str(folder))
    return folder


# --- training equals the reference's, but for its clamping of other layers ---


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
        for module in [*self.net.modules()]:
            if isinstance(module, torch.nn.Dropout):
                module.p = 0
        for layer, vector in zip(self.net.lins, ranker.distance.lin, strict=True):
            layer.model[1].weight.data = vector.detach().clone().view(1, -1, 1, 1)
        for mine, other in zip(self.rankLoss.net.parameters(), ranker.ranking.parameters(), strict=True):
            mine.data = other.detach().clone().view_as(mine)
        theirs = torchvision_state(self.net.net)
        ours = ranker.distance.backbone.net.state_dict()
        assert len(theirs) == len(ours)
        for (key, value), other in zip(self.net.net.state_dict().items(), ours.values(), strict=True):
            assert value.shape == other.shape, key
            value.copy_(other)

    def step(self, batch, dtype):
        images = {key: 2 * getattr(batch, key).to(dtype) - 1 for key in ("ref", "p0", "p1")}
        self.set_input({**images, "judge": batch.judgment.to(dtype)})
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
    with default_dtype(dtype):  # or ours and theirs round mean and std differently before they are double
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


# --- the protocol ---


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
    for variant, trained in (
        ("lin", set()),
        ("tune", {"distance.backbone"}),
        ("scratch", {"distance.backbone"}),
    ):
        ranker = PerceptualRanker(RANDOM, variant)
        before = snapshot(ranker)
        made = fit(ranker, tmp_path)
        changed = {key for key, value in ranker.state_dict().items() if not torch.equal(value, before[key])}
        parts = {".".join(key.split(".")[:2]) for key in changed}
        assert parts == {"distance.lin", "ranking.layers"} | trained
        groups = made.optimizers[0].param_groups
        assert len(groups) == 1 + len(trained)
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
        ("adam", {"betas": (0.9, 0.99), "weight_decay": 0.1, "decoupled_weight_decay": False}),
        ("adamw", {"betas": (0.9, 0.99), "weight_decay": 0.1, "decoupled_weight_decay": True}),
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


# --- augmentation ---


def augmented(ranker, batches, tmp_path):
    """The batches as the distance gets to see them in two epochs."""
    seen = []
    forward = TripletBatch.distances

    def note(batch, distance):
        seen.append(batch)
        return forward(batch, distance)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(TripletBatch, "distances", note)
        fit(ranker, tmp_path, batches, max_epochs=2)
    return seen


@pytest.mark.parametrize("augmentation", [(), ("flip",), ("swap",), ("flip", "swap")], ids=str)
def test_each_triplet_is_changed_whole_or_not_at_all_half_of_the_time(augmentation, tmp_path):
    batches = make_batches(8, items=6, side=16)
    seen = augmented(PerceptualRanker(RANDOM, augmentation=augmentation), batches, tmp_path)
    kinds = []
    for batch, original in zip(seen, [*batches, *batches], strict=True):
        for i in range(6):
            variants = {}
            for flipped in (False, True):
                ref, p0, p1 = (image[i].flip(2) if flipped else image[i] for image in original[:3])
                variants[flipped, False] = (ref, p0, p1, original.judgment[i])
                variants[flipped, True] = (ref, p1, p0, 1 - original.judgment[i])
            ours = [batch.ref[i], batch.p0[i], batch.p1[i], batch.judgment[i]]
            (kind,) = [k for k, v in variants.items() if all(map(torch.equal, ours, v))]
            kinds.append(kind)
    flips, swaps = np.mean(kinds, axis=0)
    assert (0.3 < flips < 0.7) if "flip" in augmentation else flips == 0
    assert (0.3 < swaps < 0.7) if "swap" in augmentation else swaps == 0
    assert kinds[:48] != kinds[48:] or not augmentation  # the epochs differ


def test_the_images_of_a_triplet_are_cropped_and_lit_alike_each_triplet_by_itself(tmp_path):
    images = torch.rand(1, 3, 16, 16, generator=torch.Generator().manual_seed(0)).expand(6, -1, -1, -1)
    batches = [TripletBatch(images, images, images, torch.ones(6), torch.ones(6), torch.zeros(6).long())]
    for batch in augmented(
        PerceptualRanker(RANDOM, augmentation=["flip", "crop", "light"]), batches, tmp_path
    ):
        assert torch.equal(batch.ref, batch.p0)
        assert torch.equal(batch.ref, batch.p1)
        assert len(batch.ref.flatten(1).unique(dim=0)) == 6


@pytest.mark.parametrize("variant", ["lin", "tune"])
def test_training_on_images_once_a_batch_is_training_on_triplets(variant, tmp_path):
    generator = torch.Generator().manual_seed(0)
    images = torch.rand(5, 3, 32, 32, generator=generator)
    rows = torch.stack([torch.randperm(5, generator=generator)[:3] for _ in range(8)], dim=1)
    judgment = torch.randint(6, (8,), generator=generator) / 5
    shared = SharedTripletBatch(images, *rows, judgment, torch.ones(8), torch.zeros(8).long())
    lins = []
    for batch in (shared, shared.apart()):
        torch.manual_seed(0)
        backbone = {"name": "test_convnext", "weights": None}  # no statistics of a batch in it
        ranker = PerceptualRanker(backbone, variant, "antisymmetric", lin_init="ones", dropout=0)
        fit(ranker, tmp_path, [batch] * 20)
        lins.append(torch.cat(list(ranker.distance.lin)).detach())
    assert (lins[0] - 1).abs().max() > 1e-3
    torch.testing.assert_close(*lins, atol=2e-5, rtol=0)


def test_the_augmentation_depends_on_seed_epoch_and_batch_only(tmp_path):
    def judgments(seed, torch_seed):
        torch.manual_seed(torch_seed)
        ranker = PerceptualRanker(RANDOM, augmentation=["swap"], seed=seed)
        seen = augmented(ranker, make_batches(4, items=6, side=16), tmp_path)
        return torch.cat([batch.judgment for batch in seen])

    assert torch.equal(judgments(1, 2), judgments(1, 3))
    assert not torch.equal(judgments(1, 2), judgments(2, 2))


# --- training that goes wrong ---


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_a_loss_that_is_not_finite_ends_training_with_one_line(bad, tmp_path):
    ranker = PerceptualRanker(RANDOM)
    batches = make_batches(3)
    batches[1] = batches[1]._replace(weight=torch.tensor([1, bad, 1, 1]))
    message = r"the loss is (nan|inf) in step 2, epoch 1; a lower lr than 0.0001 or trainer.gradient_clip_val"
    with pytest.raises(Diverged, match=message):
        fit(ranker, tmp_path, batches)
    assert all(p.isfinite().all() for p in ranker.parameters())  # as they were before that step


def test_weights_that_are_not_finite_are_never_saved(tmp_path):
    ranker = PerceptualRanker(RANDOM)
    made = fit(ranker, tmp_path)
    ranker.ranking.layers[0].weight.data[0, 0] = float("nan")
    with pytest.raises(Diverged, match=r"ranking.layers.0.weight has values that are not finite"):
        made.save_checkpoint(tmp_path / "model.ckpt")
    assert not (tmp_path / "model.ckpt").exists()


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


@pytest.mark.parametrize("ranking", ["paper", "antisymmetric"])
def test_both_rankings_train(ranking, tmp_path):
    ranker = PerceptualRanker(RANDOM, ranking=ranking)
    before = snapshot(ranker.ranking)
    fit(ranker, tmp_path)
    assert all(not torch.equal(v, before[k]) for k, v in ranker.ranking.state_dict().items())


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"variant": "frozen"}, "variant must be one of lin, tune, scratch, lora, got 'frozen'"),
        ({"ranking": "bce"}, "ranking must be one of paper, antisymmetric, got 'bce'"),
        ({"form": "mean"}, "form must be one of per_position, pooled, got 'mean'"),
        ({"lr": 0}, "lr must be positive, got 0"),
        ({"dropout": 1}, "dropout must be at least 0 and less than 1, got 1"),
        ({"dropout": -0.1}, "dropout must be at least 0"),
        ({"lr": float("nan")}, "lr must be positive, got nan"),
        ({"optimizer": "lion"}, "optimizer must be one of adam, adamw, sgd, got 'lion'"),
        ({"schedule": "step"}, "schedule must be one of paper, constant, cosine, got 'step'"),
        ({"lin_init": "zeros"}, "lin_init must be one of random, ones, v0.1, got 'zeros'"),
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


# --- scores ---


def test_what_is_logged(tmp_path):
    data = Data(make_batches(2, items=6, subsets=2), ["cnn", "traditional"])
    made = trainer(tmp_path)
    made.fit(PerceptualRanker(RANDOM), datamodule=data)
    assert set(made.logged_metrics) == {
        "train/loss",
        "train/2afc",
        "val/2afc/cnn",
        "val/2afc/traditional",
        "val/2afc/mean",
    }


def test_validation_logs_the_score_of_the_formula(tmp_path):
    torch.manual_seed(0)
    batches = make_batches(3, items=5, subsets=2)  # sizes of the subsets differ within batches and in all
    ranker = PerceptualRanker(RANDOM)
    ranker.distance.project()
    made = trainer(tmp_path)
    (logged,) = made.validate(ranker, datamodule=Data(batches, ["cnn", "traditional"]), verbose=False)

    ranker.eval()
    with torch.no_grad():
        pairs = [(ranker(b.ref, b.p0), ranker(b.ref, b.p1), b.judgment, b.subset) for b in batches]
    d0, d1, judgment, subset = (torch.cat(column).numpy() for column in zip(*pairs, strict=True))
    scores = [
        reference.two_afc_score(d0[subset == i], d1[subset == i], judgment[subset == i]) for i in (0, 1)
    ]
    assert scores[0] != scores[1]
    np.testing.assert_allclose(logged["val/2afc/cnn"], scores[0], atol=1e-6)
    np.testing.assert_allclose(logged["val/2afc/traditional"], scores[1], atol=1e-6)
    np.testing.assert_allclose(logged["val/2afc/mean"], np.mean(scores), atol=1e-6)


class Invert(pl.Callback):
    """Turns the distance around for the second validation."""

    def __init__(self):
        self.scores = []

    def on_validation_start(self, trainer, module):
        if self.scores:
            for vector in module.distance.lin:
                vector.data.neg_()

    def on_validation_end(self, trainer, module):
        self.scores.append(trainer.callback_metrics["val/2afc/mean"].item())


def test_a_score_does_not_remember_the_epoch_before(tmp_path):
    invert, ranker = Invert(), PerceptualRanker(RANDOM, lr=1e-12)
    made = trainer(tmp_path, max_epochs=2, num_sanity_val_steps=0, callbacks=[invert])
    made.fit(ranker, datamodule=Data(make_batches(seed=1), ["all"]))
    first, second = invert.scores
    np.testing.assert_allclose(first + second, 1)
    assert abs(first - second) > 0.1


# --- checkpoints ---


def distances(ranker):
    batch = make_batches(1, seed=9)[0]
    with torch.no_grad():
        return ranker(batch.ref, batch.p0)


def trained(tmp_path, *arguments, **keywords):
    ranker = PerceptualRanker(*arguments, **keywords)
    path = tmp_path / "model.ckpt"
    fit(ranker, tmp_path).save_checkpoint(path)
    return ranker.eval(), path


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
    assert saved == {
        "backbone": {"name": "alexnet"},
        "variant": "lin",
        "ranking": "paper",
        "form": "per_position",
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
    with pytest.raises(ValueError, match=r"does not fit the model: it has .*'pooled'.*'per_position'"):
        trainer(tmp_path).fit(PerceptualRanker(RANDOM), loader(make_batches()), ckpt_path=path)


def test_the_trained_distance_is_an_lpips_with_its_lin(alexnet, tmp_path):
    ranker, _ = trained(tmp_path, "alexnet")
    vectors = {f"lin.{i}": v.detach().clone() for i, v in enumerate(ranker.distance.lin)}
    save_file(vectors, tmp_path / "lin.safetensors")
    assert torch.equal(distances(LPIPS(Backbone("alexnet"), tmp_path / "lin.safetensors")), distances(ranker))
