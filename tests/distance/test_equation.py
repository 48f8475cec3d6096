"""Equation 1 of the paper, in every way that we compute it, beside NumPy."""

import numpy as np
import pytest
import reference
import torch
from torch import func, nn

from perceptual.distance.differences import mean_differences, weigh
from perceptual.distance.lpips import LPIPS
from perceptual.features.backbone import Backbone

ROWS = torch.arange(2)


def among(d, x, y):
    return d.among(torch.cat([x, y]), ROWS, ROWS + 2)


def in_training(d, x, y, dropout=0.0):
    """The distance in training mode, but for its backbone's batch normalisation."""
    metric = LPIPS(d.backbone, None, form=d.form, dropout=dropout)
    metric.load_state_dict(d.state_dict())
    metric.training = True
    return metric(x, y), among(metric, x, y)


def from_differences(d, x, y):
    images = torch.cat([x, y])
    (means,) = mean_differences(d, [torch.tensor([[0, 2], [1, 3]])], lambda index: images[index])
    return weigh(d, means)


WAYS = {
    "forward": lambda d, x, y: d(x, y),
    "the other way round": lambda d, x, y: d(y, x),
    "per_level": lambda d, x, y: d.per_level(x, y).sum(1),
    "triplet": lambda d, x, y: d.triplet(x, y, y)[0],
    "triplet of p1": lambda d, x, y: d.triplet(x, x, y)[1],
    "reference": lambda d, x, y: d.reference(y)(x),
    "among": among,
    "among in training": lambda d, x, y: in_training(d, x, y)[1],
    # dropout acts on whole differences, hence takes the readable loop; so do transforms of functions
    "readable loop": lambda d, x, y: in_training(d, x, y, dropout=1e-12)[0],
    "vmap": lambda d, x, y: func.vmap(d)(x[:, None], y[:, None]).flatten(),
    "embed": lambda d, x, y: (d.embed(x) - d.embed(y)).square().sum(1),
    "pairwise": lambda d, x, y: d.pairwise(x, y).diagonal(),
    "pairwise of one set": lambda d, x, y: d.pairwise(torch.cat([x, y]))[:2, 2:].diagonal(),
    "differences": from_differences,
    "one by one": lambda d, x, y: torch.cat([d(x[i : i + 1], y[i : i + 1]) for i in range(2)]),
}


class Contiguous(nn.Module):
    """A network of the user's, whose maps are not channels last, and vanish in places."""

    def __init__(self):
        super().__init__()
        self.layer, self.pool = nn.Conv2d(3, 8, 5, stride=2), nn.AvgPool2d(3)

    def forward(self, images):
        first = self.layer(images.contiguous()).relu()
        return [first, self.pool(first)]


@pytest.fixture(scope="module")
def networks():
    torch.manual_seed(0)
    named = {name: Backbone(name, None) for name in ("test_resnet", "test_vit")}
    return named | {"own": Backbone.of(Contiguous())}


def a_distance(backbone, form, weighted):
    distance = LPIPS(backbone, None, form=form)
    if weighted:
        generator = torch.Generator().manual_seed(1)
        for vector in distance.lin:
            vector.data.uniform_(generator=generator)
            vector.data[:3] = 0  # as many of the published weights
    return distance


@pytest.mark.filterwarnings("ignore:There is a performance drop:UserWarning")  # of attention under vmap
@pytest.mark.parametrize("size", [(40, 24), (33, 48)], ids=str)
@pytest.mark.parametrize("weighted", [False, True], ids=["uncalibrated", "lin"])
@pytest.mark.parametrize("form", ["per_position", "pooled"])
@pytest.mark.parametrize("network", ["test_resnet", "test_vit", "own"])
@torch.no_grad()
def test_every_way_gives_the_papers_equation(networks, network, form, weighted, size):
    distance = a_distance(networks[network], form, weighted)
    x, y = torch.rand(2, 2, 3, *size, generator=torch.Generator().manual_seed(2))
    x[0, :, :20] = 0
    levels = {"per_position": reference.lpips_levels, "pooled": reference.pooled_levels}[form]
    f, g = ([m.numpy() for m in distance.backbone(images)] for images in (x, y))
    lin = [vector.numpy() for vector in distance.lin]
    expected = np.array([levels([m[i] for m in f], [m[i] for m in g], lin) for i in range(2)])
    np.testing.assert_allclose(distance.per_level(x, y), expected, rtol=2e-4, atol=1e-7)
    for way, compute in WAYS.items():
        found = compute(distance, x, y)
        assert found.dtype == torch.float32
        np.testing.assert_allclose(found, expected.sum(1), rtol=2e-4, atol=1e-6, err_msg=way)


