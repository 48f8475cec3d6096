"""What training logs, validation scores, and runs whose numbers are no longer finite."""

import numpy as np
import pytest
import pytorch_lightning as pl
import reference
import torch
from rankers import RANDOM, Data, fit, make_batches, trainer

from perceptual.training.module import Diverged, PerceptualRanker


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
        pairs = [
            (ranker(b.role("ref"), b.role("p0")), ranker(b.role("ref"), b.role("p1")), b.answer, b.subset)
            for b in batches
        ]
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
