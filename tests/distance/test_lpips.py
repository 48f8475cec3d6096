import io
import json
import pickle
import sys
import warnings
from copy import deepcopy
from pathlib import Path

import lpips
import numpy as np
import pytest
import torch
import torch.nn.functional as F
from networks import NETS, reference_lpips, write_weights
from PIL import Image
from safetensors.torch import load_file, save_file
from torch import func, nn
from torch.autograd import forward_ad

from perceptual import create_metric
from perceptual.distance import calibration as calibrations
from perceptual.distance import compiled
from perceptual.distance import lpips as lpips_module
from perceptual.distance.baselines import BASELINES
from perceptual.distance.level import unit_normalize
from perceptual.distance.lpips import LPIPS
from perceptual.evaluation.provenance import describe
from perceptual.features.backbone import Backbone
from perceptual.metrics import PerceptualDistance, PerceptualDiversity


def images(*shape, seed=0, count=2):
    generator = torch.Generator().manual_seed(seed)
    return [torch.rand(*shape, generator=generator) for _ in range(count)]


@pytest.fixture
def weights(tmp_path, monkeypatch):
    """Call with a name: PERCEPTUAL_WEIGHTS holds the random weights of the `lpips` package's network."""

    def write(name):
        write_weights(tmp_path, name)
        monkeypatch.setenv("PERCEPTUAL_WEIGHTS", str(tmp_path))
        return name

    return write


@pytest.fixture(scope="module")
def small():
    """An uncalibrated distance on a small random network, some of whose weights are changed to be uneven."""
    torch.manual_seed(0)
    distance = LPIPS(Backbone("test_resnet", None), lin=None)
    for vector in distance.lin:
        vector.data.uniform_()
    return distance


# --- against NumPy, from the paper ---


def test_the_pooled_form_does_not_see_where_things_are():
    torch.manual_seed(0)
    backbone = Backbone("alexnet", None, out_indices=[0])
    black = torch.zeros(1, 3, 67, 67)
    a, b = black.clone(), black.clone()
    a[..., 16:24, 16:24], b[..., 40:48, 40:48] = 1, 1  # strides of 4: the maps are shifted whole
    assert LPIPS(backbone, lin=None)(a, b) > 0.01
    assert LPIPS(backbone, lin=None, form="pooled")(a, b) < 1e-6


def test_a_form_that_cannot_be_is_refused():
    with pytest.raises(ValueError, match="form must be one of per_position, pooled, got 'mean'"):
        LPIPS("alexnet", form="mean")
    with pytest.raises(ValueError, match="spatial must be False"):
        LPIPS("alexnet", form="pooled", spatial=True)


# --- against the lpips package, with the same weights ---

CASES = {
    "v0.1": ({"version": "0.1"}, "v0.1"),
    "v0.0": ({"version": "0.0"}, "v0.0"),
    "uncalibrated": ({"lpips": False}, None),
}


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("name", NETS)
@torch.no_grad()
def test_distance_equals_the_lpips_packages(name, case, weights, monkeypatch):
    arguments, lin = CASES[case]
    theirs = reference_lpips(name, monkeypatch, **arguments)
    ours = LPIPS(weights(name), lin)
    spatial = LPIPS(ours.backbone, lin, spatial=True)
    for size in [(48, 48), (65, 40), (32, 56)]:
        x, y = images(2, 3, *size)
        expected, levels = theirs(x, y, normalize=True, retPerLayer=True)
        torch.testing.assert_close(ours(x, y), expected.flatten(), atol=1e-6, rtol=1e-5)
        torch.testing.assert_close(
            ours.per_level(x, y), torch.cat(levels, 1).flatten(1), atol=1e-6, rtol=1e-5
        )
        theirs.spatial = True
        expected, levels = theirs(x, y, normalize=True, retPerLayer=True)
        theirs.spatial = False
        torch.testing.assert_close(spatial(x, y), expected, atol=2e-6, rtol=1e-5)
        torch.testing.assert_close(spatial.per_level(x, y), torch.cat(levels, 1), atol=2e-6, rtol=1e-5)


# --- against numbers measured with the package and ImageNet weights ---


@pytest.mark.parametrize("name", NETS)
@torch.no_grad()
def test_distance_gives_the_measured_numbers(name, assets, monkeypatch):
    monkeypatch.setenv("PERCEPTUAL_WEIGHTS", str(assets / "weights"))
    golden = json.loads((assets / "examples" / "golden.json").read_text())["values"]
    golden = [values for values in golden if values["backbone"] == name]
    assert {values["lin"] for values in golden} == {"v0.1", "v0.0", None}
    ref, p0, p1 = (
        torch.from_numpy(np.array(Image.open(assets / "examples" / f"{role}.png"))).permute(2, 0, 1)[None]
        for role in ("ref", "p0", "p1")
    )
    for values in golden:
        distance = LPIPS(name, values["lin"])
        spatial = LPIPS(distance.backbone, values["lin"], spatial=True)(ref, p0)
        expected = values["spatial_ref_p0"]
        assert list(spatial.shape) == expected["shape"]
        measured = {
            "ref_p0": distance(ref, p0),
            "ref_p1": distance(ref, p1),
            "per_layer_ref_p0": distance.per_level(ref, p0)[0],
            "mean": spatial.mean(),
            "min": spatial.min(),
            "max": spatial.max(),
            "centre": spatial[0, 0, 32, 32],
        }
        for key, value in measured.items():
            target = values[key] if key in values else expected[key]
            np.testing.assert_allclose(value.squeeze(), target, rtol=0, atol=1e-5, err_msg=f"{name} {key}")


# --- properties ---


@torch.no_grad()
def test_equal_images_are_at_distance_zero_exactly(small):
    x, _ = images(3, 3, 40, 40)
    assert (small(x, x.clone()) == 0).all()
    assert (LPIPS(Backbone("test_vit", None), None, spatial=True)(x, x.clone()) == 0).all()