@torch.no_grad()
def test_a_map_is_the_papers_equation_before_its_mean_upsampled(networks):
    distance = a_distance(networks["test_vit"], "per_position", weighted=True)
    spatial = LPIPS(distance.backbone, None, spatial=True)
    spatial.load_state_dict(distance.state_dict())
    x, y = torch.rand(2, 2, 3, 40, 24, generator=torch.Generator().manual_seed(2))
    f, g = ([m.numpy() for m in distance.backbone(images)] for images in (x, y))
    found, levels = spatial(x, y), spatial.per_level(x, y)
    assert levels.shape == (2, len(f), 40, 24)
    for i in range(2):
        parts = [
            reference.lpips_map(a[i], b[i], v.numpy()) for a, b, v in zip(f, g, distance.lin, strict=True)
        ]
        expected = sum(reference.enlarge(part, 40, 24) for part in parts)
        np.testing.assert_allclose(found[i, 0], expected, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("training", [False, True])
@torch.no_grad()
def test_pairs_among_images_may_be_more_than_are_held_at_once_and_equal(networks, training):
    distance = a_distance(networks["test_resnet"], "per_position", weighted=True)
    x = torch.rand(5, 3, 40, 40)
    x[4] = x[1]
    first, second = torch.tensor([0, 2, 3, 1] * 30), torch.tensor([1, 1, 0, 4] * 30)
    expected, distance.training = distance(x[first], x[second]), training
    found = distance.among(x, first, second)
    torch.testing.assert_close(found, expected, atol=2e-6, rtol=1e-5)
    assert (found[3::4].abs() <= (1e-6 if training else 0)).all()


@pytest.mark.parametrize(
    ("way", "calls"),
    {
        "forward": [4],
        "triplet": [6],
        "among": [4],
        "reference": [2, 2],
        "embed": [2, 2],
    }.items(),
)
@torch.no_grad()
def test_each_image_goes_through_the_backbone_once(networks, way, calls):
    distance = a_distance(networks["test_resnet"], "per_position", weighted=False)
    seen = []
    hook = distance.backbone.register_forward_hook(lambda module, args, _: seen.append(len(args[0])))
    WAYS[way](distance, *torch.rand(2, 2, 3, 40, 40))
    hook.remove()
    assert seen == calls


@pytest.mark.parametrize("way", ["forward", "among in training", "reference", "embed", "pairwise", "triplet"])
def test_an_ambient_autocast_reaches_the_backbone_and_not_the_distance(way, networks):
    distance = a_distance(networks["test_resnet"], "per_position", weighted=False)
    x, y = torch.rand(2, 2, 3, 40, 40, generator=torch.Generator().manual_seed(0))
    dtypes, expected = set(), WAYS[way](distance, x, y)
    hook = distance.backbone.register_forward_hook(
        lambda module, args, maps: dtypes.update(m.dtype for m in maps)
    )
    with torch.autocast("cpu", torch.bfloat16):
        mixed = WAYS[way](distance, x, y)
    hook.remove()
    assert dtypes == {torch.bfloat16}
    assert mixed.dtype == torch.float32
    own = LPIPS(Backbone("test_resnet", None, precision="bf16-mixed"), None)
    own.backbone.load_state_dict(distance.backbone.state_dict())
    torch.testing.assert_close(mixed, own(x, y), atol=1e-5, rtol=1e-4)  # as the backbone's own option
    assert 0 < (mixed - expected).abs().max() < 0.05 * expected.max()
