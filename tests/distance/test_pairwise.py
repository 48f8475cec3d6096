import os
import tempfile

import pytest
import torch

from perceptual.distance import pairwise
from perceptual.distance.lpips import LPIPS
from perceptual.features.backbone import Backbone


def images(count, seed=0, size=(40, 24), channels=3):
    return torch.rand(count, channels, *size, generator=torch.Generator().manual_seed(seed))


@pytest.fixture(scope="module", params=["alexnet", "test_vit"])
def lpips(request):
    torch.manual_seed(0)
    distance = LPIPS(Backbone(request.param, None), None)
    for vector in distance.lin:
        vector.data.uniform_()
        vector.data[:3] = 0  # as many of the released weights
    return distance


@pytest.fixture
def files(monkeypatch):
    """The temporary files that were made."""
    made, make = [], tempfile.TemporaryFile

    def count():
        made.append(make())
        return made[-1]

    monkeypatch.setattr(tempfile, "TemporaryFile", count)
    return made


@torch.no_grad()
def loop(lpips, x, y):
    return torch.stack([torch.cat([lpips(a[None], b[None]) for b in y]) for a in x])


# --- all pairs ---


def test_pairs_are_what_the_distance_says_of_each(lpips):
    x, y = images(5, size=(48, 40)), images(3, seed=1, size=(48, 40))
    torch.testing.assert_close(lpips.pairwise(x), loop(lpips, x, x), atol=1e-6, rtol=1e-4)
    torch.testing.assert_close(lpips.pairwise(x, y), loop(lpips, x, y), atol=1e-6, rtol=1e-4)
    torch.testing.assert_close(lpips.pairwise(y, x), lpips.pairwise(x, y).T, atol=1e-6, rtol=1e-4)


def test_all_pairs_are_symmetric_with_nothing_on_the_diagonal(lpips):
    d = lpips.pairwise(images(7, size=(48, 40)), memory=1 << 20)
    assert torch.equal(d, d.T)
    assert (d.diagonal() == 0).all()
    assert (d[~torch.eye(7, dtype=torch.bool)] > 0).all()


@pytest.mark.parametrize("memory", [1, 50_000, 1 << 24])
def test_a_small_budget_gives_the_same_numbers(lpips, memory, files):
    x, y = images(9, size=(48, 40)), images(4, seed=1, size=(48, 40))
    x[5], y[2] = x[1], x[3] + 1e-3 * (images(1, seed=2, size=(48, 40))[0] - x[3])
    expected, across = lpips.pairwise(x), lpips.pairwise(x, y)
    assert not files
    torch.testing.assert_close(lpips.pairwise(x, memory=memory), expected, atol=1e-6, rtol=1e-4)
    torch.testing.assert_close(lpips.pairwise(x, y, memory=memory), across, atol=1e-6, rtol=1e-4)
    assert bool(files) == (memory < 1 << 24)


def test_the_temporary_file_leaves_nothing_behind(lpips, tmp_path, monkeypatch, files):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    lpips.pairwise(images(3, size=(48, 40)), memory=1)
    assert len(files) == 1
    assert not os.listdir(tmp_path)


def test_equal_images_are_at_distance_zero(lpips):
    x = images(3, size=(48, 40)).repeat(2, 1, 1, 1)
    d = lpips.pairwise(x)
    assert (d >= 0).all()
    assert (
        d.diagonal(3).max() < 1e-11
    )  # the rest is rounding in the backbone, from one place in the batch to another


def test_near_duplicates_keep_three_digits(lpips):
    x = images(1, size=(48, 40))
    noise = images(6, seed=1, size=(48, 40)) - x
    near = torch.cat([x, *(x + 4.0**-k * n for k, n in enumerate(noise, 1))])
    d = lpips.pairwise(near)
    exact = LPIPS(Backbone(lpips.backbone.name, None), None).double()
    exact.load_state_dict(lpips.state_dict())
    truth = loop(exact, near.double(), near.double()).float()
    assert truth[truth > 0].min() < 1e-3 * truth.max()
    torch.testing.assert_close(d, truth.fill_diagonal_(0), rtol=1e-3, atol=0)


@pytest.mark.parametrize("dimensions", [3, 40_000])
def test_vectors_near_and_far_keep_their_digits(dimensions):
    generator = torch.Generator().manual_seed(0)
    base = torch.rand(1, dimensions, generator=generator)
    steps = torch.logspace(-5, 1, 30)[:, None] * torch.randn(30, dimensions, generator=generator)
    a = torch.cat([base, base + steps])
    truth = torch.cdist(a.double(), a.double(), compute_mode="donot_use_mm_for_euclid_dist").square().float()
    for memory in (1, 100_000, 1 << 28):
        d = pairwise.squared_distances(a, a, memory, a.device)
        torch.testing.assert_close(d, truth, rtol=5e-4, atol=0)
        d = pairwise.squared_distances(a, a.clone(), memory, a.device)
        torch.testing.assert_close(d, truth, rtol=5e-4, atol=0)


def test_a_lower_precision_of_products_changes_nothing():
    a = torch.rand(20, 500, generator=torch.Generator().manual_seed(0))
    expected = pairwise.squared_distances(a, a, 1 << 20, a.device)
    torch.set_float32_matmul_precision("medium")
    try:
        with torch.autocast("cpu", torch.bfloat16):
            assert torch.equal(pairwise.squared_distances(a, a, 1 << 20, a.device), expected)
        assert torch.get_float32_matmul_precision() == "medium"
    finally:
        torch.set_float32_matmul_precision("highest")