@torch.no_grad()
def test_distance_is_symmetric_and_positive(small):
    x, y = images(3, 3, 40, 40)
    assert torch.equal(small(x, y), small(y, x))
    assert (small(x, y) > 0).all()


@torch.no_grad()
@pytest.mark.parametrize("form", ["per_position", "pooled"])
def test_distances_among_images_are_those_of_their_pairs(small, form):
    distance = deepcopy(small)
    distance.form = form
    (x,) = images(5, 3, 40, 40, count=1)
    x[4] = x[1]
    first, second = (
        torch.tensor([0, 2, 3, 1] * 30),
        torch.tensor([1, 1, 0, 4] * 30),
    )  # more than are held at once
    calls = []
    handle = distance.backbone.register_forward_hook(lambda module, args, _: calls.append(len(args[0])))
    eval_mode = distance.among(x, first, second)
    handle.remove()
    assert calls == [5]
    torch.testing.assert_close(eval_mode, distance(x[first], x[second]), atol=1e-7, rtol=1e-5)
    assert (eval_mode[3::4] == 0).all()
    distance.training = True  # and not its batch normalisation
    training_mode = distance.among(x, first, second)
    torch.testing.assert_close(training_mode, eval_mode, atol=2e-6, rtol=1e-5)
    torch.testing.assert_close(training_mode[3::4], torch.zeros(30), atol=1e-6, rtol=0)


def test_gradients_of_distances_among_images_are_those_of_their_pairs(small):
    first, second, gradients = torch.tensor([0, 2, 1, 2]), torch.tensor([1, 1, 0, 0]), []
    for among in (True, False):
        distance = deepcopy(small).requires_grad_(True)
        distance.training = True
        (x,) = images(3, 3, 40, 40, count=1)
        x.requires_grad_()
        d = distance.among(x, first, second) if among else distance(x[first], x[second])
        (d * torch.tensor([1.0, -2, 3, 4])).sum().backward()
        weights = next(distance.backbone.parameters())
        gradients.append([x.grad, weights.grad, *(vector.grad for vector in distance.lin)])
    for ours, theirs in zip(*gradients, strict=True):
        assert theirs.abs().max() > 0
        torch.testing.assert_close(ours, theirs, atol=1e-5 * theirs.abs().max().item(), rtol=1e-4)


@torch.no_grad()
def test_a_map_has_the_mean_of_the_distance_where_nothing_is_cut_off():
    torch.manual_seed(0)
    backbone = Backbone("test_vit", None)  # one resolution, of which 64 is a multiple
    x, y = images(2, 3, 64, 64)
    map_ = LPIPS(backbone, None, spatial=True)(x, y)
    assert map_.shape == (2, 1, 64, 64)
    torch.testing.assert_close(map_.mean((1, 2, 3)), LPIPS(backbone, None)(x, y), atol=1e-5, rtol=1e-5)
    d0, d1 = LPIPS(backbone, None, spatial=True).triplet(x, x, y)
    assert d0.shape == d1.shape == (2, 1, 64, 64)
    assert (d0 == 0).all()


@torch.no_grad()
def test_the_map_is_large_where_images_differ(small):
    x, _ = images(1, 3, 64, 64)
    y = x.clone()
    y[..., :16, :16] = 1 - y[..., :16, :16]
    map_ = LPIPS(small.backbone, None, spatial=True)(x, y)[0, 0]
    assert map_[:16, :16].mean() > 2 * map_[48:, 48:].mean()


@torch.no_grad()
def test_every_way_to_write_an_image_gives_one_distance(small):
    generator = torch.Generator().manual_seed(0)
    x, y = (torch.randint(256, (2, 3, 40, 40), generator=generator, dtype=torch.uint8) for _ in range(2))
    expected = small(x / 255, y / 255)
    torch.testing.assert_close(small(x, y), expected)
    torch.testing.assert_close(small((x / 255).double(), (y / 255).double()), expected)
    torch.testing.assert_close(small(x, y / 255), expected)
    symmetric = LPIPS(small.backbone, None, value_range=(-1, 1))
    symmetric.load_state_dict(small.state_dict())
    torch.testing.assert_close(symmetric(x / 127.5 - 1, y / 127.5 - 1), expected, atol=1e-5, rtol=1e-5)
    assert torch.equal(symmetric(x, y), small(x, y))  # uint8 has one range
    wide = LPIPS(small.backbone, None, value_range=(0, 255))
    wide.load_state_dict(small.state_dict())
    torch.testing.assert_close(wide(x.float(), y.float()), expected, atol=1e-5, rtol=1e-5)


@torch.no_grad()
def test_grey_is_the_same_in_three_channels(small):
    x, y = images(2, 1, 40, 40)
    assert torch.equal(small(x, y), small(x.repeat(1, 3, 1, 1), y.repeat(1, 3, 1, 1)))


@torch.no_grad()
def test_inputs_are_not_changed(small):
    x, y = images(2, 3, 40, 40)
    copies = x.clone(), y.clone()
    LPIPS(small.backbone, None, value_range=(-1, 1))(x, y)
    small.triplet(x, y, x)
    assert torch.equal(x, copies[0])
    assert torch.equal(y, copies[1])


@pytest.mark.parametrize("name", ["test_resnet", "test_vit", "mixer_s32_224"])
@pytest.mark.parametrize("count", [0, 1])
@torch.no_grad()
def test_no_images_have_no_distances(name, count):
    metric = LPIPS(Backbone(name, None), None)
    levels = len(metric.backbone.channels)
    spatial = LPIPS(metric.backbone, None, spatial=True)
    pooled = LPIPS(metric.backbone, None, form="pooled")
    empty, other = torch.rand(0, 3, 40, 40), torch.rand(count, 3, 40, 40)
    for x, y in ((empty, other), (other, empty)):
        assert metric(x, y).shape == pooled(x, y).shape == (0,)
        assert metric.per_level(x, y).shape == (0, levels)
        assert spatial(x, y).shape == (0, 1, 40, 40)
        assert metric.pairwise(x, y).shape == (len(x), len(y))
        average = PerceptualDistance(metric)
        average.update(*torch.rand(2, 2, 3, 40, 40))
        before = average.compute()
        average.update(x, y)
        assert average.compute() == before
    assert metric.reference(other)(empty).shape == (0,)
    assert metric.pairwise(empty).shape == (0, 0)
    nobody = torch.zeros(0, dtype=torch.long)
    assert metric.among(other, nobody, nobody).shape == (0,)
    for triplet in (
        (empty, other, other),
        (other, empty, empty),
        (other, empty, other),
        (other, other, empty),
    ):
        d0, d1 = metric.triplet(*triplet)
        assert d0.shape == d1.shape == (0,)


