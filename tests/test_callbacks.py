"""What callbacks do to training: the average of weights, the guard, and the checkpoint to go on from."""

import os
import signal
import time

import pytest
import pytorch_lightning as pl
import torch
from judged import triplets
from networks import write_weights
from torch.utils.data import DataLoader

from callbacks import InverseGuard, LastCheckpoint, Progress
from perceptual.files import progress
from perceptual.training.module import Diverged, PerceptualRanker

# checkpoints of one run after another in one folder
pytestmark = pytest.mark.filterwarnings("ignore:Checkpoint directory .* exists and is not empty")
NETWORK = {"name": "test_resnet", "weights": None}


class Data(pl.LightningDataModule):
    """Patches with little and much noise, of which the one with little is preferred."""

    subsets = ("noise",)

    def __init__(self, count=3, items=8):
        super().__init__()
        self.batches = [self.batch(seed, items) for seed in range(count)]

    @staticmethod
    def batch(seed, items):
        generator = torch.Generator().manual_seed(seed)
        ref = torch.rand(items, 3, 32, 32, generator=generator)
        near, far = ((ref + s * torch.randn(ref.shape, generator=generator)).clamp(0, 1) for s in (0.05, 0.4))
        judgment = torch.rand(items, generator=generator).round()
        row = judgment.bool().view(-1, 1, 1, 1)
        p0, p1 = torch.where(row, far, near), torch.where(row, near, far)
        return triplets(ref, p0, p1, judgment, torch.ones(items), torch.zeros(items, dtype=torch.long))

    def train_dataloader(self):
        return DataLoader(self.batches, batch_size=None)

    def val_dataloader(self):
        return DataLoader(self.batches, batch_size=None)


def trainer(tmp_path, *callbacks, epochs=2, **arguments):
    return pl.Trainer(
        accelerator="cpu",
        max_epochs=epochs,
        default_root_dir=tmp_path,
        num_sanity_val_steps=0,
        logger=False,
        enable_progress_bar=any(isinstance(callback, Progress) for callback in callbacks),
        enable_model_summary=False,
        enable_checkpointing=any(isinstance(callback, LastCheckpoint) for callback in callbacks),
        callbacks=list(callbacks),
        **arguments,
    )


def ranker(variant="lin", **arguments):
    torch.manual_seed(0)
    return PerceptualRanker(NETWORK, variant, **arguments)


def last_checkpoint(folder):
    return LastCheckpoint(folder)


def flat(module):
    return torch.cat([p.detach().flatten() for p in module.parameters() if p.requires_grad]).clone()


# --- EMA ---


class Weights(pl.Callback):
    """Notes the trained weights after each step, and those that are validated."""

    def __init__(self):
        self.steps, self.validated = [], []

    def on_train_batch_end(self, trainer, module, *_):
        self.steps.append(flat(module))

    def on_validation_batch_start(self, trainer, module, *_):
        self.validated.append(flat(module))


@pytest.mark.parametrize("decay", [0.3, 0.999])
def test_the_average_is_the_formulas_and_is_what_is_validated_and_kept(decay, tmp_path, averaging):
    model, weights = ranker(lr=0.01, dropout=0), Weights()
    made = trainer(tmp_path, weights, averaging(decay))
    made.fit(model, datamodule=Data())
    average, averages = weights.steps[0].double(), []
    for n, step in enumerate(weights.steps[1:], 1):
        share = min(decay, (1 + n) / (10 + n))
        average = share * average + (1 - share) * step.double()
        averages.append(average)
    torch.testing.assert_close(weights.validated[0].double(), averages[1], atol=1e-6, rtol=1e-5)
    torch.testing.assert_close(weights.validated[-1].double(), averages[-1], atol=1e-6, rtol=1e-5)
    torch.testing.assert_close(flat(model).double(), averages[-1], atol=1e-6, rtol=1e-5)
    assert (weights.steps[-1] - flat(model)).abs().max() > 1e-3  # training went on from its own weights
    made.save_checkpoint(tmp_path / "model.ckpt")
    assert torch.equal(flat(PerceptualRanker.load_from_checkpoint(tmp_path / "model.ckpt")), flat(model))


def test_frozen_weights_are_shared_not_averaged(tmp_path, averaging):
    model, ema = ranker(), averaging()
    before = {key: value.clone() for key, value in model.distance.backbone.state_dict().items()}
    trainer(tmp_path, ema).fit(model, datamodule=Data())
    ours, averages = (list(m.distance.backbone.net.parameters()) for m in (model, ema._average_model.module))
    assert [p.data_ptr() for p in ours] == [p.data_ptr() for p in averages]
    after = model.distance.backbone.state_dict()
    assert all(torch.equal(value, before[key]) for key, value in after.items())


@pytest.mark.parametrize("variant", ["lin", "tune"])
def test_an_average_resumed_is_the_average_of_one_run(variant, tmp_path, averaging):
    def run(epochs, path=None):
        model = ranker(variant, lr=0.01, dropout=0, schedule="constant")
        made = trainer(tmp_path, averaging(), last_checkpoint(tmp_path), epochs=epochs)
        made.fit(model, datamodule=Data(), ckpt_path=path)
        return model

    run(2)
    (tmp_path / "last.ckpt").rename(tmp_path / "two.ckpt")
    resumed, whole = run(4, tmp_path / "two.ckpt"), run(4)
    for (key, ours), expected in zip(resumed.state_dict().items(), whole.state_dict().values(), strict=True):
        assert torch.equal(ours, expected), key


