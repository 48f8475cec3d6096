"""On a GPU the numbers are those of the CPU; skipped where there is none."""

import pytest
import pytorch_lightning as pl
import torch

from perceptual import LPIPS, Backbone, PerceptualDistance, PerceptualRanker
from perceptual.data import PhotosDataModule
from perceptual.distance.level import compare, mean_squares
from perceptual.evaluation import evaluate as evaluation
from perceptual.features.kmeans import initialize
from perceptual.metrics import JNDAveragePrecision, OpinionCorrelation, PerceptualDiversity, TwoAFCScore
from perceptual.training.cache import CachedDataModule

pytestmark = [
    pytest.mark.filterwarnings("ignore:GPU available but not used"),
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no GPU"),
]
NETWORKS = ("test_resnet", "alexnet", "test_vit", "alexnet+test_resnet")
DATA = {"count_train": 40, "count_val": 20, "size": 64, "batch_size": 10, "num_workers": 0}


@pytest.fixture(autouse=True)
def _full_precision(monkeypatch):
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", False)
    monkeypatch.setattr(torch.backends.cuda.matmul, "allow_tf32", False)


def images(count=4, size=64):
    return torch.rand(2, count, 3, size, size, generator=torch.Generator().manual_seed(0))


def both(name):
    torch.manual_seed(0)
    here = LPIPS(Backbone(name, None), None)
    torch.manual_seed(0)
    return here, LPIPS(Backbone(name, None), None).to("cuda")


def close(there, here, **tolerance):
    torch.testing.assert_close(there.cpu(), here, **({"atol": 1e-5, "rtol": 1e-3} | tolerance))


@pytest.mark.parametrize("name", NETWORKS)
@torch.no_grad()
def test_distances_are_those_of_the_cpu(name):
    (here, there), (x, y) = both(name), images()
    u, v = x.to("cuda"), y.to("cuda")
    close(there(u, v), here(x, y))
    close(there.per_level(u, v), here.per_level(x, y))
    close(torch.stack(there.triplet(u, v, u)), torch.stack(here.triplet(x, y, x)))
    close(there.reference(v)(u), here.reference(y)(x))
    close(there.embed(u), here.embed(x), atol=1e-4)
    close(there.pairwise(u), here.pairwise(x))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
@pytest.mark.parametrize("order", [torch.contiguous_format, torch.channels_last])
def test_kernels_give_what_pytorch_gives(order, dtype):
    pytest.importorskip("triton")
    lin = torch.rand(70, device="cuda")
    maps = torch.randn(3, 2, 70, 13, 17, device="cuda").relu().to(dtype)
    found = []
    for kernel in ("triton", "torch"):
        of = [m.contiguous(memory_format=order).requires_grad_() for m in maps.clone()]
        out = compare(lin.requires_grad_(), *of, mean=True, kernel=kernel)
        found.append([out, *torch.autograd.grad(out.sum(), [lin, *of])])
    close(found[0][0], found[1][0].cpu(), rtol=1e-5)
    half = {"rtol": 1e-4, "atol": 1e-6} if dtype == torch.float32 else {"rtol": 0.02, "atol": 1e-3}
    for there, here in zip(found[0][1:], found[1][1:], strict=True):
        close(there, here.cpu(), **half)
    assert (compare(lin, maps[0], maps[0].clone(), kernel="triton") == 0).all()


@pytest.mark.parametrize("name", ["test_resnet", "alexnet"])
def test_gradients_are_those_of_the_cpu(name):
    (here, there), (x, y) = both(name), images()
    x.requires_grad_()
    u = x.detach().to("cuda").requires_grad_()
    here(x, y).sum().backward()
    there(u, y.to("cuda")).sum().backward()
    assert (u.grad.cpu() - x.grad).norm() < 1e-2 * x.grad.norm()


@pytest.mark.parametrize("moves", [(False, False), (True, False), (True, True)], ids=str)
def test_a_graph_replays_distances_and_gradients(moves):
    (_, there), example = both("alexnet"), images()
    example = [image.to("cuda").requires_grad_(moving) for image, moving in zip(example, moves, strict=True)]
    graph, kept = there.graph(*example), []
    for seed in (1, 2):
        drawn = torch.rand(2, 4, 3, 64, 64, generator=torch.Generator().manual_seed(seed)).to("cuda")
        found = []
        for distance in (graph, there):
            of = [image.clone().requires_grad_(moving) for image, moving in zip(drawn, moves, strict=True)]
            value = distance(*of)
            moving = [image for image in of if image.requires_grad]
            found.append([value.detach(), *(torch.autograd.grad(value.sum(), moving) if moving else [])])
        for replayed, computed in zip(*found, strict=True):
            close(replayed, computed.cpu(), atol=1e-6)
        kept.append(found[0][0])
    assert not torch.equal(*kept)  # the first is not written over
    with pytest.raises(ValueError, match="the graph was recorded for x of"):
        graph(example[0][:1], example[1][:1])


