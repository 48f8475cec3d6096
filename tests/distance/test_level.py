import pytest
import torch

from perceptual.distance import level
from perceptual.distance.level import compare


def formula(lin, x, *others):
    """Equation 1 of Zhang et al. 2018 at each position, in PyTorch's own operations."""
    norms = [m.norm(dim=1, keepdim=True) for m in (x, *others)]
    x, *others = (
        torch.where(norm > 0, m / torch.where(norm > 0, norm, 1), 0)
        for m, norm in zip((x, *others), norms, strict=True)
    )
    return torch.stack([torch.einsum("c,nchw->nhw", lin, (x - y) ** 2) for y in others])


def maps(*shape, count=3, seed=0, channels_last=True, zeros=True, dtype=torch.float32):
    """Feature maps after a ReLU, with a position where all of them vanish and one where the first does."""
    generator = torch.Generator().manual_seed(seed)
    made = [torch.randn(*shape, generator=generator, dtype=torch.double).relu() for _ in range(count)]
    if zeros:
        made[0][0, :, 0, 0] = 0
        for m in made:
            m[-1, :, -1, -1] = 0
    layout = torch.channels_last if channels_last else torch.contiguous_format
    return [m.to(dtype).contiguous(memory_format=layout) for m in made]


@pytest.fixture(params=[1, 50, 200, 10**9], ids="piece={}".format)
def piece(request, monkeypatch):
    """Pieces of one row, of some rows, of an image, of all images."""
    monkeypatch.setitem(level.PIECE, "cpu", request.param)


@pytest.mark.usefixtures("piece")
@pytest.mark.parametrize("channels_last", [True, False])
@pytest.mark.parametrize("count", [2, 3])
def test_pieces_give_the_formula_and_its_gradient(count, channels_last):
    features = maps(3, 5, 7, 4, count=count, channels_last=channels_last, dtype=torch.double)
    lin = torch.rand(5, dtype=torch.double) - 0.2  # some are negative before the first projection
    inputs = [t.requires_grad_() for t in (lin, *features)]
    ours, whole = compare(*inputs), formula(*inputs)
    assert ours.shape == (count - 1, 3, 7, 4)
    torch.testing.assert_close(ours, whole)
    weight = torch.rand_like(ours)
    expected = torch.autograd.grad(whole, inputs, weight)
    for ours_, theirs in zip(torch.autograd.grad(ours, inputs, weight), expected, strict=True):
        torch.testing.assert_close(ours_, theirs)


@pytest.mark.usefixtures("piece")
def test_only_what_asks_for_a_gradient_gets_one():
    lin, (x, y, z) = torch.rand(5), maps(3, 5, 7, 4)
    (alone,) = torch.autograd.grad(compare(lin, x.requires_grad_(), y, z).sum(), x)
    (together, _) = torch.autograd.grad(compare(lin, x, y.requires_grad_(), z).sum(), (x, y))
    torch.testing.assert_close(alone, together)
    assert not compare(lin, x.detach(), z).requires_grad


@pytest.mark.usefixtures("piece")
def test_first_and_second_gradients_pass_gradcheck_in_double():
    x, y, z = maps(2, 3, 2, 2, zeros=False, dtype=torch.double)
    inputs = [t.requires_grad_() for t in (torch.rand(3, dtype=torch.double), x + 0.1, y + 0.1, z + 0.1)]
    inputs = [t.detach().requires_grad_() for t in inputs]
    assert torch.autograd.gradcheck(compare, inputs)
    assert torch.autograd.gradgradcheck(compare, inputs)


def test_functional_gradients_are_those_of_autograd():
    lin, (x, y) = torch.rand(5), maps(2, 5, 3, 3, count=2)
    ours = torch.func.grad(lambda x: compare(lin, x, y).sum())(x)
    torch.testing.assert_close(ours, torch.func.grad(lambda x: formula(lin, x, y).sum())(x))


@pytest.mark.usefixtures("piece")
def test_equal_maps_are_at_zero_and_near_ones_keep_their_digits():
    lin, (x,) = torch.rand(64), maps(2, 64, 6, 6, count=1)
    assert (compare(lin, x, x.clone()) == 0).all()
    y = x * (1 + 1e-4 * torch.randn(x.shape, generator=torch.Generator().manual_seed(1)))
    exact = formula(lin.double(), x.double(), y.double()).mean()
    assert 0 < exact < 1e-7
    torch.testing.assert_close(compare(lin, x, y).mean().double(), exact, rtol=1e-3, atol=0)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_maps_of_half_precision_are_compared_in_that_of_lin(dtype):
    lin, (x, y) = torch.rand(5), maps(2, 5, 3, 3, count=2, dtype=dtype)
    x.requires_grad_()
    ours = compare(lin, x, y)
    assert ours.dtype == torch.float32
    torch.testing.assert_close(ours, formula(lin, x.float(), y.float()))
    ours.sum().backward()
    assert x.grad.dtype == dtype


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_a_lin_of_half_precision_is_rounded_once(dtype):
    lin, (x, y) = torch.rand(5, dtype=dtype), maps(2, 5, 3, 3, count=2, dtype=dtype)
    exact = lin.float().requires_grad_()
    ours, expected = compare(lin.requires_grad_(), x, y), formula(exact, x.float(), y.float())
    assert ours.dtype == dtype
    torch.testing.assert_close(ours.float(), expected, rtol=0.51 * torch.finfo(dtype).eps, atol=1e-6)
    ours.sum().backward()
    expected.sum().backward()
    torch.testing.assert_close(lin.grad, exact.grad.to(dtype))


def test_a_graph_keeps_the_maps_and_nothing_as_large():
    lin, (x, y) = torch.rand(5), maps(2, 5, 7, 4, count=2)
    kept = []
    with torch.autograd.graph.saved_tensors_hooks(lambda t: kept.append(t) or t, lambda t: t):
        compare(lin, x.requires_grad_(), y)
    large = [t.data_ptr() for t in kept if t.numel() > 2 * 2 * 7 * 4]  # all but lin and the norms
    assert large == [x.data_ptr(), y.data_ptr()]
    assert len(kept) == 4


def test_no_maps_have_no_distance():
    x = torch.rand(0, 5, 3, 3, requires_grad=True)
    out = compare(torch.rand(5), x, x)
    assert out.shape == (1, 0, 3, 3)
    out.sum().backward()
    assert x.grad.shape == x.shape