def test_no_samples_have_no_diversity():
    diversity = PerceptualDiversity(LPIPS(Backbone("test_resnet", None), None))
    samples = torch.rand(3, 3, 40, 40)
    diversity.update(samples[:0], 1)
    diversity.update(samples, 0)
    before = diversity.compute()
    diversity.update(samples[:0], torch.zeros(0, dtype=torch.long))
    assert diversity.compute() == before > 0


@pytest.mark.parametrize("name", sorted(BASELINES.keys() - {"dists"}))
def test_no_images_have_no_classic_distances(name):
    empty = torch.rand(0, 3, 170, 170)
    assert BASELINES[name]()(empty, empty).shape == (0,)


@pytest.mark.parametrize("counts", [(1, 2, 3), (2, 1, 3), (1, 0, 2)])
def test_numbers_of_images_that_do_not_fit_are_refused(small, counts):
    triplet = [torch.rand(count, 3, 40, 40) for count in counts]
    with pytest.raises(
        ValueError, match=r"(ref|p0) and p1 must have one shape \(or one of them a single image"
    ):
        small.triplet(*triplet)


@torch.no_grad()
def test_half_precision_stays_near_and_finite(small):
    x, y = images(2, 3, 64, 64)
    expected = small(x, y)
    with torch.autocast("cpu", torch.bfloat16):
        mixed = small(x, y)  # float32 still: bfloat16 has three digits, ties would be everywhere
        torch.testing.assert_close(mixed, expected, atol=0, rtol=0.05)
        assert (small(x, x) == 0).all()
    assert not torch.equal(mixed, mixed.bfloat16().float())
    torch.testing.assert_close(small(x.half(), y.half()), expected, atol=1e-2, rtol=1e-2)


# --- gradients ---


def test_the_metric_asks_for_no_gradient_and_images_get_theirs(small):
    x, y = images(1, 3, 40, 40)
    assert not any(p.requires_grad for p in small.parameters())
    assert not small(x, y).requires_grad
    x.requires_grad_()
    small(x, y).sum().backward()
    assert x.grad.isfinite().all()
    assert (x.grad != 0).any()
    assert all(p.grad is None for p in small.parameters())


def test_a_gradient_for_one_image_is_that_of_both_asked_together(small):
    x, y = images(2, 3, 40, 40)
    (alone,) = torch.autograd.grad(small(x.requires_grad_(), y).sum(), x)
    both = torch.autograd.grad(small(x, y.requires_grad_()).sum(), (x, y))
    torch.testing.assert_close(alone, both[0], atol=1e-6, rtol=1e-4)
    assert (both[1] != 0).any()


@pytest.mark.parametrize("name", ["test_resnet", "test_vit", "test_convnext", "alexnet"])
def test_the_gradient_at_equal_images_is_zero(name):
    distance = LPIPS(Backbone(name, None), None)
    x = torch.rand(2, 3, 40, 40).requires_grad_()
    distance(x, x.detach().clone()).sum().backward()
    assert (x.grad == 0).all()


@pytest.mark.parametrize("name", ["alexnet", "test_resnet", "test_convnext"])
def test_gradients_are_finite_where_features_vanish(name):
    distance = LPIPS(Backbone(name, None), None)
    # without weights every feature is zero, of one image or of both; GELU passes gradients on, ReLU does not
    for parameter in distance.backbone.parameters():
        nn.init.zeros_(parameter)
    for other in (torch.rand(1, 3, 40, 40), torch.zeros(1, 3, 40, 40)):
        x = torch.zeros(1, 3, 40, 40, requires_grad=True)
        d = distance(x, other)
        d.sum().backward()
        assert d.isfinite().all()
        assert (x.grad == 0).all()


def test_a_zero_vector_stays_zero_with_a_gradient_of_zero():
    f = torch.zeros(1, 3, 1, 2)
    f[0, :, 0, 0] = torch.tensor([3.0, 0.0, 4.0])
    f.requires_grad_()
    unit = unit_normalize(f)
    torch.testing.assert_close(unit[0, :, 0, 0], torch.tensor([0.6, 0.0, 0.8]))
    assert (unit[0, :, 0, 1] == 0).all()
    other = torch.randn(1, 3, 1, 2)
    (grad,) = torch.autograd.grad((unit_normalize(f) - unit_normalize(other)).square().sum(), f)
    assert grad.isfinite().all()
    assert (grad[..., 1] == 0).all()


@pytest.mark.parametrize("scale", [1e-30, 1e-19, 1e-12, 1e-10, 1e18])
def test_normalisation_is_finite_at_every_scale(scale):
    f = (torch.rand(1, 4, 2, 2, generator=torch.Generator().manual_seed(0)) * scale).requires_grad_()
    unit = unit_normalize(f)
    unit.sum().backward()
    torch.testing.assert_close(unit, lpips.normalize_tensor(f), atol=1e-12, rtol=1e-5)
    assert f.grad.isfinite().all()


def test_gradients_pass_gradcheck_in_double():
    torch.manual_seed(0)
    distance = LPIPS(Backbone("test_vit", None), None).double()
    x, y = (image.double().requires_grad_() for image in images(1, 3, 16, 16))
    assert torch.autograd.gradcheck(distance, (x, y), fast_mode=True)
    f = torch.randn(1, 3, 2, 2, dtype=torch.double).requires_grad_()
    assert torch.autograd.gradcheck(unit_normalize, f)