def test_tiles_give_the_numbers_of_the_whole():
    (_, there), (x, y) = both("alexnet"), images(1, 900)
    x, y = x.to("cuda").requires_grad_(), y.to("cuda")
    found = []
    for memory in (None, 2e8):
        there.memory = memory
        torch.cuda.synchronize()
        before = torch.cuda.memory_allocated()
        torch.cuda.reset_peak_memory_stats()
        value = there(x, y)
        found.append([value.detach(), torch.autograd.grad(value.sum(), x)[0]])
        peak = torch.cuda.max_memory_allocated() - before
    close(found[1][0], found[0][0].cpu())
    assert (found[1][1] - found[0][1]).norm() < 1e-2 * found[0][1].norm()
    assert peak < 2e8 + 8 * x.nbytes  # and the images' own


@torch.no_grad()
def test_the_kernel_of_the_cache_gives_what_pytorch_gives():
    pytest.importorskip("triton")
    maps = torch.rand(5, 70, 9, 11, device="cuda").contiguous(memory_format=torch.channels_last)
    first, second = torch.tensor([[0, 1, 4, 4], [3, 1, 0, 2]], device="cuda")
    close(*(mean_squares(maps, first, second, kernel).cpu() for kernel in ("triton", "torch")), atol=1e-7)


@torch.no_grad()
def test_ambient_autocast_reaches_the_backbone():
    (_, there), (x, y) = both("alexnet"), images()
    x, y = x.to("cuda"), y.to("cuda")
    with torch.autocast("cuda", torch.bfloat16):
        assert {m.dtype for m in there.maps(x)} == {torch.bfloat16}
        distance = there(x, y)
        assert (there.reference(y)(y) == 0).all()
    assert distance.dtype == torch.float32
    torch.testing.assert_close(distance, there(x, y), rtol=0.05, atol=1e-3)


def test_metrics_are_those_of_the_cpu():
    (here, there), (x, y) = both("test_resnet"), images()
    group = torch.tensor([0, 0, 1, 1])
    columns = torch.rand(3, 8, generator=torch.Generator().manual_seed(0))
    for make, given in (
        (lambda d: PerceptualDistance(d), (x, y)),
        (lambda d: PerceptualDiversity(d), (x, group)),
        (lambda _: TwoAFCScore(), columns),
        (lambda _: JNDAveragePrecision(), columns[:2]),
        (lambda _: OpinionCorrelation(), columns[:2]),
    ):
        cpu, gpu = make(here), make(there).to("cuda")
        cpu.update(*given)
        gpu.update(*(part.to("cuda") for part in given))
        assert gpu.compute().device.type == "cuda"
        close(gpu.compute(), cpu.compute())


@pytest.mark.parametrize("variant", ["lin", "tune"])
def test_training_ends_where_it_does_on_the_cpu(variant, tmp_path):
    scores = []
    for accelerator in ("cpu", "gpu"):
        pl.seed_everything(0, verbose=False)
        data = PhotosDataModule(**DATA)
        ranker = PerceptualRanker({"name": "test_resnet", "weights": None}, variant, dropout=0)
        data.setup("fit")
        batches = (
            CachedDataModule(data, ranker.distance, tmp_path / accelerator) if variant == "lin" else data
        )
        quiet = {"logger": False, "enable_checkpointing": False, "enable_progress_bar": False}
        trainer = pl.Trainer(max_epochs=2, accelerator=accelerator, devices=1, **quiet)
        trainer.fit(ranker, batches)
        x, y = images()
        scores.append(ranker.cpu().eval().distance(x, y).detach())
    close(*scores, rtol=0.02)


def test_evaluation_gives_the_scores_of_the_cpu(tmp_path):
    data = PhotosDataModule(**DATA)
    data.setup("validate")
    names = ["test_resnet-random", "l2", "ssim"]
    found = []
    for device in ("cpu", "cuda"):
        place, *_ = evaluation.evaluate(names, data, tmp_path / device, device)
        found.append({result.method: result.scores["mean"] for result in place.all()})
    assert set(found[0]) == set(names)
    assert found[1] == pytest.approx(found[0], abs=0.051)  # a triplet may be close to a tie


def test_weights_are_made_of_images_on_the_gpu():
    torch.manual_seed(0)
    backbone = Backbone("alexnet", None, out_indices=[0]).to("cuda")
    initialize(backbone, images(64)[0].to("cuda"))
    assert all(p.isfinite().all() for p in backbone.parameters())
