"""The comparison in Triton, run by its interpreter, beside that by operations of PyTorch."""

import itertools
import sys

import numpy as np
import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from perceptual import LPIPS, Backbone
from perceptual.distance import level
from perceptual.distance.differences import mean_differences
from perceptual.distance.level import compare

pytest.importorskip("triton")
pytestmark = [
    pytest.mark.skipif(torch.cuda.is_available(), reason="tests/test_gpu.py runs the kernels on a GPU"),
    pytest.mark.filterwarnings("ignore:(divide by zero|invalid value) encountered:RuntimeWarning"),
]


def maps(count, shape=(2, 37, 5, 7), dtype=torch.float32, seed=0):
    drawn = torch.randn(count, *shape, generator=torch.Generator().manual_seed(seed)).relu().to(dtype)
    drawn[:, 0, :, 0, 0] = 0  # a position without a direction
    return list(drawn)


def results(kernel, lin, of, mean):
    lin, of = lin.clone().requires_grad_(), [m.clone().requires_grad_() for m in of]
    out = compare(lin, *of, mean=mean, kernel=kernel)
    weight = torch.randn(out.shape, generator=torch.Generator().manual_seed(1))
    return [out.detach(), *torch.autograd.grad(out, [lin, *of], weight)]


@pytest.mark.parametrize("mean", [False, True])
@pytest.mark.parametrize("others", [1, 2])
@pytest.mark.parametrize("order", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize("shape", [(2, 37, 5, 7), (1, 3, 1, 1), (1, 130, 9, 9)])
def test_distances_and_gradients_are_those_of_pytorch(shape, order, others, mean):
    lin = torch.rand(shape[1], generator=torch.Generator().manual_seed(2)) - 0.2  # as in training, some < 0
    of = [m.contiguous(memory_format=order) for m in maps(others + 1, shape)]
    for found, expected in zip(
        results("triton", lin, of, mean), results("torch", lin, of, mean), strict=True
    ):
        torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(("dtype", "digits"), [(torch.float16, 2e-3), (torch.bfloat16, 2e-2)])
def test_maps_of_half_precision_are_compared_in_float32(dtype, digits):
    lin, of = torch.rand(37), maps(3, dtype=dtype)
    found, expected = results("triton", lin, of, True), results("torch", lin, of, True)
    torch.testing.assert_close(found[:2], expected[:2], rtol=1e-5, atol=1e-6)
    for there, here in zip(found[2:], expected[2:], strict=True):
        assert there.dtype == dtype
        assert (there - here).abs().max() <= digits * here.abs().max()


def test_equal_maps_are_at_distance_0_and_infinite_ones_at_none():
    (x,) = maps(1)
    assert (compare(torch.rand(37), x, x.clone(), kernel="triton") == 0).all()
    x[1, 0, 2, 2] = torch.inf
    found = [compare(torch.rand(37), x, x.roll(1, 0), kernel=kernel) for kernel in ("triton", "torch")]
    assert torch.equal(found[0].isfinite(), found[1].isfinite())
    assert not found[0].isfinite().all()


@pytest.mark.parametrize("order", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize("shape", [(5, 37, 5, 7), (2, 3, 1, 1), (3, 130, 9, 9)])
def test_means_per_channel_are_those_of_pytorch(shape, order):
    (f,) = maps(1, shape)
    f = f.contiguous(memory_format=order)
    first, second = torch.tensor([[0, 1, shape[0] - 1, 1], [1, 0, 0, 1]])
    found = level.mean_squares(f, first, second, "triton")
    expected = np.stack(
        [((f[i] - f[j]).numpy() ** 2).mean((1, 2)) for i, j in zip(first, second, strict=True)]
    )
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-7)
    assert (found[3] == 0).all()
    assert level.mean_squares(f, first[:0], second[:0], "triton").shape == (0, shape[1])


def test_the_cache_is_made_by_one_launch_a_level():
    distance, images = metric("triton"), torch.rand(3, 3, 32, 32)
    pairs = [torch.tensor([[0, 1], [2, 1]])]
    with Launches() as seen:
        (found,) = mean_differences(distance, pairs, lambda rows: images[rows])
    assert seen.names.count("perceptual.mean_squares.default") == len(distance.lin)
    (expected,) = mean_differences(metric("torch"), pairs, lambda rows: images[rows])
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-8)