def test_descending_the_distance_brings_images_together(small):
    x, y = images(1, 3, 40, 40)
    moving = x.requires_grad_()
    before = small(moving, y)
    (grad,) = torch.autograd.grad(before.sum(), moving)
    assert small(moving - 0.1 * grad / grad.norm(), y) < before


# --- what is refused ---


def test_the_wrong_convention_is_refused_naming_the_right_one(small):
    x, y = images(1, 3, 40, 40)
    with pytest.raises(
        ValueError, match=r"x has values from -0\.\d+ to .* outside value_range=\(0, 1\); give"
    ):
        small(2 * x - 1, y)
    with pytest.raises(ValueError, match=r"y has values from .* outside value_range=\(0, 1\)"):
        small(x, 255 * y)
    spoilt = x.clone()
    spoilt[0, :2, 3, 3] = torch.nan
    with pytest.raises(ValueError, match=r"p1 has 2 NaN among its 4,800 values"):
        small.triplet(x, y, spoilt)
    with pytest.raises(ValueError, match=r"ref has values from .* outside value_range=\(-1, 1\)"):
        LPIPS(small.backbone, None, value_range=(-1, 1)).triplet(3 * x - 2, y, y)


def test_rounding_never_ends_a_run(small):
    x, y = images(1, 3, 40, 40)
    x[0, 0, 0, :3] = torch.tensor([1.0000001, 1.0099, -0.0099])
    small(x, y)
    x[0, 0, 0, 0] = 1.011
    with pytest.raises(ValueError, match=r"to 1\.011, outside"):
        small(x, y)
    symmetric = LPIPS(small.backbone, None, value_range=(-1, 1))
    symmetric(torch.full_like(x, -1.019), y)
    with pytest.raises(ValueError, match="outside"):
        symmetric(torch.full_like(x, -1.021), y)


def test_the_range_is_not_checked_in_training_nor_if_told_so(small):
    x, y = images(1, 3, 40, 40)
    small((3 * x).requires_grad_(), y)
    unchecked = LPIPS(small.backbone, None, check_range=False)
    assert unchecked(3 * x, y).isfinite().all()


@pytest.mark.parametrize("shape", [(3, 40, 40), (1, 2, 40, 40), (1, 4, 40, 40), (1, 40, 40, 3), (40, 40), ()])
def test_a_wrong_shape_is_refused(small, shape):
    with pytest.raises(ValueError, match=r"x must be images of shape \(N, 3, H, W\) or \(N, 1, H, W\), got"):
        small(torch.rand(shape), torch.rand(shape))


@pytest.mark.parametrize("other", [(2, 3, 40, 41), (3, 3, 40, 40), (2, 1, 40, 40)])
def test_different_sizes_are_refused(small, other):
    with pytest.raises(ValueError, match=r"x and y must have one shape .*, got \(2, 3, 40, 40\) and "):
        small(torch.rand(2, 3, 40, 40), torch.rand(other))
    with pytest.raises(ValueError, match="ref and p1 must have one shape"):
        small.triplet(torch.rand(2, 3, 40, 40), torch.rand(2, 3, 40, 40), torch.rand(other))


def test_one_image_is_compared_with_each_of_a_batch(small):
    (one,), many = images(1, 3, 40, 40, count=1), images(4, 3, 40, 40, count=1)[0]
    expected = small(one.expand(4, -1, -1, -1), many)
    calls = []
    handle = small.backbone.register_forward_hook(lambda module, args, _: calls.append(len(args[0])))
    torch.testing.assert_close(small(one, many), expected, atol=1e-6, rtol=1e-5)
    handle.remove()
    assert calls == [5]  # the one is not repeated before the network
    torch.testing.assert_close(small(many, one), expected, atol=1e-6, rtol=1e-5)
    d0, d1 = small.triplet(one, many, many.flip(0))
    torch.testing.assert_close(d0, expected, atol=1e-6, rtol=1e-5)
    torch.testing.assert_close(d1, expected.flip(0), atol=1e-6, rtol=1e-5)
    moving, still = (one.clone().requires_grad_() for _ in range(2))
    (alone,) = torch.autograd.grad(small(moving, many).sum(), moving)
    repeated = small(still.expand(4, -1, -1, -1), many)
    torch.testing.assert_close(alone, torch.autograd.grad(repeated.sum(), still)[0], atol=1e-6, rtol=1e-4)


@pytest.mark.parametrize("given", [np.zeros((1, 3, 40, 40), np.float32), None, [0.5]])
def test_what_is_no_tensor_is_refused(small, given):
    with pytest.raises(TypeError, match=f"y must be a torch.Tensor, got {type(given).__name__}"):
        small(torch.rand(1, 3, 40, 40), given)


@pytest.mark.parametrize("dtype", [torch.int64, torch.int32, torch.bool, torch.complex64])
def test_types_that_say_no_range_are_refused(small, dtype):
    with pytest.raises(ValueError, match=f"y must be float or uint8, got {dtype}"):
        small(torch.rand(1, 3, 40, 40), torch.ones(1, 3, 40, 40).to(dtype))


def test_an_image_too_small_is_refused():
    with pytest.raises(ValueError, match="1×1 pixels are too small for alexnet, which takes 31×31 or more"):
        LPIPS(Backbone("alexnet", None), None)(torch.rand(1, 3, 1, 1), torch.rand(1, 3, 1, 1))


@pytest.mark.parametrize("value_range", [(1, 0), (0, 0), (float("nan"), 1)])
def test_an_impossible_range_is_refused(value_range, small):
    with pytest.raises(ValueError, match="value_range must be"):
        LPIPS(small.backbone, None, value_range=value_range)


# --- calibrations ---


