"""Scores over several processes are those of one process, to the last bit."""

import os

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp

from perceptual.metrics import JNDAveragePrecision, MajorityAccuracy, PerSubset, TwoAFCScore

SUBSETS = ["first process only", "nobody's", "common", "last process only"]


def items(world: int) -> tuple[list[torch.Tensor], torch.Tensor, torch.Tensor]:
    """Items in float64, whose sums depend on the order; their subset; the process that has each."""
    generator = torch.Generator().manual_seed(world)
    d0, d1 = torch.randint(0, 20, (2, 203), generator=generator).double() / 7
    args = [d0, d1, torch.randint(0, 8, (203,), generator=generator).double() / 7]
    owner = torch.randint(0, world, (203,), generator=generator)
    subset = torch.full_like(owner, 2)
    subset[:150] = torch.where(owner == 0, 0, torch.where(owner == world - 1, 3, 2))[:150]
    return args, subset, owner


def score(args: list[torch.Tensor], subset: torch.Tensor, batch: int) -> dict[str, object]:
    """All metrics after batches of the given items."""
    metrics = {
        "2afc": TwoAFCScore(),
        "majority": MajorityAccuracy(),
        "2afc by subset": PerSubset(TwoAFCScore(), SUBSETS),
        "jnd by subset": PerSubset(JNDAveragePrecision(), SUBSETS),
    }
    for part in torch.arange(len(subset)).split(batch):
        d0, d1, judgment = (arg[part] for arg in args)
        metrics["2afc"].update(d0, d1, judgment)
        metrics["majority"].update(d0, d1, judgment)
        metrics["2afc by subset"].update(d0, d1, judgment, subset=subset[part])
        metrics["jnd by subset"].update(d0, judgment, subset=subset[part])
    return {name: metric.compute() for name, metric in metrics.items()}


def run(rank: int, world: int, directory: str) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{directory}/init", rank=rank, world_size=world)
    args, subset, owner = items(world)
    mine = owner == rank
    scores = score([arg[mine] for arg in args], subset[mine], batch=7 + rank)
    torch.save(scores, f"{directory}/{rank}.pt")
    dist.destroy_process_group()


@pytest.mark.parametrize("world", [2, pytest.param(4, marks=pytest.mark.slow)])
def test_merged_scores_are_those_of_one_process(world, tmp_path, monkeypatch):
    monkeypatch.setitem(os.environ, "OMP_NUM_THREADS", "1")
    mp.start_processes(run, (world, str(tmp_path)), nprocs=world, start_method="forkserver")
    args, subset, _ = items(world)
    expected = score(args, subset, batch=203)
    assert list(expected["jnd by subset"]) == [*(SUBSETS[i] for i in (0, 2, 3)), "mean", "micro"]
    for rank in range(world):
        assert torch.load(tmp_path / f"{rank}.pt") == expected
