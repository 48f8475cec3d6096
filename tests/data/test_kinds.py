"""A kind of judgments that nobody has thought of yet: three images, none of them a reference."""

import numpy as np
import pytest
import torch
from judged import ODD, make_table
from torchmetrics import MeanMetric

from perceptual.data import JudgedDataModule
from perceptual.data.kinds import KINDS
from perceptual.evaluation import evaluate as evaluation
from perceptual.evaluation.board import make
from perceptual.evaluation.leaderboard import leaderboard
from perceptual.evaluation.results import FAILED
from perceptual.evaluation.scoring import score
from perceptual.evaluation.tables import markdown
from perceptual.metrics.kinds import SCORES, Score


class OddScore(MeanMetric):
    """Share of people with whom the smallest of three distances agrees."""

    def update(self, ab: torch.Tensor, ac: torch.Tensor, bc: torch.Tensor, odd_c: torch.Tensor) -> None:
        """Add items."""
        says_c = (ab < ac) & (ab < bc)
        super().update(torch.where(says_c, odd_c, 1 - odd_c))


def weighted(distances, odd_c, weights):
    """The same, with items counted by their weights (B, N)."""
    ab, ac, bc = distances
    agree = np.where((ab < ac) & (ab < bc), odd_c, 1 - odd_c)
    return weights @ agree / weights.sum(1)


class Threes(JudgedDataModule):
    kind, trains = ODD, False

    def read(self, side):
        rng = np.random.default_rng(0)
        images = torch.from_numpy(rng.integers(0, 256, (8, 3, 40, 40), dtype=np.uint8))
        roles = zip(ODD.roles, rng.permuted(np.tile(np.arange(8), (20, 1)), axis=1)[:, :3].T, strict=True)
        answers = rng.integers(6, size=20) / 5
        subset = np.arange(20) % 2
        return make_table(ODD, images, **dict(roles), odd_c=answers, subset=subset, subsets=["x", "y"])

    def source(self):
        return "made up"

    def how(self):
        return ""


@pytest.fixture
def threes(monkeypatch):
    monkeypatch.setitem(KINDS, ODD.name, ODD)
    monkeypatch.setitem(SCORES, ODD.name, Score(OddScore, "chosen of three in %", weighted))
    data = Threes(size=40, batch_size=6)
    data.setup("validate")
    return data


def expected(table) -> dict[str, float]:
    shown = table.images.batch(torch.arange(8)).double()[table.items] / 255
    ab, ac, bc = (
        (x - y).square().mean((1, 2, 3))
        for x, y in ((shown[0], shown[1]), (shown[0], shown[2]), (shown[1], shown[2]))
    )
    agree = np.where((ab < ac) & (ab < bc), table.answer, 1 - table.answer)
    by_subset = [agree[table.subset == i].mean() for i in range(2)]
    return dict(zip(["x", "y", "mean", "micro"], [*by_subset, np.mean(by_subset), agree.mean()], strict=True))


def l2(x, y):
    return (x - y).square().mean((1, 2, 3))


def test_another_kind_is_batched_compared_and_scored(threes):
    assert threes.describe() == "made up: 20 threes"
    assert score({"l2": l2}, threes.val_dataloader())["l2"] == pytest.approx(expected(threes.val_set.table))


def test_another_kind_is_evaluated_and_kept(threes, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    place, names, *_ = evaluation.evaluate(["l2", "alexnet-random"], threes, "results")
    assert place.all(FAILED) == []
    kept = {result.method: result for result in place.all()}
    assert list(kept) == sorted(names)
    assert kept["l2"].scores == pytest.approx(expected(threes.val_set.table))
    assert set(kept["l2"].arrays) == {"ab", "ac", "bc"}
    assert place.items().kind == "threes"
    board = make(place)
    best = max(result.scores["mean"] for result in kept.values())
    assert board.entries[0].score[board.columns.index("mean")] == pytest.approx(best)
    assert "chosen of three in %" in markdown(*leaderboard(board))