@pytest.mark.parametrize(
    ("name", "lin"),
    [
        ("resnet18", "v0.1"),
        ("alexnet", "v0.2"),
        ("vgg16_bn", "v0.1"),
    ],
)
def test_a_release_that_does_not_exist_names_those_that_do(name, lin):
    with pytest.raises(ValueError, match=f"no calibration '{lin}' was published for '{name}'") as raised:
        LPIPS(name, lin)
    for release in ("alexnet-v0.0", "alexnet-v0.1", "squeezenet1_1-v0.1", "vgg16-v0.1"):
        assert release in str(raised.value)


def test_torchvisions_tag_of_vgg_has_the_releases():
    assert calibrations.versions("vgg16.tv_in1k") == calibrations.versions("vgg16") == ["v0.0", "v0.1"]
    assert calibrations.load("vgg16.tv_in1k", "v0.1").lin[0].shape == (64,)


@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
def test_calibrations_are_read_from_files(tmp_path, suffix):
    backbone = Backbone("alexnet", None)
    vectors = [torch.rand(c) for c in backbone.channels]
    path = tmp_path / f"lin{suffix}"
    if suffix == ".pth":
        torch.save({f"lin{i}.model.1.weight": v.view(1, -1, 1, 1) for i, v in enumerate(vectors)}, path)
    else:
        save_file({f"lin.{i}": v for i, v in enumerate(vectors)}, path)
    for given in (path, str(path)):
        distance = LPIPS(backbone, given)
        assert all(torch.equal(a, b) for a, b in zip(distance.lin, vectors, strict=True))


def test_the_packages_own_file_is_its_release():
    backbone = Backbone("alexnet", None)
    theirs = f"{lpips.__path__[0]}/weights/v0.1/alex.pth"
    for ours, expected in zip(LPIPS(backbone, "v0.1").lin, LPIPS(backbone, theirs).lin, strict=True):
        assert torch.equal(ours, expected)


def test_levels_sort_as_numbers(tmp_path):
    backbone = Backbone("eva02_tiny_patch14_224", None, out_indices=range(12))
    vectors = {f"lin.{i}": torch.full((backbone.channels[i],), float(i)) for i in range(12)}
    save_file(vectors, tmp_path / "lin.safetensors")
    assert [v[0].item() for v in LPIPS(backbone, tmp_path / "lin.safetensors").lin] == list(range(12))
    with pytest.raises(ValueError, match="lin has levels of"):
        LPIPS(Backbone("test_vit", None, out_indices=range(6)), tmp_path / "lin.safetensors")


def test_a_calibration_of_other_channels_is_refused(tmp_path):
    backbone = Backbone("alexnet", None)
    for channels in ([64, 192, 384, 256], [64, 192, 384, 256, 255], [192, 64, 384, 256, 256]):
        save_file({f"lin.{i}": torch.ones(c) for i, c in enumerate(channels)}, tmp_path / "l.safetensors")
        with pytest.raises(
            ValueError, match=r"lin has levels of \[.*\] channels, but alexnet was tapped at .*64"
        ):
            LPIPS(backbone, tmp_path / "l.safetensors")
    with pytest.raises(ValueError, match="lin has levels of"):
        LPIPS(Backbone("alexnet", None, out_indices=[0, 1]), "v0.1")


@pytest.mark.parametrize(
    "state",
    [
        {"features.0.weight": torch.ones(64)},
        {"lin.0": torch.ones(64), "extra": torch.ones(1)},
        {"lin.0": torch.ones(64), "lin.2": torch.ones(64)},
        {"lin.1": torch.ones(64)},
    ],
)
def test_a_file_that_is_no_calibration_is_refused(tmp_path, state):
    save_file(state, tmp_path / "w.safetensors")
    with pytest.raises(ValueError, match=r"w\.safetensors' is no calibration"):
        LPIPS(Backbone("alexnet", None), tmp_path / "w.safetensors")


def test_a_calibration_that_is_not_there_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"absent\.safetensors"):
        LPIPS(Backbone("alexnet", None), tmp_path / "absent.safetensors")


def test_v00_is_refused_on_a_backbone_normalised_otherwise():
    with pytest.raises(ValueError, match=r"made with mean=\[0\.5, 0\.5, 0\.5\], but the backbone normalises"):
        LPIPS(Backbone("alexnet", None), "v0.0")
    LPIPS(Backbone("alexnet", None, mean=[0.5] * 3, std=[0.5] * 3), "v0.0")


@pytest.mark.parametrize("lin", ["v0.0", "v0.1"])
@pytest.mark.parametrize("name", NETS)
def test_releases_have_the_packages_numbers_none_of_them_negative(name, lin):
    path = f"{lpips.__path__[0]}/weights/{lin}/{NETS[name]}.pth"
    theirs = torch.load(path, "cpu", weights_only=True)
    ours = calibrations.load(name, lin).lin
    assert len(ours) == len(theirs)
    for i, vector in enumerate(ours):
        assert torch.equal(vector, theirs[f"lin{i}.model.1.weight"].flatten())
        assert vector.min() >= 0


def test_projection_keeps_what_is_positive():
    distance = LPIPS(Backbone("test_resnet", None), None)
    distance.lin[0].data[:3] = torch.tensor([-1.0, 0.0, 2.0])
    distance.project()
    assert distance.lin[0][:3].tolist() == [0, 0, 2]


# --- dropout ---


def test_dropout_acts_on_differences_in_training_only():
    torch.manual_seed(0)
    x, y = images(1, 3, 40, 40)
    distance = LPIPS(Backbone("test_resnet", None), None, dropout=0.5)
    whole = distance(x, y)
    assert torch.equal(whole, distance(x, y))
    distance.train()
    many = torch.stack([distance(x, y) for _ in range(200)])
    assert many.std() > 0
    torch.testing.assert_close(many.mean(), whole[0], rtol=0.02, atol=0)
    assert not distance.backbone.net.training


