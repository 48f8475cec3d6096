import json
import sys
from copy import deepcopy
from pathlib import Path

import lpips
import numpy as np
import pytest
import torch
import torch.nn.functional as F
from networks import NETS, reference_lpips, write_weights
from PIL import Image
from torch import nn

from perceptual.distance import lpips as lpips_module
from perceptual.distance.baselines import BASELINES
from perceptual.distance.level import unit_normalize
from perceptual.distance.lpips import LPIPS
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


def test_the_pooled_form_does_not_see_where_things_are():
    torch.manual_seed(0)
    backbone = Backbone("alexnet", None, out_indices=[0])
    black = torch.zeros(1, 3, 67, 67)
    a, b = black.clone(), black.clone()
    a[..., 16:24, 16:24], b[..., 40:48, 40:48] = 1, 1  # strides of 4: the maps are shifted whole
    assert LPIPS(backbone, lin=None)(a, b) > 0.01
    assert LPIPS(backbone, lin=None, form="pooled")(a, b) < 1e-6


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
    for size in [(48, 32), (65, 40)]:
        x, y = images(1 if name == "vgg16" else 2, 3, *size)
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
    torch.testing.assert_close(small((x / 255).half(), (y / 255).half()), expected, atol=1e-2, rtol=1e-2)
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


@pytest.mark.parametrize(("name", "count"), [("test_resnet", 0), ("test_vit", 1), ("mixer_s32_224", 0)])
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


IMAGES = r"{} must be images of shape \(N, 3, H, W\) or \(N, 1, H, W\), got"
ONE_SHAPE = r"{} must have one shape \(or one of them a single image"


SHAPES = [(3, 9, 9), (1, 2, 9, 9), (1, 4, 9, 9), (1, 9, 9, 3), (9, 9), ()]
OTHER_SHAPES = [(2, 3, 40, 41), (3, 3, 40, 40), (2, 1, 40, 40)]
DTYPES = (torch.int64, torch.int32, torch.bool, torch.complex64)
NO_TENSORS = (np.ones((1, 3, 40, 40), np.float32), None, [0.5])


@pytest.mark.parametrize(
    ("given", "error", "message"),
    [
        *((torch.rand(shape), ValueError, IMAGES) for shape in SHAPES),
        *((torch.rand(shape), ValueError, ONE_SHAPE) for shape in OTHER_SHAPES),
        *(
            (torch.ones(2, 3, 40, 40).to(d), ValueError, f"{{}} must be float or uint8, got {d}")
            for d in DTYPES
        ),
        *((g, TypeError, f"{{}} must be a torch.Tensor, got {type(g).__name__}") for g in NO_TENSORS),
    ],
)
def test_what_is_no_batch_of_images_as_the_other_is_refused(small, given, error, message):
    x = torch.rand(2, 3, 40, 40)
    with pytest.raises(error, match=message.format("x and y" if message is ONE_SHAPE else "y")):
        small(x, given)
    with pytest.raises(error, match=message.format("ref and p1" if message is ONE_SHAPE else "p1")):
        small.triplet(x, x, given)


@pytest.mark.parametrize("counts", [(1, 2, 3), (2, 1, 3), (1, 0, 2)])
def test_numbers_of_images_that_do_not_fit_are_refused(small, counts):
    with pytest.raises(ValueError, match=ONE_SHAPE.format("(ref|p0) and p1")):
        small.triplet(*(torch.rand(count, 3, 40, 40) for count in counts))


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


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        *(({"value_range": v}, "value_range must be") for v in [(1, 0), (0, 0), (float("nan"), 1)]),
        ({"form": "mean"}, "form must be one of per_position, pooled, concatenated, got 'mean'"),
        ({"form": "pooled", "spatial": True}, "spatial must be False"),
    ],
)
def test_arguments_out_of_range_are_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        LPIPS("alexnet", **arguments)


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


def test_state_dict_comes_back():
    torch.manual_seed(0)
    one, other = (LPIPS(Backbone("test_resnet", None), None) for _ in range(2))
    x, y = images(1, 3, 40, 40)
    assert not torch.equal(one(x, y), other(x, y))
    other.load_state_dict(one.state_dict())
    assert torch.equal(one(x, y), other(x, y))
