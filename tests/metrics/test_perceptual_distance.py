import copy
import pickle
from inspect import signature

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from networks import NETS, trunk, write_weights
from torch import nn
from torchmetrics import MetricCollection
from torchmetrics.functional.image import lpips as torchmetrics_lpips
from torchmetrics.image import LearnedPerceptualImagePatchSimilarity

from perceptual import create_metric
from perceptual.distance.baselines import BASELINES
from perceptual.distance.lpips import LPIPS
from perceptual.features.backbone import Backbone
from perceptual.metrics import OpinionCorrelation, PerceptualDistance, PerceptualDiversity


def small(reduction="mean"):
    torch.manual_seed(0)
    return PerceptualDistance(LPIPS(Backbone("test_resnet", None), lin=None), reduction)


def images(seed, count=4, size=32):
    return torch.rand(2, count, 3, size, size, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize(("reduction", "reduce"), [("mean", torch.mean), ("sum", torch.sum)])
def test_it_is_the_reduction_over_all_pairs(reduction, reduce):
    metric = small(reduction)
    batches = [images(seed, count=2 + seed) for seed in range(3)]
    values = [metric.distance(*batch) for batch in batches]
    for batch, value in zip(batches, values, strict=True):
        assert torch.equal(metric(*batch), reduce(value))
    torch.testing.assert_close(metric.compute(), reduce(torch.cat(values)))
    metric.reset()
    metric.update(*batches[0])
    torch.testing.assert_close(metric.compute(), reduce(values[0]))


def test_without_reduction_it_is_all_distances_in_order():
    metric = small("none")
    batches = [images(seed) for seed in range(2)]
    for batch in batches:
        metric.update(*batch)
    assert torch.equal(metric.compute(), torch.cat([metric.distance(*batch) for batch in batches]))


class TorchmetricsNet(nn.Module):
    """What torchmetrics calls for its features, of the package with random weights."""

    def __init__(self, name):
        super().__init__()
        self.net = trunk(name)

    def forward(self, x):
        return self.net(x)


@pytest.mark.parametrize("net_type", ["alex", "squeeze", "vgg"])
@pytest.mark.parametrize("normalize", [False, True])
def test_lpips_gives_the_numbers_of_torchmetrics(net_type, normalize, tmp_path, monkeypatch):
    name = {short: name for name, short in NETS.items()}[net_type]
    write_weights(tmp_path, name)
    monkeypatch.setenv("PERCEPTUAL_WEIGHTS", str(tmp_path))
    patched = {"alex": "Alexnet", "squeeze": "SqueezeNet", "vgg": "Vgg16"}[net_type]
    monkeypatch.setattr(torchmetrics_lpips, patched, lambda **_: TorchmetricsNet(name))
    reduction = "sum" if net_type == "squeeze" else "mean"
    theirs = LearnedPerceptualImagePatchSimilarity(net_type, reduction, normalize)
    ours = PerceptualDistance.lpips(net_type, reduction, normalize)
    for seed in range(2):
        x, y = images(seed, size=64) if normalize else images(seed, size=64) * 2 - 1
        torch.testing.assert_close(ours(x, y), theirs(x, y), atol=1e-6, rtol=1e-5)
    torch.testing.assert_close(ours.compute(), theirs.compute(), atol=1e-6, rtol=1e-5)


@pytest.mark.parametrize("reduction", ["none", None])
def test_lpips_takes_what_that_of_torchmetrics_takes(reduction, tmp_path, monkeypatch):
    pytest.importorskip("torchmetrics", "1.8")
    write_weights(tmp_path, "alexnet")
    monkeypatch.setenv("PERCEPTUAL_WEIGHTS", str(tmp_path))
    monkeypatch.setattr(torchmetrics_lpips, "Alexnet", lambda **_: TorchmetricsNet("alexnet"))
    made = (LearnedPerceptualImagePatchSimilarity, PerceptualDistance.lpips)
    theirs, ours = (make(net_type="alex", reduction=reduction, normalize=True) for make in made)
    assert list(signature(ours.update).parameters) == list(signature(theirs.update).parameters)
    batches = [images(seed, count=2 + seed, size=64) for seed in range(2)]
    for x, y in batches:
        torch.testing.assert_close(ours(img1=x, img2=y), theirs(img1=x, img2=y), atol=1e-6, rtol=1e-5)
        for metric in (ours, theirs):
            metric.update(img1=x, img2=y)
    torch.testing.assert_close(ours.compute(), theirs.compute(), atol=1e-6, rtol=1e-5)
    copied = pickle.loads(pickle.dumps(ours.clone()))
    assert torch.equal(copied.compute(), ours.compute())
    # a collection passes each metric the arguments that it names
    collection = MetricCollection({"lpips": ours, "theirs": theirs})
    collection.reset()
    collection.update(img1=batches[0][0], img2=batches[0][1], real=True)
    found = collection.compute()
    torch.testing.assert_close(found["lpips"], found["theirs"], atol=1e-6, rtol=1e-5)
    assert found["lpips"].shape == (2,)


def test_as_a_loss_it_gives_gradients_and_does_not_grow():
    metric = small()
    x, y = images(0)
    x.requires_grad_(True)
    for _ in range(3):
        metric(x, y).backward()
    assert x.grad.abs().sum() > 0
    assert metric.total.grad_fn is None
    assert metric._forward_cache.grad_fn is None
    assert {name for name, value in vars(metric).items() if isinstance(value, list)} <= {"_update_signature"}


def test_a_million_small_distances_after_a_large_one_all_count():
    metric = PerceptualDistance(lambda x, y: x)
    metric.update(torch.tensor([1e6]), None)
    for _ in range(1000):
        metric.update(torch.tensor([0.01]), None)
    assert metric.compute().item() * 1001 == pytest.approx(1e6 + 10, abs=0.2)
    assert (metric.total - metric.lost)[0].item() == pytest.approx(1e6 + 10, abs=0.07)


def test_infinite_distances_stay_infinite():
    metric = PerceptualDistance(BASELINES["psnr"]())
    x, y = images(0)
    metric.update(x, x)
    metric.update(x, y)
    assert metric.compute() == -torch.inf


def test_weights_are_hidden_from_optimisers_and_checkpoints_but_move():
    class Model(nn.Module):
        def __init__(self):
            super().__init__()
            self.layer = nn.Conv2d(3, 3, 1)
            self.metric = small()

    model = Model().train()
    assert set(model.state_dict()) == {"layer.weight", "layer.bias"}
    assert len(list(model.parameters())) == 2
    assert not model.metric.distance.training
    before = copy.deepcopy(model.metric.distance.state_dict())
    optimiser = torch.optim.AdamW(model.parameters(), lr=0.1)
    x, y = images(0)
    model.metric(model.layer(x).sigmoid(), y).backward()
    optimiser.step()
    assert all(torch.equal(before[key], value) for key, value in model.metric.distance.state_dict().items())
    model.to("meta")
    assert all(value.is_meta for value in model.metric.distance.state_dict().values())


@pytest.mark.parametrize(
    "convert", [lambda m: m.set_dtype(torch.bfloat16), lambda m: nn.Sequential(m).bfloat16()]
)
def test_half_precision_converts_the_distance_and_sums_in_float32(convert):
    metric = small()
    full = metric.distance(*images(0)).mean()
    convert(metric)
    assert {value.dtype for value in metric.distance.parameters()} == {torch.bfloat16}
    metric.update(*images(0).bfloat16())
    metric.update(*images(0))
    assert metric.total.dtype == torch.float32
    assert metric.compute().item() == pytest.approx(full.item(), rel=0.05)


def test_what_cannot_be_is_refused():
    with pytest.raises(ValueError, match="reduction must be one of mean, sum, none, got 'max'"):
        small("max")
    with pytest.raises(ValueError, match="net_type must be one of alex, squeeze, vgg, got 'resnet'"):
        PerceptualDistance.lpips("resnet")
    with pytest.raises(ValueError, match="no pairs"), pytest.warns(UserWarning, match="compute"):
        small().compute()


def part(rank):
    """What a process sees: images, their groups (none in common but one), distances and scores."""
    samples, group = images(rank, count=3)[0], torch.tensor([0, rank, rank])
    return samples, group, *torch.rand(2, 4, generator=torch.Generator().manual_seed(rank))


def of_both(name, samples, group, distance, score):
    if name == "srcc":
        metric = OpinionCorrelation("srcc")
        metric.update(distance, score)
        return metric
    metric = PerceptualDiversity(small().distance)
    metric.update(samples, group)
    return metric


def run(rank, world, folder):
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/init", rank=rank, world_size=world)
    results = {}
    for reduction in ("mean", "sum", "none"):
        metric = small(reduction)
        metric.update(*images(rank, count=2 + rank))
        results[reduction] = metric.compute()
    results |= {name: of_both(name, *part(rank)).compute() for name in ("diversity", "srcc")}
    torch.save(results, f"{folder}/{rank}.pt")
    dist.destroy_process_group()


def test_processes_are_reduced_as_one(tmp_path, monkeypatch):
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    mp.start_processes(run, (2, str(tmp_path)), nprocs=2, start_method="forkserver")
    distances = torch.cat([small().distance(*images(rank, count=2 + rank)) for rank in range(2)])
    for rank in range(2):
        results = torch.load(tmp_path / f"{rank}.pt")
        torch.testing.assert_close(results["mean"], distances.mean())
        torch.testing.assert_close(results["sum"], distances.sum())
        torch.testing.assert_close(results["none"], distances)
        for name in ("diversity", "srcc"):
            whole = of_both(name, *(torch.cat(pair) for pair in zip(part(0), part(1), strict=True)))
            torch.testing.assert_close(results[name], whole.compute(), atol=1e-9, rtol=1e-6)


class Own(nn.Module):
    """A network of the user's, with a parameter and a buffer."""

    def __init__(self):
        super().__init__()
        self.layer = nn.Conv2d(3, 4, 3)
        self.register_buffer("scale", torch.ones(1))

    def forward(self, images):
        return [self.layer(images) * self.scale]


def saved():
    small().distance.save_pretrained("saved")
    return LPIPS.from_pretrained("saved")


MADE = {
    "name": lambda: LPIPS("alexnet"),
    "metric": lambda: create_metric("alexnet-v0.0"),
    "random": lambda: create_metric("test_vit-random"),
    "joint": lambda: LPIPS("alexnet+alexnet"),
    "built": lambda: PerceptualDistance.lpips(),
    "backbone": lambda: LPIPS(Backbone("test_resnet", None, trainable=True), None),
    "own": lambda: PerceptualDistance(LPIPS(Own())),
    "saved": saved,
}


@pytest.mark.usefixtures("alexnet")
@pytest.mark.parametrize("name", MADE)
def test_what_is_made_in_inference_mode_can_be_a_loss_later(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    x, y = images(0, count=1, size=64)
    gradients = []
    for enabled in (True, False):
        torch.manual_seed(0)
        with torch.inference_mode(enabled):
            metric = MADE[name]()
        moving = x.clone().requires_grad_()
        metric(moving, y).sum().backward()
        gradients.append(moving.grad)
    torch.testing.assert_close(*gradients)
    assert gradients[0].abs().sum() > 0


def test_a_network_made_for_training_in_inference_mode_can_be_trained():
    with torch.inference_mode():
        distance = LPIPS(Backbone.of(Own(), trainable=True))
    distance(*images(0, count=1)).sum().backward()
    assert all(parameter.grad.abs().sum() > 0 for parameter in distance.backbone.net.parameters())