@pytest.mark.parametrize("form", ["per_position", "pooled"])
@torch.no_grad()
def test_features_in_bfloat16_are_compared_in_float32(form):
    distance = LPIPS(Backbone("test_resnet", None, precision="bf16-mixed"), None, form=form)
    x, y = images(2, 3, 40, 40)
    maps = distance.backbone(torch.cat([x, y]))
    assert maps[0].dtype == torch.bfloat16
    wide = [m.float().mean((2, 3), keepdim=True) if form == "pooled" else m.float() for m in maps]
    means = [(F.normalize(m[:2]) - F.normalize(m[2:])).square().mean((2, 3)) for m in wide]
    expected = torch.cat(means, 1).sum(1)
    torch.testing.assert_close(distance(x, y), expected, atol=1e-6, rtol=1e-4)


# --- mixed precision ---


@torch.no_grad()
def test_a_held_reference_is_at_zero_from_itself_in_every_precision(small):
    (y,) = images(2, 3, 40, 40, count=1)
    for enabled in (False, True):
        with torch.autocast("cpu", torch.bfloat16, enabled=enabled):
            assert (small.reference(y)(y) == 0).all()


def test_a_reference_made_in_inference_mode_takes_part_in_a_gradient(small):
    x, y = images(1, 3, 40, 40)
    with torch.inference_mode():
        held = small.reference(y + 0.0)
    moving, still = (x.clone().requires_grad_() for _ in range(2))
    (ours,) = torch.autograd.grad(held(moving).sum(), moving)
    torch.testing.assert_close(ours, torch.autograd.grad(small(still, y).sum(), still)[0])


# --- one rule for names ---


@pytest.mark.parametrize(
    ("given", "name", "calibration"),
    [
        (("alex",), "alexnet", "v0.1"),
        (("alexnet",), "alexnet", "v0.1"),
        (("squeeze",), "squeezenet1_1", "v0.1"),
        (("squeeze-v0.0",), "squeezenet1_1", "v0.0"),
        (("alexnet", None), "alexnet", None),
        (("alexnet-uncalibrated",), "alexnet", None),
        (("alex-random",), "alexnet", None),
        (("tf_efficientnet_lite0",), "tf_efficientnet_lite0", None),
        (("test_resnet-random",), "test_resnet", None),
    ],
)
def test_a_name_says_its_calibration(given, name, calibration, tmp_path, monkeypatch):
    for network in ("alexnet", "squeezenet1_1"):
        write_weights(tmp_path, network)
    monkeypatch.setenv("PERCEPTUAL_WEIGHTS", str(tmp_path))
    metric = LPIPS(*given)
    assert (metric.backbone.name, metric.calibration) == (name, calibration)
    assert all((vector == 1).all() for vector in metric.lin) == (calibration is None)
    assert f"{name}, weights {metric.backbone.source}, calibration {calibration or 'none'}" in repr(metric)


def test_the_default_of_a_built_backbone_is_published_for_its_levels_and_input(tmp_path, monkeypatch):
    monkeypatch.setenv("PERCEPTUAL_WEIGHTS", str(tmp_path))
    write_weights(tmp_path, "alexnet")
    assert LPIPS(Backbone("alexnet")).calibration == "v0.1"
    assert LPIPS(Backbone("alexnet", out_indices=[0, 1])).calibration is None
    assert LPIPS(Backbone("alexnet", weights=None)).calibration is None
    with pytest.raises(ValueError, match="says its calibration"):
        LPIPS("alexnet-v0.0", "v0.1")


OTHER_WEIGHTS = "not the weights that the published calibrations were made on"


@pytest.mark.parametrize("name", NETS)
def test_the_weights_of_the_published_calibrations_are_known(name, assets, monkeypatch, recwarn, tmp_path):
    source = assets / "weights"
    monkeypatch.setenv("PERCEPTUAL_WEIGHTS", str(source))
    assert OTHER_WEIGHTS not in repr(LPIPS(name))
    assert OTHER_WEIGHTS not in repr(LPIPS(Backbone(name).double()))
    # the same tensors in another format
    torch.save(load_file(source / f"{name}.safetensors"), tmp_path / "same.pth")
    assert OTHER_WEIGHTS not in repr(LPIPS(Backbone(name, str(tmp_path / "same.pth"))))
    assert not recwarn.list


@pytest.mark.parametrize("change", ["one layer", "one value"])
def test_a_published_calibration_on_other_weights_says_so(change, assets, monkeypatch, tmp_path):
    state = load_file(assets / "weights" / "alexnet.safetensors")
    key = next(key for key in sorted(state) if key.endswith("3.weight"))
    state[key] = state[key] * 1.3 if change == "one layer" else state[key].index_fill(0, torch.tensor(0), 0.1)
    file = write_weights(tmp_path, "alexnet", state)
    monkeypatch.setenv("PERCEPTUAL_WEIGHTS", str(tmp_path))
    message = rf"v0.1 was made on other weights of alexnet than those from file:{file}: .*lpips package"
    with pytest.warns(UserWarning, match=message):
        metric = LPIPS("alexnet")
    with pytest.warns(UserWarning, match=message):
        again = LPIPS(metric.backbone)
    for made in (metric, again):
        assert f"weights file:{file} ({OTHER_WEIGHTS}), calibration v0.1" in repr(made)
    assert OTHER_WEIGHTS in describe(metric)["weights"]  # of results
    metric.save_pretrained(tmp_path / "saved")
    assert OTHER_WEIGHTS in (tmp_path / "saved" / "README.md").read_text()
    with pytest.warns(UserWarning, match=r"v0.1 was made on other weights of alexnet"):
        assert OTHER_WEIGHTS in repr(LPIPS.from_pretrained(tmp_path / "saved"))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        uncalibrated = LPIPS("alexnet-uncalibrated")
        assert OTHER_WEIGHTS not in repr(uncalibrated)
        LPIPS("alexnet-random")


@pytest.mark.parametrize("name", ["alexnett", "vggg", "alexnet-v01", "alexnet-uncalibrate"])
def test_a_misspelt_name_is_refused_with_the_nearest_before_any_calibration(name):
    with pytest.raises(ValueError, match=f"unknown backbone '{name}'; did you mean .*(alex|vgg)"):
        LPIPS(name, "nowhere/lin.safetensors")


