"""Every metric of ours behaves as those of torchmetrics do, in its wrappers too, with the right values."""

import pickle

import matplotlib.pyplot as plt
import pytest
import torch
from torch import nn
from torchmetrics import MetricCollection
from torchmetrics.wrappers import BootStrapper, MetricTracker, MinMaxMetric, Running

from perceptual import LPIPS, Backbone
from perceptual.metrics import (
    JNDAveragePrecision,
    MajorityAccuracy,
    OpinionCorrelation,
    PerceptualDistance,
    PerceptualDiversity,
    PerSubset,
    TwoAFCScore,
    jnd_average_precision,
    majority_accuracy,
    opinion_correlations,
    two_afc_score,
)


class L2(nn.Module):
    def forward(self, x, y):
        return (x - y).square().mean((1, 2, 3))


def columns(seed, *kinds, count=8):
    generator = torch.Generator().manual_seed(seed)
    return [torch.rand(count, *kind, generator=generator) for kind in kinds]


def tiny_lpips():
    torch.manual_seed(0)
    return LPIPS(Backbone("test_resnet", None, out_indices=[0]), lin=None)


def diversity(images, group):
    distance = tiny_lpips().pairwise(images)
    means = []
    for name in group.unique():
        rows = torch.nonzero(group == name).flatten()
        pairs = torch.combinations(rows)
        means.append(distance[pairs[:, 0], pairs[:, 1]].double().mean())
    return torch.stack(means).mean()


def grouped(seed):
    return [*columns(seed, (3, 16, 16)), torch.tensor([0, 0, 0, 1, 1, 1, 2, 2])]


METRICS = {
    "2afc": (TwoAFCScore, lambda seed: columns(seed, (), (), ()), two_afc_score, (0, 1)),
    "majority": (MajorityAccuracy, lambda seed: columns(seed, (), (), ()), majority_accuracy, (0, 1)),
    "jnd": (JNDAveragePrecision, lambda seed: columns(seed, (), ()), jnd_average_precision, (0, 1)),
    "srcc": (
        OpinionCorrelation,
        lambda seed: columns(seed, (), ()),
        lambda d, s: torch.tensor(opinion_correlations(d, s).srcc),
        (-1, 1),
    ),
    "distance": (
        lambda **kwargs: PerceptualDistance(L2(), **kwargs),
        lambda seed: columns(seed, (3, 8, 8), (3, 8, 8)),
        lambda x, y: L2()(x, y).mean(),
        (0, None),
    ),
    "diversity": (
        lambda **kwargs: PerceptualDiversity(tiny_lpips(), **kwargs),
        grouped,
        diversity,
        (0, None),
    ),
}
every = pytest.mark.parametrize("name", METRICS)


def close(ours, expected):
    torch.testing.assert_close(ours.double(), expected.double(), atol=1e-6, rtol=1e-4)


def together(batches):
    return [torch.cat(parts) for parts in zip(*batches, strict=True)]


@every
def test_forward_gives_the_batch_and_compute_all(name):
    make, items, expected, _ = METRICS[name]
    metric, batches = make(), [items(seed) for seed in range(3)]
    for batch in batches:
        close(metric(*batch), expected(*batch))
    close(metric.compute(), expected(*together(batches)))
    metric.reset()
    metric.update(*batches[0])
    close(metric.compute(), expected(*batches[0]))


@every
def test_it_takes_the_arguments_of_the_base_class(name):
    make, items, expected, _ = METRICS[name]
    metric = make(
        dist_sync_on_step=True, sync_on_compute=False, compute_with_cache=False, distributed_available_fn=bool
    )
    assert metric.dist_sync_on_step
    assert not metric.sync_on_compute
    assert not metric.compute_with_cache
    close(metric(*items(0)), expected(*items(0)))
    with pytest.raises(ValueError, match="dist_sync_on_stp"):
        make(dist_sync_on_stp=True)


@every
def test_plot_shows_the_value_within_bounds(name):
    make, items, expected, bounds = METRICS[name]
    metric = make()
    values = [metric(*items(seed)) for seed in range(3)]
    figure, axes = metric.plot(values)
    drawn = axes.lines[0].get_ydata()
    assert drawn == pytest.approx([expected(*items(seed)).item() for seed in range(3)], rel=1e-3)
    for bound, limit in zip(bounds, axes.get_ylim(), strict=True):
        assert bound is None or limit == pytest.approx(bound, abs=0.25)
    plt.close(figure)


@every
def test_it_works_in_the_wrappers_of_torchmetrics(name):
    make, items, expected, _ = METRICS[name]
    batches = [items(seed) for seed in range(3)]

    tracker = MetricTracker(make(), maximize=True)
    for batch in batches:
        tracker.increment()
        tracker.update(*batch)
    close(tracker.compute_all(), torch.stack([expected(*batch).double() for batch in batches]))

    running = Running(make(), window=2)
    extremes = MinMaxMetric(make())
    seen = []
    for number, batch in enumerate(batches, start=1):
        running.update(*batch)
        extremes.update(*batch)
        seen.append(expected(*together(batches[:number])))
        extremes.compute()
    close(running.compute(), expected(*together(batches[1:])))
    found = extremes.compute()
    close(found["max"], torch.stack(seen).max())
    close(found["min"], torch.stack(seen).min())


