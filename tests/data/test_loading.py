"""Batches: the same whatever the number of processes, and taken up where they stopped."""

from typing import NamedTuple

import numpy as np
import pytest
import torch
from torch import Tensor

from perceptual.data import loading
from perceptual.data.loading import Batches, EpochBatches


class Numbers(NamedTuple):
    value: Tensor
    weight: Tensor


class NumberDataset:
    def __init__(self, items):
        self.items = items

    def __len__(self):
        return self.items

    def __getitems__(self, indices):
        return Numbers(torch.as_tensor(indices), torch.ones(len(indices)))


def epoch(batches, number=0):
    batches.sampler.set_epoch(number)
    return [batch.value.tolist() for batch in batches]


def in_process(rank, processes, monkeypatch):
    monkeypatch.setattr(loading, "_process", lambda: (rank, processes))


CASES = [(100, 50, 2), (103, 50, 4), (7, 7, 3), (51, 50, 2), (10, 3, 3), (1, 4, 4), (97, 10, 7)]


@pytest.mark.parametrize(("items", "size", "processes"), CASES)
def test_validation_shares_are_the_batches_of_one_process(items, size, processes):
    whole = list(EpochBatches(items, size))
    shares = [list(EpochBatches(items, size, None, rank, processes)) for rank in range(processes)]
    assert np.concatenate(whole).tolist() == list(range(items))
    for batch, *parts in zip(whole, *shares, strict=True):
        assert np.concatenate(parts).tolist() == batch.tolist()
        assert max(map(len, parts)) - min(map(len, parts)) <= 1


@pytest.mark.parametrize(("items", "size", "processes"), CASES)
def test_weights_make_the_mean_over_processes_that_of_the_whole_batch(items, size, processes):
    values = np.random.default_rng(0).normal(size=items)
    whole = EpochBatches(items, size, seed=3)
    ranks = [EpochBatches(items, size, 3, rank, processes) for rank in range(processes)]
    for index, (batch, *parts) in enumerate(zip(whole, *ranks, strict=True)):
        assert all(len(part) for part in parts)
        means = [rank.weight(index) * values[part].mean() for rank, part in zip(ranks, parts, strict=True)]
        np.testing.assert_allclose(np.mean(means), values[batch].mean(), atol=1e-12)
    assert whole.weight(0) == 1


def test_batches_of_a_process_carry_the_weights(monkeypatch):
    seen = []
    for rank in (0, 1):
        in_process(rank, 2, monkeypatch)
        seen.append(list(Batches(NumberDataset(6), 5, seed=0)))
    assert [batch.weight.tolist() for batch in seen[0]] == [pytest.approx([6 / 5] * 3), [2.0]]
    assert [batch.weight.tolist() for batch in seen[1]] == [pytest.approx([4 / 5] * 2), [0.0]]


def test_validation_of_a_process_may_be_an_empty_batch(monkeypatch):
    in_process(1, 2, monkeypatch)
    assert epoch(Batches(NumberDataset(6), 5)) == [[3, 4], []]


def test_one_process_can_have_the_whole(monkeypatch):
    in_process(1, 2, monkeypatch)
    assert epoch(Batches(NumberDataset(6), 5, shared=False)) == [[0, 1, 2, 3, 4], [5]]


def test_fewer_items_a_batch_than_processes_are_refused(monkeypatch):
    in_process(0, 4, monkeypatch)
    with pytest.raises(ValueError, match="batch_size must be at least the number of processes, 4, got 3"):
        Batches(NumberDataset(6), 3)


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("stop", [0, 1, 4])
def test_a_loader_goes_on_where_another_stopped(workers, stop):
    whole, stopped, resumed = (Batches(NumberDataset(23), 5, workers, seed=1) for _ in range(3))
    expected = [epoch(whole, number) for number in (0, 1, 2, 3)]
    stopped.sampler.set_epoch(2)
    batches = iter(stopped)
    seen = [next(batches).value.tolist() for _ in range(stop)]
    resumed.load_state_dict(stopped.state_dict())
    lazy = iter(resumed)  # Lightning makes it before it says which epoch it is
    resumed.sampler.set_epoch(2)
    assert seen + [batch.value.tolist() for batch in lazy] == expected[2]
    assert resumed.state_dict()["batches"] == 5
    assert epoch(resumed, 3) == expected[3]


def test_a_state_of_an_epoch_that_is_over_does_not_shorten_the_next():
    over, resumed = (Batches(NumberDataset(10), 5, seed=1) for _ in range(2))
    list(over)
    over.sampler.set_epoch(1)  # the next has begun, but gave nothing yet
    resumed.load_state_dict(over.state_dict())
    assert sorted(np.concatenate(epoch(resumed, 1)).tolist()) == list(range(10))


def test_a_position_does_not_depend_on_the_number_of_processes(monkeypatch):
    one = Batches(NumberDataset(20), 5, seed=1)
    batches = iter(one)
    next(batches), next(batches)
    in_process(1, 2, monkeypatch)
    other = Batches(NumberDataset(20), 5, seed=1)
    other.load_state_dict(one.state_dict())
    assert epoch(other) == [batch.value[3:].tolist() for batch in batches]


@pytest.mark.parametrize("change", [{"dataset": NumberDataset(21)}, {"batch_size": 4}, {"seed": 2}])
def test_a_position_among_other_batches_is_refused(change):
    same = {"dataset": NumberDataset(20), "batch_size": 5, "seed": 1}
    state = Batches(**same).state_dict()
    with pytest.raises(ValueError, match="within an epoch of 20 items in batches of 5, seed 1, this run has"):
        Batches(**{**same, **change}).load_state_dict(state)