# --- the code itself ---


@torch.no_grad()
def test_few_functions_lie_between_a_call_and_the_formula(small):
    x, y = images(1, 3, 40, 40)
    called, root = [], str(Path(lpips_module.__file__).parents[1])

    def note(frame, event, _):
        code = frame.f_code
        if event == "call" and code.co_filename.startswith(root) and "<" not in code.co_name:
            called.append(code.co_qualname if hasattr(code, "co_qualname") else code.co_name)

    sys.setprofile(note)
    try:
        small(x, y)
    finally:
        sys.setprofile(None)
    path = called[: called.index(next(name for name in called if name.endswith("compare"))) + 1]
    assert len(set(path)) <= 8, path


@pytest.mark.parametrize("spatial", [False, True])
def test_the_formula_and_its_fast_form_agree(small, spatial):
    x, y = images(2, 3, 40, 40)
    x[0, :, :20] = 0  # some features vanish
    results = []
    for dropout in (0.0, 1e-12):  # dropout acts on whole differences, hence takes the formula
        metric = LPIPS(small.backbone, None, dropout=dropout, spatial=spatial)
        metric.training = True
        moving = x.clone().requires_grad_()
        d = metric(moving, y)
        (grad,) = torch.autograd.grad((d * torch.linspace(1, 2, d.numel()).view_as(d)).sum(), moving)
        results.append((d, grad))
    for fast, formula in zip(*results, strict=True):
        torch.testing.assert_close(fast, formula, atol=2e-5, rtol=1e-4)


# --- compile and export ---


@torch.no_grad()
def test_where_compilation_gives_up_the_numbers_stay(monkeypatch):
    torch._dynamo.reset()
    monkeypatch.setattr(compiled, "_compiled", lambda method: torch.compile(method, backend="eager"))
    backbone = Backbone("test_resnet", None)
    fast, plain = LPIPS(backbone, None, compile=True), LPIPS(backbone, None)
    with torch._dynamo.config.patch(recompile_limit=1):
        for size in (32, 40, 48):
            x, y = images(2, 3, size, size)
            torch.testing.assert_close(fast(x, y), plain(x, y))
            torch.testing.assert_close(fast.triplet(x, y, y), plain.triplet(x, y, y))
    torch._dynamo.reset()


@pytest.mark.parametrize("name", ["alexnet", "test_vit"])
@torch.no_grad()
def test_compile_runs_without_the_check_and_without_a_graph_break(name):
    distance = LPIPS(Backbone(name, None), None)
    x, y = images(1, 3, 64, 64)
    compiled = torch.compile(distance, backend="eager", fullgraph=True)
    torch.testing.assert_close(compiled(x, y), distance(x, y))
    unchecked = LPIPS(distance.backbone, None, check_range=False)
    torch.testing.assert_close(compiled(3 * x, y), unchecked(3 * x, y))


@pytest.mark.parametrize("name", ["alexnet", "test_vit"])
@torch.no_grad()
def test_export_runs_without_the_check(name):
    distance = LPIPS(Backbone(name, None), None)
    x, y = images(2, 3, 64, 64)
    exported = torch.export.export(distance, (x, y)).module()
    torch.testing.assert_close(exported(x, y), distance(x, y), atol=1e-6, rtol=1e-5)
    unchecked = LPIPS(distance.backbone, None, check_range=False)
    torch.testing.assert_close(exported(3 * x, y), unchecked(3 * x, y), atol=1e-6, rtol=1e-5)


@torch.no_grad()
def test_a_compiled_comparison_gives_the_same_numbers_and_can_be_copied():
    backbone = Backbone("test_resnet", None)
    x, y, z = images(2, 3, 40, 40, count=3)
    for arguments in ({}, {"spatial": True}):
        eager = LPIPS(backbone, None, **arguments)
        compiled = pickle.loads(pickle.dumps(deepcopy(LPIPS(backbone, None, compile=True, **arguments))))
        torch.testing.assert_close(compiled(x, y), eager(x, y))
        torch.testing.assert_close(compiled.triplet(x, y, z), eager.triplet(x, y, z))
        assert (compiled(x, x) == 0).all()


def test_to_compile_without_a_compiler_is_refused(monkeypatch):
    monkeypatch.setenv("CXX", "no-such-compiler")
    with pytest.raises(ValueError, match="needs a C\\+\\+ compiler, and there is no 'no-such-compiler'"):
        LPIPS(Backbone("test_resnet", None), None, compile=True)


def test_a_compiler_that_fails_is_named_in_one_line(monkeypatch, tmp_path):
    broken = tmp_path / "c++"
    broken.write_text(
        '#!/bin/sh\n[ "$1" = --version ] && echo "c++ (GCC) 12" || { echo disk full >&2; exit 1; }\n'
    )
    broken.chmod(0o755)
    monkeypatch.setenv("CXX", str(broken))
    monkeypatch.setattr("torch._inductor.config.cpp.cxx", (None, str(broken)))  # CXX as it was at import
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path / "cache"))
    torch.compiler.reset()
    distance = LPIPS(Backbone("test_resnet", None), None, compile=True)
    with pytest.raises(ValueError, match=r"compile=True failed: .*/c\+\+' cannot compile") as refused:
        distance(*images(1, 3, 37, 41))
    torch.compiler.reset()
    assert "\n" not in str(refused.value)


def test_state_dict_comes_back():
    torch.manual_seed(0)
    one, other = (LPIPS(Backbone("test_resnet", None), None) for _ in range(2))
    x, y = images(1, 3, 40, 40)
    assert not torch.equal(one(x, y), other(x, y))
    other.load_state_dict(one.state_dict())
    assert torch.equal(one(x, y), other(x, y))


# --- transforms of functions ---