@pytest.mark.parametrize("dimensions", [1, 100, 31_872])
@pytest.mark.parametrize("memory", [10_000, 1 << 20, 1 << 30])
def test_blocks_fit_the_budget(dimensions, memory):
    rows = pairwise._block_rows(dimensions, 4, memory)
    assert rows == 1 or 4 * 4 * rows * (dimensions + rows) <= memory
    assert 4 * 4 * (4 * rows) * (dimensions + 4 * rows) > memory  # and are not much smaller


def test_each_image_goes_through_the_backbone_once(lpips):
    calls = []
    handle = lpips.backbone.register_forward_hook(lambda module, args, _: calls.append(len(args[0])))
    lpips.pairwise(images(70, size=(32, 32)), images(2, size=(32, 32)))
    handle.remove()
    assert sorted(calls) == [0, 0, 1, 1, 2, 6, 64]  # one blank image for each set says how long vectors are


@pytest.mark.parametrize("memory", [1, 1 << 30])
def test_one_image_and_none(lpips, memory):
    x, none = images(1, size=(48, 40)), images(0, size=(48, 40))
    assert lpips.pairwise(x, memory=memory).tolist() == [[0]]
    assert lpips.pairwise(none, memory=memory).shape == (0, 0)
    assert lpips.pairwise(none, x, memory=memory).shape == (0, 1)
    assert lpips.pairwise(x, none, memory=memory).shape == (1, 0)


def test_uint8_and_grey_images(lpips):
    x = (images(3, size=(48, 40), channels=1) * 255).to(torch.uint8)
    expected = lpips.pairwise(x.repeat(1, 3, 1, 1) / 255)
    torch.testing.assert_close(lpips.pairwise(x), expected, atol=1e-6, rtol=1e-4)
    torch.testing.assert_close(lpips.pairwise(x, x.float() / 255), expected, atol=1e-6, rtol=1e-4)


def test_what_pairwise_refuses(lpips):
    x = images(2, size=(48, 40))
    with pytest.raises(ValueError, match="images and other must have one size, got 48×40 and 40×48"):
        lpips.pairwise(x, images(2, size=(40, 48)))
    with pytest.raises(ValueError, match=r"other has values from .* outside value_range"):
        lpips.pairwise(x, 255 * x)
    with pytest.raises(ValueError, match="images must be images of shape"):
        lpips.pairwise(x[0])
    with pytest.raises(ValueError, match="memory must be a positive number of bytes, got 0"):
        lpips.pairwise(x, memory=0)


# --- vectors ---


def test_vectors_pass_gradients_to_images(lpips):
    x, y = images(1, size=(48, 40)).requires_grad_(), images(1, seed=1, size=(48, 40))
    (expected,) = torch.autograd.grad(lpips(x, y).sum(), x)
    (grad,) = torch.autograd.grad((lpips.embed(x) - lpips.embed(y)).square().sum(), x)
    torch.testing.assert_close(grad, expected, atol=1e-7, rtol=1e-3)


def test_negative_weights_have_no_vectors():
    distance = LPIPS(Backbone("test_vit", None), None)
    distance.lin[1].data[0] = -1
    for call in (distance.embed, distance.pairwise):
        with pytest.raises(ValueError, match="lin has negative weights"):
            call(images(2))
    distance.project()
    assert distance.embed(images(2)).isfinite().all()


# --- one reference ---


@pytest.mark.parametrize("spatial", [False, True])
@torch.no_grad()
def test_a_reference_gives_the_distance(lpips, spatial):
    distance = LPIPS(lpips.backbone, None, spatial=spatial)
    x, y = images(3, size=(48, 40)), images(3, seed=1, size=(48, 40))
    torch.testing.assert_close(distance.reference(y)(x), distance(x, y), atol=1e-6, rtol=1e-5)
    one = distance.reference(y[:1])
    torch.testing.assert_close(one(x), distance(x, y[:1].expand_as(x)), atol=1e-6, rtol=1e-5)
    assert torch.equal(one(y[:1]), torch.zeros_like(one(y[:1])))
    assert len(one(x[:0])) == 0
    bytes_ = (255 * x).to(torch.uint8)
    torch.testing.assert_close(one(bytes_), one(bytes_ / 255))


def test_a_reference_gives_the_gradient_to_x_only(lpips):
    x, y = images(2, size=(48, 40)).requires_grad_(), images(1, seed=1, size=(48, 40)).requires_grad_()
    (expected,) = torch.autograd.grad(lpips(x, y.detach().expand_as(x)).sum(), x)
    lpips.reference(y)(x).sum().backward()
    torch.testing.assert_close(x.grad, expected, atol=1e-7, rtol=1e-4)
    assert y.grad is None


def test_what_a_reference_refuses(lpips):
    y = images(2, size=(48, 40))
    with pytest.raises(ValueError, match="y has values from"):
        lpips.reference(2 * y - 1)
    for x in (images(3, size=(48, 40)), images(2, size=(40, 48))):
        with pytest.raises(
            ValueError, match=r"x must have the shape of the reference, \(2, 3, 48, 40\), got "
        ):
            lpips.reference(y)(x)
    with pytest.raises(
        ValueError, match=r"\(1, 3, 48, 40\), with any number of images, got \(2, 3, 40, 48\)"
    ):
        lpips.reference(y[:1])(images(2, size=(40, 48)))