@every
def test_bootstrapping_scatters_about_the_value(name):
    make, items, expected, _ = METRICS[name]
    torch.manual_seed(0)
    boot = BootStrapper(make(), num_bootstraps=20, mean=True, std=True, raw=True)
    batch = together([items(seed) for seed in range(6)])
    if name == "diversity":  # equal samples drawn twice have no distance
        batch[1] = batch[1] * 0
    boot.update(*batch)
    result = boot.compute()
    assert result["std"] > 0
    assert abs(result["mean"] - expected(*batch)) < 3 * result["std"] + 0.1 * expected(*batch).abs()
    assert len(set(result["raw"].tolist())) > 1


@every
def test_it_is_cloned_pickled_moved_and_collected(name):
    make, items, expected, _ = METRICS[name]
    metric = make()
    metric.update(*items(0))
    for copied in (metric.clone(), pickle.loads(pickle.dumps(metric)), metric.to("cpu").double()):
        if name not in ("distance", "diversity") or copied is not metric:
            close(copied.compute(), expected(*items(0)))
    collection = MetricCollection({"a": make(), "b": make()})
    for seed in range(2):
        collection.update(*items(seed))
    results = collection.compute()
    close(results["a"], expected(*together([items(0), items(1)])))
    assert torch.equal(results["a"], results["b"])


def test_scores_that_keep_the_same_share_it_in_a_collection():
    collection = MetricCollection({k: OpinionCorrelation(k) for k in ("srcc", "krcc", "plcc")})
    batches = [columns(seed, (), ()) for seed in range(2)]
    for batch in batches:
        collection.update(*batch)
    assert len(collection.compute_groups) == 1
    expected = opinion_correlations(*together(batches))
    for name, value in collection.compute().items():
        assert value.item() == pytest.approx(getattr(expected, name), abs=1e-12)
    with pytest.raises(ValueError, match="correlation must be one of srcc, krcc, plcc, got 'rmse'"):
        OpinionCorrelation("rmse")


def distances():
    """Distances that agree on equal images, as members of a collection."""
    deep = tiny_lpips()
    halved = LPIPS(deep.backbone, lin=None)
    halved.lin[0].data /= 2
    kinds = {"l2": L2(), "l1": lambda x, y: (x - y).abs().mean((1, 2, 3)), "deep": deep, "halved": halved}
    made = {
        f"{name} {reduction}": PerceptualDistance(kind, reduction)
        for name, kind in kinds.items()
        for reduction in ("mean", "sum", "none")
    }
    x, y = columns(1, (3, 16, 16), (3, 16, 16))
    return made, [(x, x), (x, y)]


class Pixels(nn.Module):
    """A feature network whose features of black images are zero."""

    def forward(self, images):
        return [images]


def diversities():
    whole, halved = (LPIPS(Backbone.of(Pixels()), lin=None) for _ in range(2))
    halved.lin[0].data /= 2
    images, group = grouped(1)
    made = {"whole": PerceptualDiversity(whole), "halved": PerceptualDiversity(halved)}
    return made, [(images * 0, group), (images, group)]


def scores():
    """Scores of the same two columns, with parameters and without."""
    made = {name: OpinionCorrelation(name) for name in ("srcc", "krcc", "plcc")}
    return made | {"jnd": JNDAveragePrecision()}, [(torch.zeros(8), torch.zeros(8)), columns(1, (), ())]


def choices():
    constant = torch.full((8,), 0.5)
    made = {"score": TwoAFCScore(), "majority": MajorityAccuracy()}
    return made, [(constant, constant, constant), columns(1, (), (), ())]


@pytest.mark.parametrize("members", [distances, diversities, scores, choices])
@pytest.mark.parametrize("way", ["update", "forward", "both"])
def test_each_member_of_a_collection_has_its_own_value(members, way):
    made, (equal, different) = members()
    collection = MetricCollection({name: metric.clone() for name, metric in made.items()})
    steps = {"update": "uu", "forward": "ff", "both": "ufu"}[way]
    for _ in range(2):  # groups survive a reset
        for step, batch in zip(steps, (equal, different, different), strict=False):
            (collection.update if step == "u" else collection)(*batch)
            for metric in made.values():
                (metric.update if step == "u" else metric)(*batch)
        together = collection.compute()
        alone = {name: metric.compute() for name, metric in made.items()}
        for name, value in alone.items():
            torch.testing.assert_close(together[name], value, msg=lambda text, name=name: f"{name}: {text}")
        assert len({tuple(value.flatten().tolist()) for value in alone.values()}) == len(alone)
        for metric in (collection, *made.values()):
            metric.reset()


def test_scores_by_subset_take_and_plot_as_the_others():
    metric = PerSubset(TwoAFCScore(), ["a", "b"], sync_on_compute=False)
    assert not metric.sync_on_compute
    metric.update(*columns(0, (), (), ()), subset=torch.tensor([0, 1] * 4))
    figure, axes = metric.plot()
    heights = sorted(float(line.get_ydata()[0]) for line in axes.lines if len(line.get_ydata()) == 1)
    assert heights == pytest.approx(sorted(value.item() for value in metric.compute().values()), abs=1e-6)
    plt.close(figure)