Y = images(2, 3, 32, 32, seed=1, count=1)[0]
DIRECTION = images(3, 2, 3, 32, 32, seed=2, count=1)[0] - 0.5


def of_theirs(name, monkeypatch):
    """The `lpips` package's distance, (N,), of images in [0, 1]."""
    theirs = reference_lpips(name, monkeypatch)
    return lambda x, y: theirs(x, y, normalize=True).flatten()


def shifted(distance):
    """Distances as a function of three numbers, which are added to the channels."""
    return lambda shift: distance(0.9 * Y + shift.view(1, 3, 1, 1), Y)


def batched_gradients(distance):
    x = DIRECTION[0].abs().requires_grad_()
    return torch.autograd.grad(distance(x, Y), x, torch.eye(2), is_grads_batched=True)[0]


def by_dual_numbers(distance):
    with forward_ad.dual_level():
        return forward_ad.unpack_dual(distance(forward_ad.make_dual(Y / 2, DIRECTION[0]), Y)).tangent


def traced(distance):
    module = nn.Module()
    module.forward = distance
    module = distance if isinstance(distance, nn.Module) else module
    file = io.BytesIO()
    torch.jit.save(torch.jit.trace(module, (Y / 2, Y), check_trace=False), file)
    file.seek(0)
    return torch.jit.load(file)(DIRECTION[1].abs(), Y)


quiet = pytest.mark.filterwarnings("ignore:`torch.jit.*deprecated:FutureWarning")
SHIFT = torch.full((3,), 0.02)
TRANSFORMS = {
    "vmap": lambda d: func.vmap(d)(DIRECTION.abs(), DIRECTION.abs().flip(0)),
    "vmap(one)": lambda d: func.vmap(d, (0, None))(DIRECTION.abs(), Y[:1]),
    "grad": lambda d: func.grad(lambda x: d(x, Y).sum())(Y / 2),
    "vmap(grad)": lambda d: func.vmap(func.grad(lambda x: d(x, Y).sum()))(DIRECTION.abs()),
    "jvp": lambda d: torch.stack(func.jvp(lambda x: d(x, Y), (Y / 2,), (DIRECTION[0],))),
    "jacfwd": lambda d: func.jacfwd(shifted(d))(SHIFT),
    "jacrev": lambda d: func.jacrev(shifted(d))(SHIFT),
    "jacobian": lambda d: torch.autograd.functional.jacobian(shifted(d), SHIFT, vectorize=True),
    "is_grads_batched": batched_gradients,
    "jvp(grad)": lambda d: torch.stack(
        func.jvp(func.grad(lambda x: d(x, Y).sum()), (Y / 2,), (DIRECTION[0],))
    ),
    "hessian": lambda d: func.hessian(lambda shift: shifted(d)(shift).sum())(SHIFT),
    "dual numbers": by_dual_numbers,
    "trace": traced,
}


@quiet  # PyTorch uses it for jvp itself
@pytest.mark.filterwarnings("ignore::torch.jit.TracerWarning")
@pytest.mark.parametrize("transform", TRANSFORMS)
def test_transforms_of_functions_give_what_they_give_of_the_lpips_package(transform, weights, monkeypatch):
    apply = TRANSFORMS[transform]
    ours = LPIPS(weights("alexnet"))
    found = apply(ours)
    if transform == "trace":
        expected = of_theirs("alexnet", monkeypatch)(DIRECTION[1].abs(), Y)
    else:
        expected = apply(of_theirs("alexnet", monkeypatch))
    scale = expected.abs().max()
    torch.testing.assert_close(found / scale, expected / scale, atol=2e-5, rtol=1e-4)


@quiet
@pytest.mark.parametrize(
    "way", ["per_level", "spatial", "pooled", "compile", "reference", "triplet", "embed", "among"]
)
def test_every_way_to_a_distance_can_be_mapped_and_pushed_forward(way):
    torch.manual_seed(0)
    metric = LPIPS(Backbone("test_resnet", None), None)
    how = {"spatial": {"spatial": True}, "pooled": {"form": "pooled"}, "compile": {"compile": True}}
    other = LPIPS(metric.backbone, None, **how.get(way, {}))
    call = {
        "reference": lambda x: metric.reference(Y)(x),
        "per_level": lambda x: metric.per_level(x, Y),
        "triplet": lambda x: torch.stack(metric.triplet(Y, x, x.flip(0))),
        "embed": metric.embed,
        "among": lambda x: metric.among(x, torch.tensor([0]), torch.tensor([1])),
    }.get(way, lambda x: other(x, Y))
    x = DIRECTION.abs()
    mapped = func.vmap(call)(x)
    _, tangent = func.jvp(call, (x[0],), (DIRECTION[1],))
    other.accelerate(compile=False)  # no transform may call compiled code, and it would take seconds
    torch.testing.assert_close(mapped, torch.stack([call(one) for one in x]), atol=1e-6, rtol=1e-5)
    moving = x[0].clone().requires_grad_()
    (grad,) = torch.autograd.grad(call(moving).sum(), moving)
    torch.testing.assert_close(tangent.sum(), (grad * DIRECTION[1]).sum(), atol=1e-4, rtol=1e-3)


@quiet
@pytest.mark.parametrize("transform", sorted(TRANSFORMS.keys() - {"trace"}))
def test_transforms_are_finite_where_features_vanish(transform):
    metric = LPIPS(Backbone("alexnet", None), None)
    for parameter in metric.backbone.parameters():
        if parameter.ndim == 1:
            nn.init.zeros_(parameter)
    black = metric.backbone.mean  # as the network sees it
    assert TRANSFORMS[transform](lambda x, y: metric(0 * x + black, y)).isfinite().all()


@pytest.mark.parametrize("name", ["l2", "psnr", "ssim"])
def test_classic_distances_can_be_mapped(name):
    x = DIRECTION.abs()
    ours = func.vmap(lambda one: create_metric(name).distance(one, Y))(x)
    torch.testing.assert_close(ours, torch.stack([create_metric(name).distance(one, Y) for one in x]))
