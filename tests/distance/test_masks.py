"""Distances of a part of images, beside NumPy."""

import math

import numpy as np
import pytest
import reference
import torch
from torch import nn

from perceptual import create_metric
from perceptual.distance.baselines import BASELINES
from perceptual.distance.lpips import LPIPS
from perceptual.features.backbone import Backbone
from perceptual.metrics import PerceptualDistance, PerceptualDiversity


class TwoLevels(nn.Module):
    """A network of the user's with maps of half and of 3/8 the size of images, both smooth everywhere."""

    def __init__(self):
        super().__init__()
        self.layer, self.pool = nn.Conv2d(3, 6, 2, stride=2), nn.AdaptiveAvgPool2d((6, 9))

    def forward(self, images):
        first = self.layer(images).tanh()
        return [first, self.pool(first).sin()]


def reduced(mask, height, width):
    """The mean of each part of a mask (H, W) that a position of a map (height, width) touches."""
    rows, columns = (
        [(i * size // few, math.ceil((i + 1) * size / few)) for i in range(few)]
        for size, few in zip(mask.shape, (height, width), strict=True)
    )
    return np.array([[mask[a:b, c:d].mean() for c, d in columns] for a, b in rows])


def by_numpy(form, x, y, lin, mask):
    """Equation 1 of one pair with maps (C, H, W), every mean over positions weighted by the mask."""
    found = 0.0
    for f, g, weights in zip(x, y, lin, strict=True):
        share = reduced(mask, *f.shape[1:])
        share = share / share.sum()
        if form == "pooled":
            f, g = (np.sum(m * share, axis=(1, 2))[:, None, None] for m in (f, g))
            share = np.ones((1, 1))
        found += np.sum(share * reference.lpips_map(f, g, weights))
    return found


def example(count=2, height=16, width=24, seed=0):
    generator = torch.Generator().manual_seed(seed)
    x, y = torch.rand(2, count, 3, height, width, generator=generator)
    mask = torch.rand(count, 1, height, width, generator=generator)
    mask[:, :, : height // 3] = 0
    return x, y, mask


WAYS = {
    "forward": lambda d, x, y, m: d(x, y, m),
    "per_level": lambda d, x, y, m: d.per_level(x, y, m).sum(1),
    "triplet": lambda d, x, y, m: d.triplet(x, x, y, m)[1],
    "reference": lambda d, x, y, m: d.reference(y, m)(x),
    "embed": lambda d, x, y, m: (d.embed(x, m) - d.embed(y, m)).square().sum(1),
    "uint8": lambda d, x, y, m: d(x, y, (m * 255).round().byte()),
    "metric": lambda d, x, y, m: PerceptualDistance(d, "none")(x, y, mask=m),
}


@pytest.mark.parametrize("form", ["per_position", "pooled"])
@pytest.mark.parametrize("way", WAYS)
def test_positions_count_by_the_share_of_them_that_a_mask_covers(way, form):
    torch.manual_seed(0)
    distance = LPIPS(TwoLevels(), None, form=form)
    for vector in distance.lin:
        vector.data.uniform_()
    x, y, mask = example()
    if way == "uint8":
        mask = (mask * 255).round() / 255
    lin = [vector.numpy() for vector in distance.lin]
    maps = [[level.numpy() for level in distance.backbone(image)] for image in (x, y)]
    wanted = [
        by_numpy(form, *([level[i] for level in of] for of in maps), lin, mask[i, 0].numpy())
        for i in range(2)
    ]
    np.testing.assert_allclose(WAYS[way](distance, x, y, mask), wanted, rtol=1e-5)
    assert abs(wanted[0] / distance(x, y)[0].item() - 1) > 0.001  # the mask matters


@torch.no_grad()
@pytest.mark.parametrize(
    "method", ["test_resnet-random", "test_vit-random", "l2", "l2_lab", "psnr", "psnr_y", "ssim"]
)
def test_a_mask_of_ones_changes_nothing(method):
    distance = create_metric(method).distance
    x, y, _ = example(height=64, width=48)
    ones = torch.ones(1, 1, 64, 48)
    for mask in (ones, ones.bool().expand(2, -1, -1, -1), ones * 0.5):
        torch.testing.assert_close(distance(x, y, mask=mask), distance(x, y), atol=1e-6, rtol=1e-6)


@torch.no_grad()
@pytest.mark.parametrize("method", ["l2", "psnr", "ssim"])
def test_classic_distances_of_a_part_are_those_of_that_part(method):
    distance = BASELINES[method]()
    x, y, mask = example(height=40, width=32)
    mask = torch.zeros_like(mask)
    mask[:, :, :, :16] = 1
    part = distance(x[..., :16], y[..., :16])
    # windows of SSIM reach over the border of the part
    torch.testing.assert_close(distance(x, y, mask), part, rtol=0.05 if method == "ssim" else 1e-5, atol=0)


@pytest.mark.parametrize("form", ["per_position", "pooled"])
@pytest.mark.parametrize(
    "network", [("test_resnet", {}), ("test_vit", {}), ("test_vit", {"input_size": 64})], ids=str
)
def test_filled_images_hide_what_is_outside(network, form):
    name, options = network
    torch.manual_seed(0)
    distance = LPIPS(Backbone(name, None, **options), None, form=form, outside="fill")
    x, y, mask = example(height=32, width=48)
    d, *others = (
        distance(torch.where(mask > 0, x, noise), torch.where(mask > 0, y, 1 - noise), mask)
        for noise in (x, torch.zeros(1), torch.rand_like(x), torch.ones(1))
    )
    assert all(torch.equal(other, d) for other in others)
    x.requires_grad_()
    distance(x, y, mask).sum().backward()
    assert (x.grad[(mask == 0).expand_as(x)] == 0).all()
    assert (x.grad.abs().amax((1, 2, 3)) > 0).all()
    distance.outside = "see"  # receptive fields reach over the border
    x.grad = None
    distance(x, y, mask).sum().backward()
    assert (x.grad[(mask == 0).expand_as(x)] != 0).any()


@pytest.mark.parametrize("form", ["per_position", "pooled"])
def test_gradients_are_those_of_finite_differences(form):
    torch.manual_seed(0)
    distance = LPIPS(TwoLevels(), None, form=form).double()
    x, y, mask = (part.double() for part in example(1, 8, 12))
    x.requires_grad_(), mask.clamp_(0.1, 0.9).requires_grad_()
    assert torch.autograd.gradcheck(lambda *of: distance(of[0], y, of[1]), (x, mask))


def test_a_map_is_multiplied_by_the_mask():
    distance = LPIPS(TwoLevels(), None, spatial=True)
    x, y, mask = example()
    torch.testing.assert_close(distance(x, y, mask), distance(x, y) * mask)


@pytest.mark.parametrize(
    ("change", "error"),
    [
        (lambda m: m[:, 0], r"mask must have the shape \(2, 1, 16, 24\) of the images, got \(2, 16, 24\)"),
        (lambda m: m[..., :8], r"got \(2, 1, 16, 8\)"),
        (lambda m: m.expand(-1, 3, -1, -1), r"got \(2, 3, 16, 24\)"),
        (lambda m: m.long(), "mask must be float, bool or uint8, got torch.int64"),
        (lambda m: m * 2, r"mask must lie in \[0, 1\], got 0 … 1\.9"),
        (lambda m: m * torch.nan, "got nan … nan"),
        (lambda m: torch.stack([m[0], m[1] * 0]), r"mask\[1\] is 0 everywhere"),
    ],
)
@pytest.mark.parametrize("distance", [LPIPS(TwoLevels(), None), BASELINES["l2"]()], ids=["lpips", "l2"])
def test_what_is_no_mask_is_refused(distance, change, error):
    x, y, mask = example()
    with pytest.raises(ValueError, match=error):
        distance(x, y, change(mask))


def test_what_takes_no_mask_says_so():
    x, y, mask = example(height=32, width=32)
    with pytest.raises(ValueError, match="no map of where images differ, so it takes no mask"):
        BASELINES["gmsd"]()(x, y, mask)
    with pytest.raises(
        ValueError, match="outside='fill' gives the mean colour of a network, and ssim has none"
    ):
        create_metric("ssim", outside="fill")
    with pytest.raises(ValueError, match="outside must be one of see, fill, got 'hide'"):
        LPIPS(TwoLevels(), None, outside="hide")

    class Embedding(TwoLevels):
        def forward(self, images):
            return [super().forward(images)[0].mean((2, 3), keepdim=True)]

    with pytest.raises(ValueError, match=r"one position for the whole image, .*; outside='fill'"):
        LPIPS(Embedding(), None)(x, y, mask)
    assert LPIPS(Embedding(), None, outside="fill")(x, y, mask).shape == (2,)


def test_pairs_count_one_or_the_area_of_their_masks():
    torch.manual_seed(0)
    net = TwoLevels()
    batches = [example(), example(1, 24, 32, seed=1)]
    distances = torch.cat([LPIPS(net, None)(*batch) for batch in batches])
    areas = torch.cat([mask.sum((1, 2, 3)) for *_, mask in batches])
    for weight, counts in (("image", torch.ones(3)), ("area", areas)):
        metric = PerceptualDistance(LPIPS(net, None), weight=weight)
        values = [metric(x, y, mask) for x, y, mask in batches]
        torch.testing.assert_close(metric.compute(), (distances * counts).sum() / counts.sum())
        torch.testing.assert_close(values[1], distances[2])
    x, y, _ = batches[0]
    metric.update(x, y)  # all 16 · 24 pixels
    counts, more = torch.cat([areas, torch.full((2,), 384.0)]), LPIPS(net, None)(x, y)
    wanted = (torch.cat([distances, more]) * counts).sum() / counts.sum()
    torch.testing.assert_close(metric.compute(), wanted)
    with pytest.raises(ValueError, match="reduction must be 'mean', got 'sum'"):
        PerceptualDistance(LPIPS(net, None), "sum", weight="area")


def test_the_diversity_of_a_part_is_the_mean_of_its_pairs():
    torch.manual_seed(0)
    distance, (x, _, mask) = LPIPS(TwoLevels(), None), example(3)
    metric = PerceptualDiversity(distance)
    metric.update(x, 0, mask[:1])
    wanted = distance(x[[0, 0, 1]], x[[1, 2, 2]], mask[:1]).mean()
    torch.testing.assert_close(metric.compute().float(), wanted)
    with pytest.raises(ValueError, match=r"one for all samples, \(1, 1, H, W\), got \(3, 1, 16, 24\)"):
        metric.update(x, 0, mask)
