"""LPIPS under torch.compile, torch.export, torch.func and other transforms of functions."""

import io
import pickle
from copy import deepcopy

import pytest
import torch
from networks import reference_lpips
from torch import func, nn
from torch.autograd import forward_ad

from perceptual import create_metric
from perceptual.distance import compiled
from perceptual.distance.lpips import LPIPS
from perceptual.features.backbone import Backbone


def images(*shape, seed=0, count=2):
    generator = torch.Generator().manual_seed(seed)
    return [torch.rand(*shape, generator=generator) for _ in range(count)]


@torch.no_grad()
def test_where_compilation_gives_up_the_numbers_stay(monkeypatch):
    torch._dynamo.reset()
    monkeypatch.setattr(compiled, "_compiled", lambda method: torch.compile(method, backend="eager"))
    backbone = Backbone("test_resnet", None)
    fast, plain = LPIPS(backbone, None, compile=True), LPIPS(backbone, None)
    with torch._dynamo.config.patch(cache_size_limit=1):
        for size in (32, 40, 48):
            x, y = images(2, 3, size, size)
            torch.testing.assert_close(fast(x, y), plain(x, y))
            torch.testing.assert_close(fast.triplet(x, y, y), plain.triplet(x, y, y))
    torch._dynamo.reset()


WHOLE = {
    "compiled without a graph break": lambda d, x, y: torch.compile(d, backend="eager", fullgraph=True),
    "exported": lambda d, x, y: torch.export.export(d, (x, y)).module(),
}


@pytest.mark.parametrize("way", WHOLE)
@pytest.mark.parametrize("name", [pytest.param("alexnet", marks=pytest.mark.slow), "test_vit"])
@torch.no_grad()
def test_a_whole_program_runs_without_the_check_of_the_range(name, way):
    if way == "exported":
        pytest.importorskip("torch", "2.6")
    distance = LPIPS(Backbone(name, None), None)
    x, y = images(2, 3, 64, 64)
    whole = WHOLE[way](distance, x, y)
    torch.testing.assert_close(whole(x, y), distance(x, y), atol=1e-6, rtol=1e-5)
    unchecked = LPIPS(distance.backbone, None, check_range=False)
    torch.testing.assert_close(whole(3 * x, y), unchecked(3 * x, y), atol=1e-6, rtol=1e-5)


class Chain(nn.Module):
    """A tiny VGG."""

    def __init__(self):
        super().__init__()
        self.first, self.second = nn.Conv2d(3, 4, 3, padding=1), nn.Conv2d(4, 8, 3, padding=1)

    def forward(self, images):
        first = self.first(images).relu()
        return [first, self.second(nn.functional.max_pool2d(first, 2)).relu()]


@torch.no_grad()
def test_a_compiled_comparison_gives_the_same_numbers_and_can_be_copied():
    backbone = Backbone.of(Chain())
    x, y, z = images(2, 3, 40, 40, count=3)
    for arguments in ({}, {"spatial": True}):
        eager = LPIPS(backbone, None, **arguments)
        compiled = pickle.loads(pickle.dumps(deepcopy(LPIPS(backbone, None, compile=True, **arguments))))
        torch.testing.assert_close(compiled(x, y), eager(x, y))
        torch.testing.assert_close(compiled.triplet(x, y, z), eager.triplet(x, y, z))
        assert (compiled(x, x) == 0).all()


@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor:UserWarning")  # PyTorch reads it itself
def test_all_of_a_distance_is_one_graph_for_images_of_every_size(monkeypatch):
    torch._dynamo.reset()
    graphs = []

    def count(graph, _):
        graphs.append(graph)
        return graph.forward

    monkeypatch.setattr(
        compiled,
        "_compiled",
        lambda method: torch.compile(method, backend=count, fullgraph=True, dynamic=True),
    )
    backbone = Backbone.of(Chain())
    whole, plain = LPIPS(backbone, None, compile="full"), LPIPS(backbone, None)
    for number, size in enumerate([40, 48, 64, 96]):
        x, y = images(2 + number, 3, size, size + 8)
        torch.testing.assert_close(whole(x, y), plain(x, y))
    assert len(graphs) == 1
    layers = dict(graphs[0].named_modules())  # where PyTorch before 2.5 has convolutions, later as functions
    convolutions = [
        node
        for node in graphs[0].graph.nodes
        if "conv" in str(node.target) or isinstance(layers.get(node.target), nn.Conv2d)
    ]
    assert len(convolutions) == 2  # the backbone is in it
    with pytest.raises(ValueError, match="x has values from"):
        whole(3 * x, y)
    moving, still = (x.clone().requires_grad_() for _ in range(2))
    (grad,) = torch.autograd.grad(whole(moving, y).sum(), moving)
    torch.testing.assert_close(grad, torch.autograd.grad(plain(still, y).sum(), still)[0])
    torch._dynamo.reset()


def test_a_graph_of_cuda_needs_a_gpu():
    x, y = images(2, 3, 32, 32)
    with pytest.raises(
        ValueError, match="a CUDA graph is of images on a GPU of CUDA, got x on cpu and y on cpu"
    ):
        LPIPS(Backbone("test_resnet", None), None).graph(x, y)


def test_to_compile_without_a_compiler_is_refused(monkeypatch):
    monkeypatch.setenv("CXX", "no-such-compiler")
    with pytest.raises(ValueError, match="needs a C\\+\\+ compiler, and there is no 'no-such-compiler'"):
        LPIPS(Backbone("test_resnet", None), None, compile=True)


def test_a_compiler_that_fails_is_named_in_one_line(monkeypatch, tmp_path):
    from torch._inductor import config

    broken = tmp_path / "c++"
    broken.write_text(
        '#!/bin/sh\n[ "$1" = --version ] && echo "c++ (GCC) 12" || { echo disk full >&2; exit 1; }\n'
    )
    broken.chmod(0o755)
    monkeypatch.setenv("CXX", str(broken))
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path / "cache"))
    torch.compiler.reset()
    distance = LPIPS(Backbone.of(Chain()), None, compile=True)
    said = pytest.raises(ValueError, match=r"compile failed: .*/c\+\+' cannot compile")
    with config.patch("cpp.cxx", (None, str(broken))), said as refused:  # CXX as at import
        distance(*images(1, 3, 37, 41))
    torch.compiler.reset()
    assert "\n" not in str(refused.value)


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
def test_transforms_of_functions_give_what_they_give_of_the_lpips_package(transform, alexnet, monkeypatch):
    apply = TRANSFORMS[transform]
    found = apply(LPIPS("alexnet"))
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
