"""Images in tiles, beside the same images whole."""

import gc
import math
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from perceptual.distance import tiles
from perceptual.distance.lpips import LPIPS
from perceptual.features.backbone import Backbone


class Uneven(nn.Module):
    """Strides of 2 and 3, an even kernel, padding by the size of the image, and one level without any."""

    def __init__(self):
        super().__init__()
        self.first, self.second = nn.Conv2d(3, 6, 3, stride=2), nn.Conv2d(6, 8, 4, stride=3, dilation=2)
        self.third = nn.Conv2d(8, 4, 3, groups=2)

    def same(self, layer, x):
        pads = []
        for size, kernel, stride, step in zip(
            x.shape[:1:-1], layer.kernel_size, layer.stride, layer.dilation, strict=True
        ):
            more = max((math.ceil(size / stride) - 1) * stride + (kernel - 1) * step + 1 - size, 0)
            pads += [more // 2, more - more // 2]
        return layer(F.pad(x, pads))

    def forward(self, images):
        first = self.same(self.first, images).relu()
        second = F.max_pool2d(self.same(self.second, first).tanh(), 3, 2, ceil_mode=True)
        return [first, second, self.third(second).abs()]


def build(name, **options):
    torch.manual_seed(0)
    backbone = Uneven() if name == "uneven" else Backbone(name, None)
    distance = LPIPS(backbone, None, **options)
    for vector in distance.lin:
        vector.data.uniform_()
    return distance


def images(height, width, count=1, batches=2):
    return torch.rand(batches, count, 3, height, width, generator=torch.Generator().manual_seed(0))


@pytest.fixture(autouse=True)
def _pixels(monkeypatch):
    """The budget is in pixels of a tile."""
    monkeypatch.setattr(tiles, "SMALL", math.inf)
    monkeypatch.setattr(tiles, "_bytes", lambda *_: 1.0)


def seen(distance):
    """Sizes of what the network sees from now on."""
    found = []
    distance.backbone.register_forward_hook(lambda _, given, __: found.append(tuple(given[0].shape)))
    return found


LONG, SIDE = (701, 70), 400
SMALL = SIDE * 70  # of a tile of LONG


def both(distance, call, pixels=SMALL):
    """What a call gives of whole images, then of tiles of so many pixels, which it sees."""
    whole = call(distance)
    distance.memory, sizes = pixels, []
    hook = distance.backbone.register_forward_hook(
        lambda _, given, __: sizes.append(given[0].shape[2:].numel())
    )
    cut = call(distance)
    hook.remove()
    distance.memory = None
    assert len(sizes) > 10  # strips that the network is tried with, then tiles
    assert max(sizes) <= max(pixels, 64 * 2 * SIDE)
    return whole, cut


def close(found, expected):
    scale = expected.abs().max()
    assert scale > 0
    assert (found - expected).abs().max() <= 1e-5 * scale


@pytest.mark.parametrize(
    ("name", "size"),
    [
        ("alexnet", (801, 70)),
        ("squeezenet1_1", (801, 70)),
        ("alexnet[antialias=true]", (67, 790)),
        ("test_resnet", (467, 455)),
        ("uneven", (469, 455)),
        ("uneven", (471, 454)),
    ],
    ids=str,
)
@torch.no_grad()
def test_tiles_give_the_numbers_of_the_whole(name, size):
    distance = build(name)
    x, y = images(*size)
    pixels = SIDE * min(SIDE, *size)
    whole, cut = both(distance, lambda d: d.per_level(x, y), pixels)
    close(cut, whole)
    whole, cut = both(distance, lambda d: d.per_level(x, y, spatial=True), pixels)
    for level in range(whole.shape[1]):
        close(cut[:, level], whole[:, level])


def masks(height, width, count=1):
    drawn = torch.rand(count, 1, height, width, generator=torch.Generator().manual_seed(1))
    drawn[..., : height // 3, :] = 0
    return drawn


X, Y = images(*LONG, count=2)
MASK = masks(*LONG)
WAYS = {
    "mask": lambda d: d(X, Y, MASK),
    "triplet": lambda d: torch.stack(d.triplet(X, Y, Y.flip(3))),
    "masked triplet": lambda d: torch.stack(d.triplet(X, Y, Y.flip(3), masks(*LONG, count=2))),
    "one with many": lambda d: d(X[:1], Y),
    "many with one": lambda d: d(X, Y[:1]),
    "reference": lambda d: d.reference(Y, MASK)(X),
    "bytes": lambda d: d((X * 255).byte(), Y),
    "bfloat16": lambda d: d(X.bfloat16(), Y),
}


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("how", [{}, {"spatial": True}, {"form": "pooled"}, {"outside": "fill"}], ids=str)
@torch.no_grad()
def test_every_way_to_a_distance_goes_through_tiles(how, way):
    distance = build("uneven", **how)
    whole, cut = both(distance, WAYS[way])
    close(cut, whole)


@pytest.mark.parametrize("form", ["per_position", "pooled"])
def test_gradients_are_those_of_the_whole(form):
    distance = build("uneven", form=form).double()
    x, y = images(*LONG).double()
    mask, weight = masks(*LONG).double(), torch.tensor([2.0])

    def gradients(distance):
        inputs = [x.clone().requires_grad_(), y.clone().requires_grad_(), *distance.lin]
        value = distance(*inputs[:2], mask) * weight
        (first,) = torch.autograd.grad(value.sum(), inputs[0], create_graph=True)
        return [
            *torch.autograd.grad(value.sum(), inputs, retain_graph=True),
            *torch.autograd.grad(first.square().sum(), inputs[1]),
        ]

    for vector in distance.lin:
        vector.requires_grad_()
    whole, cut = both(distance, gradients)
    for one, other in zip(cut, whole, strict=True):
        close(one, other)


def test_a_gradient_to_one_image_and_to_the_backbone():
    distance = build("uneven", spatial=True)
    distance.backbone.requires_grad_()
    x, y = images(*LONG)

    def gradients(distance):
        moving = x.clone().requires_grad_()
        value = (distance(moving, y) * masks(*LONG)).sum()
        return torch.autograd.grad(value, [moving, *distance.backbone.parameters()])

    whole, cut = both(distance, gradients)
    for one, other in zip(cut, whole, strict=True):
        close(one, other)


@torch.no_grad()
def test_a_batch_that_does_not_fit_is_taken_in_parts():
    distance = build("test_vit")  # which cannot be cut, and need not be
    x, y = images(64, 64, count=7)
    whole, sizes = distance(x, y), seen(distance)
    distance.memory = 3 * 64**2
    torch.testing.assert_close(distance(x, y), whole)
    assert [size[0] for size in sizes] == [3, 3, 3, 3, 1, 1]
    moving = x.clone().requires_grad_()
    with torch.enable_grad():
        found = torch.autograd.grad(distance(moving, y).sum(), moving)
        distance.memory = None
        torch.testing.assert_close(torch.autograd.grad(distance(moving, y).sum(), moving), found)


class Circular(Uneven):
    """Sees the other end of an image at its borders."""

    def forward(self, images):
        return [self.first(F.pad(images, (0, 0, 2, 2), mode="circular"))]


class Placed(Uneven):
    """Knows where it looks."""

    def forward(self, images):
        down = torch.linspace(0, 1, images.shape[2]).view(-1, 1)
        return [self.first(images + down)]


class Hiding(Uneven):
    """Passes on only a part of what is not a number."""

    def forward(self, images):
        found = self.first(images)
        wide = F.conv2d(torch.where(found > 0, found, 0), torch.ones(6, 1, 9, 9), padding=4, groups=6)
        return [found + wide]


@pytest.mark.parametrize(
    ("network", "said"),
    [
        ("test_vit", "the level 0 of test_vit sees more than 350 pixels"),
        ("test_efficientnet", "the level 3 of test_efficientnet sees more than 350 pixels"),
        ("alexnet[out_indices=[0,embedding]]", "the level embedding of .* has no map that grows with images"),
        (Circular(), "Circular depends on where in an image it looks"),
        (Placed(), "Placed depends on where in an image it looks"),
        (Hiding(), "Hiding depends on where in an image it looks"),
    ],
    ids=lambda value: type(value).__name__,
)
@torch.no_grad()
def test_what_cannot_be_cut_is_refused_by_name_or_taken_whole(network, said, monkeypatch):
    network = network if isinstance(network, nn.Module) else Backbone(network, None)
    distance, (x, y) = LPIPS(network, None, memory=9000), images(600, 64)
    monkeypatch.setattr(tiles, "REACH", 700)
    with pytest.raises(
        ValueError, match=rf"images of 600×64 pixels do not fit memory=9e\+03, and {said}, so it cannot"
    ):
        distance(x, y)
    distance.memory = None
    whole = distance(x, y)
    distance.memory = "auto"
    monkeypatch.setattr(tiles, "_free", lambda _: 4 * 9000)
    assert torch.equal(distance(x, y), whole)


@torch.no_grad()
def test_a_quarter_of_what_is_free_is_used_by_itself(monkeypatch):
    distance, (x, y) = build("uneven", memory="auto"), images(500, 64)
    whole, sizes = distance(x, y), seen(distance)
    assert tiles._free(x.device) > 1e8
    monkeypatch.setattr(tiles, "_free", lambda _: 4 * 300 * 64)
    close(distance(x, y), whole)
    assert (1, 3, 500, 64) not in sizes


@torch.no_grad()
def test_a_network_that_resizes_images_sees_them_whole():
    distance = LPIPS(Backbone("test_resnet", None, input_size=64), None, memory=1)
    assert distance(*images(500, 64)).shape == (1,)


def test_too_little_memory_is_said_in_one_line():
    with pytest.raises(ValueError, match="memory must be a positive number of bytes, 'auto' or None, got -1"):
        LPIPS(Uneven(), None, memory=-1)
    distance = build("alexnet", memory=100**2)
    with pytest.raises(
        ValueError,
        match=r"do not fit memory=1e\+04, and alexnet needs tiles of 2\d\d×2\d\d pixels, which take",
    ):
        distance(*images(600, 600))


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="resident memory is read from Linux")
@pytest.mark.parametrize("moves", [False, True])
def test_the_budget_holds(moves, monkeypatch):
    monkeypatch.undo()
    distance = build("alexnet")
    x, y = images(1200, 1200)
    x.requires_grad_(moves)
    peaks = []
    for distance.memory in (None, 60e6, 60e6):
        gc.collect()
        Path("/proc/self/clear_refs").write_text("5")  # the peak starts anew
        before = resident("VmRSS")
        value = distance(x, y)
        if moves:
            torch.autograd.grad(value.sum(), x)
        peaks.append(resident("VmHWM") - before)
    assert peaks[0] > 2 * 60e6
    assert peaks[2] < 60e6 + 3 * x.nbytes * moves, peaks  # and gradients as large as the image


def resident(which):
    """Bytes of memory of this process, now (VmRSS) or at their peak (VmHWM)."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return 1024 * int(next(line.split()[1] for line in lines if line.startswith(which)))
