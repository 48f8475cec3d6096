from itertools import pairwise

import numpy as np
import pytest
import torch
from torch.optim.lr_scheduler import CosineAnnealingLR

from perceptual.training.optimization import cosine_factor, paper_factor, warmed_up


def test_ten_epochs_have_the_rates_of_the_reference():
    rates = [paper_factor(epoch, 10) for epoch in range(10)]
    np.testing.assert_allclose(rates, [1, 1, 1, 1, 1, 1, 0.8, 0.6, 0.4, 0.2])


@pytest.mark.parametrize("epochs", [-1, 0, 1, 2, 3, 4, 7, 20])
def test_the_rate_never_rises_and_stays_after_the_last_epoch(epochs):
    rates = [paper_factor(epoch, epochs) for epoch in range(25)]
    assert rates[0] == 1
    assert all(0 < after <= before for before, after in pairwise(rates))
    assert rates[max(epochs - 1, 0) :] == [rates[max(epochs - 1, 0)]] * (25 - max(epochs - 1, 0))


def test_the_cosine_is_pytorchs():
    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=1.0)
    scheduler = CosineAnnealingLR(optimizer, T_max=40)
    for step in range(40):
        assert cosine_factor(step / 40) == pytest.approx(scheduler.get_last_lr()[0], abs=1e-7)
        optimizer.step()
        scheduler.step()
    assert cosine_factor(1.5) == 0  # a run resumed for longer does not rise again


@pytest.mark.parametrize("steps", [1, 2, 7, 1000])
@pytest.mark.parametrize("warmup", [0.0, 0.1, 0.9])
def test_a_warmed_up_rate_rises_then_follows_and_is_never_zero_in_a_run(steps, warmup):
    rates = [warmed_up(step, steps, warmup, cosine_factor) for step in range(steps)]
    top = int(np.argmax(rates))
    assert all(0 < rate <= 1 for rate in rates)
    assert all(a < b for a, b in pairwise(rates[: top + 1]))
    assert all(a > b for a, b in pairwise(rates[top:]))
    assert top == min(round(warmup * steps), steps - 1)
    warmed_up(steps, steps, warmup, cosine_factor)  # Lightning asks for the step after the last