def metric(kernel, **options):
    torch.manual_seed(0)
    return LPIPS(Backbone("test_resnet", None), None, kernel=kernel, **options)


@pytest.mark.filterwarnings("ignore:`torch.jit.*deprecated:FutureWarning")  # PyTorch uses it for jvp itself
def test_a_distance_has_its_numbers_and_first_and_second_gradients():
    x, y = torch.rand(2, 2, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    found = []
    for kernel in ("triton", "torch"):
        distance, moving = metric(kernel), x.clone().requires_grad_()
        value = distance(moving, y)
        (first,) = torch.autograd.grad(value.sum(), moving, create_graph=True)
        (second,) = torch.autograd.grad(first.square().sum(), moving)
        forward = torch.func.jvp(lambda one, d=distance: d(one, y), (x,), (y,))[1]
        spatial = metric(kernel, spatial=True)(x, y)
        found.append([value, first, second, forward, *distance.triplet(x, y, y.flip(0)), spatial])
    for here, there in zip(*found, strict=True):
        torch.testing.assert_close(here, there, rtol=1e-4, atol=1e-6)


class Launches(TorchDispatchMode):
    """Counts what is started, by name."""

    def __init__(self):
        super().__init__()
        self.names = []

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        if not function.is_view:
            self.names.append(str(function))
        return function(*args, **(kwargs or {}))


def test_each_level_is_one_launch_forward_and_one_backward():
    x, y = torch.rand(2, 1, 3, 32, 32)
    distance, x = metric("triton"), x.requires_grad_()
    with Launches() as seen:
        torch.autograd.grad(distance(x, y).sum(), x)
    assert seen.names.count("perceptual.compare.default") == len(distance.lin)
    assert seen.names.count("perceptual.compare_backward.default") == len(distance.lin)
    with Launches() as seen:
        torch.autograd.grad(metric("torch")(x, y).sum(), x)
    assert not any(name.startswith("perceptual") for name in seen.names)


def test_others_at_equal_steps_are_not_copied():
    from perceptual.distance import kernels

    (whole,) = maps(1, (6, 4, 3, 3))
    parts = whole.flatten(2).split(2)
    assert kernels.stacked(parts).data_ptr() == whole.data_ptr()
    for of in itertools.permutations(parts):
        assert torch.equal(kernels.stacked(of), torch.stack(of))
    assert torch.equal(kernels.stacked([whole.flatten(2), whole.flatten(2) + 1])[1], whole.flatten(2) + 1)


def test_where_triton_cannot_be_used(monkeypatch):
    with pytest.raises(ValueError, match="kernel must be one of auto, torch, triton, got 'cuda'"):
        metric("cuda")
    x, y = torch.rand(2, 1, 3, 32, 32)
    expected = metric("torch")(x, y)
    level.takes_triton.cache_clear()
    with monkeypatch.context() as patch:
        patch.delenv("TRITON_INTERPRET")
        assert torch.equal(metric("auto")(x, y), expected)
        with pytest.raises(ValueError, match="kernel='triton' cannot be used: the device is cpu"):
            metric("triton")(x, y)
        patch.setenv("TRITON_INTERPRET", "1")
        patch.setitem(sys.modules, "perceptual.distance.kernels", None)
        patch.delattr("perceptual.distance.kernels", raising=False)
        level.takes_triton.cache_clear()
        with pytest.raises(ValueError, match=r"kernel='triton' cannot be used: .*kernels"):
            metric("triton")(x, y)
    level.takes_triton.cache_clear()
