import pickle

import pytest
import pytorch_lightning as pl
import torch
from torch.utils.data import DataLoader, TensorDataset
from torchmetrics import MetricCollection

from perceptual.metrics import (
    JNDAveragePrecision,
    MajorityAccuracy,
    PerSubset,
    TwoAFCScore,
    jnd_average_precision,
    two_afc_score,
)

SUBSETS = ["traditional", "cnn", "type"]  # the last is also an attribute of nn.Module


def batch(seed: int, n: int = 60) -> tuple[list[torch.Tensor], torch.Tensor]:
    """Distances, judgments and subsets of very different sizes; "cnn" has none."""
    generator = torch.Generator().manual_seed(seed)
    d0, d1 = torch.randint(0, 6, (2, n), generator=generator).double()
    judgment = torch.randint(0, 6, (n,), generator=generator).double() / 5
    return [d0, d1, judgment], 2 * (torch.rand(n, generator=generator) < 0.2).long()


def test_scores_by_name_with_macro_and_micro_means():
    args, subset = batch(0)
    metric = PerSubset(TwoAFCScore(), SUBSETS)
    metric.update(*args, subset=subset)
    result = metric.compute()
    traditional, type_ = (two_afc_score(*(arg[subset == i] for arg in args)) for i in (0, 2))
    expected = {"traditional": traditional, "type": type_, "mean": (traditional + type_) / 2}
    torch.testing.assert_close(result, {**expected, "micro": two_afc_score(*args)}, rtol=0, atol=1e-9)
    assert result["mean"] != result["micro"]


def test_micro_of_an_average_precision_pools_the_pairs():
    (d0, _, same), subset = batch(1)
    metric = PerSubset(JNDAveragePrecision(), SUBSETS)
    metric.update(d0, same, subset=subset)
    assert metric.compute()["micro"] == jnd_average_precision(d0, same)
    assert metric.compute()["type"] == jnd_average_precision(d0[subset == 2], same[subset == 2])


@pytest.mark.parametrize("bare", [TwoAFCScore(), JNDAveragePrecision()])
def test_one_subset_equals_the_bare_metric(bare):
    args, _ = batch(2)
    args = args if isinstance(bare, TwoAFCScore) else args[1:]
    metric = PerSubset(bare, ["all"])
    for part in (slice(0, 10), slice(10, 60)):
        metric.update(*(arg[part] for arg in args), subset=torch.zeros(60, dtype=torch.long)[part])
    assert not bare.update_called
    expected = bare(*args)
    assert metric.compute() == {"all": expected, "mean": expected, "micro": expected}


def test_forward_gives_the_batch_and_keeps_the_total():
    metric, whole = PerSubset(TwoAFCScore(), SUBSETS), PerSubset(TwoAFCScore(), SUBSETS)
    for seed in range(3):
        args, subset = batch(seed)
        alone = PerSubset(TwoAFCScore(), SUBSETS)
        alone.update(*args, subset=subset)
        assert metric(*args, subset=subset) == alone.compute()
        whole.update(*args, subset=subset)
    assert metric.compute() == whole.compute()


def test_reset_forgets_which_subsets_had_items():
    metric = PerSubset(TwoAFCScore(), SUBSETS)
    args, subset = batch(0)
    metric.update(*args, subset=subset)
    metric.reset()
    with pytest.raises(ValueError, match="no items were given for any of the subsets"):
        metric.compute()
    metric.update(*args, subset=torch.ones_like(subset))
    assert list(metric.compute()) == ["cnn", "mean", "micro"]


def test_copies_and_pickles_keep_their_items():
    metric = PerSubset(JNDAveragePrecision(), SUBSETS)
    (d0, _, same), subset = batch(1)
    metric.update(d0, same, subset=subset)
    for copy in (metric.clone(), pickle.loads(pickle.dumps(metric))):
        assert copy.compute() == metric.compute()


def test_two_in_a_collection_do_not_share_items():
    collection = MetricCollection(
        {"soft": PerSubset(TwoAFCScore(), ["a"]), "majority": PerSubset(MajorityAccuracy(), ["a"])}
    )
    args, subset = batch(0)
    for _ in range(2):
        collection.update(*args, subset=subset * 0)
    soft, majority = PerSubset(TwoAFCScore(), ["a"]), PerSubset(MajorityAccuracy(), ["a"])
    assert collection["soft"].compute() == soft(*args, subset=subset * 0)
    assert collection["majority"].compute() == majority(*args, subset=subset * 0)


class Scored(pl.LightningModule):
    """Scores its batches as if they were distances."""

    def __init__(self) -> None:
        super().__init__()
        self.score = PerSubset(TwoAFCScore(), SUBSETS)

    def validation_step(self, batch):
        d0, d1, judgment, subset = batch
        self.score.update(d0, d1, judgment, subset=subset)

    def on_validation_epoch_end(self):
        self.log_dict({f"val/2afc/{name}": value for name, value in self.score.compute().items()})
        self.score.reset()


@pytest.mark.filterwarnings("ignore:.*does not have many workers")
def test_lives_in_a_lightning_module(tmp_path):
    args, subset = batch(0)
    loader = DataLoader(TensorDataset(*args, subset), batch_size=7)
    module, expected = Scored(), PerSubset(TwoAFCScore(), SUBSETS)(*args, subset=subset)
    trainer = pl.Trainer(
        accelerator="cpu",
        logger=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        default_root_dir=tmp_path,
    )
    for _ in range(2):
        (logged,) = trainer.validate(module, loader, verbose=False)
        assert logged == pytest.approx({f"val/2afc/{k}": float(v) for k, v in expected.items()}, abs=1e-6)
    assert not module.state_dict()
    assert not list(module.parameters())


@pytest.mark.parametrize("names", [[], ["a", "a"], ["a", "mean"], ["micro"]])
def test_bad_names_are_refused(names):
    with pytest.raises(ValueError, match="subsets must be distinct names other than 'mean' and 'micro'"):
        PerSubset(TwoAFCScore(), names)


def test_bad_positions_are_refused_before_anything_is_counted():
    metric, args = PerSubset(TwoAFCScore(), ["a", "b"]), [torch.rand(3)] * 3
    with pytest.raises(ValueError, match=r"0 … 1, the positions in \['a', 'b'\], got 0 … 2"):
        metric.update(*args, subset=torch.tensor([0, 1, 2]))
    with pytest.raises(ValueError, match="integers, got"):
        metric.update(*args, subset=torch.tensor([0.0, 1.0, 0.0]))
    with pytest.raises(ValueError, match=r"subset has 2 items, the other arguments \[3, 3, 3\]"):
        metric.update(*args, subset=torch.tensor([0, 1]))
    with pytest.raises(ValueError, match="NaN"):
        metric.update(args[0], args[1] * torch.nan, args[2], subset=torch.tensor([0, 1, 1]))
    with pytest.raises(ValueError, match="no items were given"):
        metric.compute()