def test_a_checkpoint_with_an_average_leaves_out_a_backbone_that_can_be_had_again(
    tmp_path, monkeypatch, averaging
):
    write_weights(tmp_path, "alexnet")
    monkeypatch.setenv("PERCEPTUAL_WEIGHTS", str(tmp_path))
    model, path = PerceptualRanker("alexnet"), tmp_path / "last.ckpt"
    trainer(tmp_path, averaging(), last_checkpoint(tmp_path), epochs=1).fit(model, datamodule=Data(1))
    assert path.stat().st_size < 300_000
    assert torch.equal(flat(PerceptualRanker.load_from_checkpoint(path)), flat(model))
    again = PerceptualRanker("alexnet")
    made = trainer(tmp_path, averaging(), last_checkpoint(tmp_path), epochs=2)
    made.fit(again, datamodule=Data(1), ckpt_path=path)
    assert 0 < (flat(again) - flat(model)).abs().max() < 1e-2


@pytest.mark.parametrize("decay", [-0.1, 1, float("nan")])
def test_a_decay_out_of_range_is_refused(decay, averaging):
    with pytest.raises(ValueError, match="decay must be at least 0 and less than 1"):
        averaging(decay)


# --- the guard ---


class Inverted(PerceptualRanker):
    """Has learned the inverse, and is not projected."""

    def on_train_start(self):
        for vector in self.distance.lin:
            vector.data.fill_(-1.0)

    def optimizer_step(self, *args, **kwargs):
        pl.LightningModule.optimizer_step(self, *args, **kwargs)


def test_an_inverted_metric_ends_the_run_and_leaves_the_checkpoints(tmp_path):
    (tmp_path / "last.ckpt").write_text("the good one")
    with pytest.raises(Diverged, match=r"learned the inverse: val 2AFC is 0.0 % after epoch 1, below 45 %"):
        trainer(tmp_path, InverseGuard(), last_checkpoint(tmp_path)).fit(Inverted(NETWORK), datamodule=Data())
    assert (tmp_path / "last.ckpt").read_text() == "the good one"


def test_a_good_metric_is_let_pass(tmp_path):
    guard = InverseGuard()
    made = trainer(tmp_path, guard)
    made.fit(ranker(), datamodule=Data(3, items=8))
    assert made.callback_metrics["val/2afc/mean"] > 0.9
    assert guard.items == 24


@pytest.mark.parametrize(
    ("score", "items", "stops"),
    [
        (0.44, 400, True),
        (0.44, 200, False),
        (0.42, 200, True),
        (0.46, 10_000, False),
        (0.1, 8, True),
        (0.3, 20, False),
    ],
)
def test_the_floor_is_lower_where_triplets_are_few(score, items, stops):
    assert InverseGuard().is_inverse(score, items) == stops


def test_a_floor_out_of_range_is_refused():
    with pytest.raises(ValueError, match=r"floor must lie in \[0, 0.5\], got 0.6"):
        InverseGuard(0.6)


# --- progress ---


def test_a_long_epoch_says_where_it_is(tmp_path, monkeypatch, capsys):
    class Slow(pl.Callback):
        def on_train_batch_start(self, *_):
            time.sleep(0.05)

        def on_validation_batch_start(self, *_):
            time.sleep(0.05)

    monkeypatch.setattr(progress, "EVERY", 0.02)
    made = trainer(tmp_path, Progress(), Slow(), epochs=1)
    made.fit(ranker(), datamodule=Data())
    said = capsys.readouterr().err.splitlines()
    assert "epoch 1/1 · batch 1/3" in said
    assert "epoch 1/1 · validating" in said
    time.sleep(0.05)
    assert capsys.readouterr().err == ""  # it ends with training


# --- the last checkpoint ---


@pytest.mark.parametrize(
    ("stop", "left"),
    [(lambda: os.kill(os.getpid(), signal.SIGINT), ["last.ckpt"]), (lambda: _diverge(), [])],
    ids=["Ctrl-C", "diverged"],
)
def test_ctrl_c_saves_and_a_run_that_diverged_does_not(stop, left, tmp_path):
    class Break(pl.Callback):
        def on_train_batch_start(self, trainer, module, batch, batch_idx):
            if batch_idx == 2:
                stop()

    with pytest.raises((Diverged, SystemExit)):
        trainer(tmp_path, Break(), last_checkpoint(tmp_path)).fit(ranker(), datamodule=Data())
    assert [path.name for path in tmp_path.glob("*.ckpt")] == left


def _diverge():
    raise Diverged("the loss is nan")


# --- clipping, which is Lightning's ---


def test_clipping_bounds_the_gradient(tmp_path):
    class Norms(pl.Callback):
        def __init__(self):
            self.seen = []

        def on_before_zero_grad(self, trainer, module, optimizer):
            parameters = [p for group in optimizer.param_groups for p in group["params"]]
            grads = [p.grad.flatten() for p in parameters if p.grad is not None]
            self.seen += [torch.cat(grads).norm().item()] if grads else []

    free, bound = Norms(), Norms()
    trainer(tmp_path, free).fit(ranker("tune"), datamodule=Data())
    trainer(tmp_path, bound, gradient_clip_val=1e-3).fit(ranker("tune"), datamodule=Data())
    assert max(free.seen) > 1e-2
    assert 0 < max(bound.seen) <= 1.001e-3
