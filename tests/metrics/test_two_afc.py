import csv
import os
from pathlib import Path

import numpy as np
import pytest
import reference
import torch

from perceptual.metrics import (
    MajorityAccuracy,
    TwoAFCScore,
    ceiling_score,
    human_score,
    majority_accuracy,
    two_afc_agreement,
    two_afc_score,
    two_people_agreement,
)


def items(seed: int, n: int = 300, votes: int = 4) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Distances on a coarse grid, so that many are tied, and judgments of `votes` people."""
    generator = torch.Generator().manual_seed(seed)
    d0, d1 = torch.randint(0, 6, (2, n), generator=generator).double() / 7
    return d0, d1, torch.randint(0, votes + 1, (n,), generator=generator).double() / votes


@pytest.mark.parametrize("seed", range(5))
def test_scores_equal_the_definition(seed):
    d0, d1, j = items(seed, votes=seed + 2)
    assert float(two_afc_score(d0, d1, j)) == pytest.approx(reference.two_afc_score(d0, d1, j), abs=1e-12)
    expected = reference.majority_accuracy(d0, d1, j)
    assert float(majority_accuracy(d0, d1, j)) == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize(
    ("metric", "definition"),
    [(TwoAFCScore, reference.two_afc_score), (MajorityAccuracy, reference.majority_accuracy)],
)
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_metric_equals_the_definition_over_uneven_batches(metric, definition, dtype):
    d0, d1, j = (values.to(dtype) for values in items(7, votes=5))
    metric, seen = metric(), 0
    for size in (1, 0, 50, 9, 240):
        batch = slice(seen, seen + size)
        metric.update(d0[batch], d1[batch], j[batch])
        seen += size
    assert metric.compute().dtype == torch.float64
    expected = definition(d0.double().numpy(), d1.double().numpy(), j.double().numpy())
    assert float(metric.compute()) == pytest.approx(expected, abs=1e-9)


def test_order_does_not_change_a_bit():
    d0, d1, j = items(3, votes=7)
    forward, backward = TwoAFCScore(), TwoAFCScore()
    for i in range(len(j)):
        forward.update(d0[i : i + 1], d1[i : i + 1], j[i : i + 1])
    backward.update(d0.flip(0), d1.flip(0), j.flip(0))
    assert forward.compute() == backward.compute()


def test_swapping_the_patches_and_the_judgment_leaves_the_score():
    d0, d1, j = items(4)
    torch.testing.assert_close(two_afc_agreement(d0, d1, j), two_afc_agreement(d1, d0, 1 - j))
    assert majority_accuracy(d0, d1, j) == majority_accuracy(d1, d0, 1 - j)


def test_ties_count_half_also_between_infinite_distances():
    d = torch.tensor([0.0, 1.0, -torch.inf, torch.inf])
    assert two_afc_agreement(d, d, torch.tensor([0.0, 1.0, 0.2, 0.9])).tolist() == [0.5] * 4


def test_perfect_distance_reaches_the_ceiling():
    _, _, j = items(5)
    assert two_afc_score(j, 1 - j, j) == ceiling_score(j)
    assert majority_accuracy(j, 1 - j, j) == 1


def test_items_without_majority_are_left_out():
    d0, d1 = torch.tensor([1.0, 1.0]), torch.tensor([0.0, 0.0])
    assert majority_accuracy(d0, d1, torch.tensor([0.5, 0.6])) == 1
    assert majority_accuracy(d0, d1, torch.tensor([0.5, 0.5])).isnan()


def test_two_people_agreement_counts_pairs_of_voters():
    rng = np.random.default_rng(0)
    votes = rng.integers(1, 9, 200)
    judgment = np.array([rng.integers(0, n + 1) / n for n in votes]).round(4)
    expected = reference.two_people_agreement(judgment, votes)
    got = two_people_agreement(torch.from_numpy(judgment), torch.from_numpy(votes))
    assert float(got) == pytest.approx(expected, abs=1e-12)
    with pytest.raises(ValueError, match="whole numbers of people, but 1 item"):
        two_people_agreement(torch.tensor([0.5, 0.5]), torch.tensor([3, 2]))


@pytest.mark.parametrize("call", [two_afc_agreement, majority_accuracy, lambda *batch: TwoAFCScore()(*batch)])
def test_bad_items_are_refused(call):
    d = torch.tensor([0.1, 0.2, 0.3])
    with pytest.raises(ValueError, match=r"one shape \(N,\), got \(3, 1, 1, 1\)"):
        call(d.view(3, 1, 1, 1), d.view(3, 1, 1, 1), d)
    with pytest.raises(ValueError, match="2 of 3 items have a NaN distance"):
        call(torch.tensor([0.1, torch.nan, 0.1]), torch.tensor([torch.nan, torch.nan, 0.1]), d)
    with pytest.raises(ValueError, match=r"judgment must lie in \[0, 1\], but 2 of 3"):
        call(d, d, torch.tensor([-1.0, torch.nan, 1.0]))


def test_rows_of_the_real_material():
    """Figures computed once with plain NumPy from the same file."""
    if not (assets := os.environ.get("PERCEPTUAL_ASSETS")):
        pytest.skip("PERCEPTUAL_ASSETS is not set")
    with Path(assets, "material", "triplets.csv").open() as file:
        rows = [(float(row["judge"]), int(row["votes"])) for row in csv.DictReader(file)]
    judgment, votes = (torch.tensor(column) for column in zip(*rows, strict=True))
    assert float(human_score(judgment)) == pytest.approx(0.7966, abs=5e-5)
    assert float(ceiling_score(judgment)) == pytest.approx(0.8442, abs=5e-5)
    assert float(two_people_agreement(judgment, votes)) == pytest.approx(0.7132, abs=5e-5)


@pytest.mark.parametrize("kind", [TwoAFCScore, MajorityAccuracy])
def test_a_score_made_and_reset_in_inference_mode_goes_on_outside(kind):
    items = torch.rand(3, 8, generator=torch.Generator().manual_seed(0))
    expected = kind()
    expected.update(*items)
    with torch.inference_mode():
        score = kind()
    for _ in range(2):
        score.update(*items)
        assert score.compute() == expected.compute()
        with torch.inference_mode():
            score.reset()
