import sys
import warnings
from copy import deepcopy

import pytest
import pytorch_lightning as pl
import timm
import torch
import torch.nn.functional as F
from networks import NETS, torchvision_state, trunk, write_weights
from safetensors.torch import save_file
from timm.models import ResNet, register_model
from timm.models import _registry as registry
from timm.models._builder import build_model_with_cfg
from timm.models.resnet import BasicBlock
from torch import nn

from perceptual import LPIPS, create_metric
from perceptual.features.backbone import Backbone
from perceptual.features.info import BackboneInfo, Network
from perceptual.features.timm_networks import default_levels
from perceptual.features.torchvision_networks import TORCHVISION
from perceptual.metrics import PerceptualDistance
from perceptual.names import ALIASES

# the smallest of every kind: convolutions, pyramids without a first level at stride 2, BatchNorm and
# LayerNorm, patches of 16 and 14, windows, maps with channels last, fixed sizes
SMALL = [
    "alexnet",
    "squeezenet1_1",
    "resnet10t",
    "test_resnet",
    "test_convnext",
    "tf_efficientnet_lite0",
    "test_vit",
    "eva02_tiny_patch14_224",
    "swin_tiny_patch4_window7_224",
    "mixer_s32_224",
    "test_mambaout",
    "maxvit_pico_rw_256",
]


@pytest.fixture(scope="module", params=SMALL)
def small(request):
    torch.manual_seed(0)
    return Backbone(request.param, None)


@torch.no_grad()
def test_maps_are_channels_first_and_as_declared_for_squares_and_others(small):
    for size in [(64, 64), (72, 48)]:
        maps = small(torch.rand(1, 3, *size))
        assert [m.shape[:2] for m in maps] == [(1, c) for c in small.channels]
        if small.input_size is None:
            # a map is never finer than the image, nor turned on its side
            assert all(m.shape[2] >= m.shape[3] and m.shape[2] < size[0] for m in maps)
        heights = [m.shape[2] for m in maps]
        assert heights == sorted(heights, reverse=True)
        assert all(m.isfinite().all() for m in maps)


@torch.no_grad()
def test_images_of_a_batch_do_not_see_each_other(small):
    images = torch.rand(2, 3, 64, 64, generator=torch.Generator().manual_seed(1))
    for whole, single in zip(small(images), small(images[1:]), strict=True):
        torch.testing.assert_close(whole[1:], single, atol=1e-4, rtol=1e-4)


@torch.no_grad()
def test_an_empty_batch_gives_empty_maps(small):
    maps = small(torch.rand(0, 3, 64, 64))
    assert [m.shape[:2] for m in maps] == [(0, c) for c in small.channels]


def test_a_frozen_backbone_cannot_be_put_in_training_mode_and_asks_for_no_gradient(small):
    for module in (small, nn.Sequential(small)):
        module.train()
        assert not any(part.training for part in small.modules())
    assert not any(p.requires_grad for p in small.parameters())


def test_mean_and_std_are_those_of_the_weights(small):
    if small.name not in TORCHVISION:
        cfg = timm.get_pretrained_cfg(small.name)
        torch.testing.assert_close(small.mean.flatten(), torch.tensor(cfg.mean))
        torch.testing.assert_close(small.std.flatten(), torch.tensor(cfg.std))
    assert not {"mean", "std"} & set(small.state_dict())


def test_images_reach_the_network_normalised():
    assert Backbone("tf_efficientnet_lite0", None).mean.flatten().tolist() == [0.5, 0.5, 0.5]
    backbone = Backbone("test_resnet", None, mean=[0.1, 0.2, 0.3], std=[1, 2, 3])
    seen = []
    backbone.net.register_forward_pre_hook(lambda _, args: seen.append(args[0]))
    images = torch.rand(1, 3, 32, 32)
    backbone(images)
    for channel in range(3):
        expected = (images[0, channel] - (channel + 1) / 10) / (channel + 1)
        torch.testing.assert_close(seen[0][0, channel], expected)


# --- frozen and trained ---


class Head(pl.LightningModule):
    """A backbone with something above it that is trained."""

    def __init__(self, backbone):
        super().__init__()
        self.backbone = backbone
        self.head = nn.Linear(sum(backbone.channels), 1)
        self.modes = []

    def training_step(self, images, index):
        self.modes.append(self.backbone.net.training)
        pooled = torch.cat([m.mean((2, 3)) for m in self.backbone(images)], dim=1)
        return self.head(pooled).square().mean()

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), 0.1)


def fit(module):
    images = torch.rand(2, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    module.train()
    trainer = pl.Trainer(
        max_steps=2,
        accelerator="cpu",
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    trainer.fit(module, torch.utils.data.DataLoader([images, images], batch_size=None))


def snapshot(module):
    return {key: value.clone() for key, value in module.state_dict().items()}


@pytest.mark.parametrize("name", ["squeezenet1_1", "test_resnet", "tf_efficientnet_lite0", "test_vit"])
def test_lightning_leaves_a_frozen_backbone_bit_identical(name):
    module = Head(Backbone(name, None))
    before, head = snapshot(module.backbone), module.head.weight.clone()
    fit(module)
    assert module.modes == [False, False]
    assert not torch.equal(module.head.weight, head)
    assert all(torch.equal(value, before[key]) for key, value in module.backbone.state_dict().items())


@pytest.mark.parametrize("name", ["alexnet", "test_resnet", "test_convnext", "test_vit", "test_mambaout"])
def test_a_trainable_backbone_is_trained_to_its_first_layer(name):
    module = Head(Backbone(name, None, trainable=True))
    before = snapshot(module.backbone)
    fit(module)
    assert module.modes == [True, True]
    changed = {
        key for key, value in module.backbone.state_dict().items() if not torch.equal(value, before[key])
    }
    first = next(name for name, _ in module.backbone.named_parameters())
    assert first in changed or first.replace("cls_token", "patch_embed.proj.weight") in changed


@pytest.mark.parametrize("learned", [False, True])
def test_learned_statistics_of_batches_stay_while_their_weights_are_trained(learned, tmp_path, monkeypatch):
    net = timm.create_model("test_resnet")
    save_file(net.state_dict(), tmp_path / "test_resnet.safetensors")
    monkeypatch.setenv("PERCEPTUAL_WEIGHTS", str(tmp_path))
    module = Head(Backbone("test_resnet", "default" if learned else None, trainable=True))
    before = snapshot(module.backbone)
    fit(module)
    after = module.backbone.state_dict()
    statistics = [key for key in after if key.endswith(("running_mean", "running_var"))]
    assert statistics
    assert all(torch.equal(after[key], before[key]) is learned for key in statistics)
    assert not torch.equal(after["net.bn1.weight"], before["net.bn1.weight"])


# --- LPIPS's own networks ---


@pytest.mark.parametrize("name", NETS)
@torch.no_grad()
def test_taps_equal_those_of_the_lpips_package(name, tmp_path, monkeypatch):
    write_weights(tmp_path, name)
    monkeypatch.setenv("PERCEPTUAL_WEIGHTS", str(tmp_path))
    backbone = Backbone(name).double()
    assert backbone.source == f"file:{tmp_path / name}.safetensors"
    images = torch.rand(1, 3, 65, 48, generator=torch.Generator().manual_seed(0)).double()
    expected = deepcopy(trunk(name)).double()((images - backbone.mean) / backbone.std)
    for ours, theirs in zip(backbone(images), expected, strict=True):
        torch.testing.assert_close(ours, theirs, atol=1e-12, rtol=1e-9)


@pytest.mark.parametrize(
    ("alias", "name", "total"),
    [("alex", "alexnet", 1152), ("vgg", "vgg16", 1472), ("squeeze", "squeezenet1_1", 2240)],
)
def test_the_names_of_lpips_and_torchmetrics_have_the_channels_of_the_paper(alias, name, total):
    with torch.device("meta"):  # where weights cost nothing
        backbone = Backbone(alias, None)
    assert ALIASES[alias] == backbone.name == name
    assert sum(backbone.channels) == total


# --- levels and sizes ---


@pytest.mark.parametrize(
    ("reductions", "levels"),
    [
        ([2, 4, 8, 16, 32], [0, 1, 2, 3, 4]),
        ([4, 8, 16, 32], [0, 1, 2, 3]),
        ([1, 2, 4, 8, 16, 32], [0, 1, 2, 3, 4]),
        ([16] * 12, [2, 5, 8, 11]),
        ([14] * 24, [5, 11, 17, 23]),
        ([16] * 6, [0, 2, 3, 5]),
        ([16] * 4, [0, 1, 2, 3]),
        ([16, 16], [0, 1]),
        ([8], [0]),
    ],
)
def test_default_levels(reductions, levels):
    assert default_levels(reductions) == levels


@pytest.mark.parametrize("name", ["squeezenet1_1", "test_resnet", "test_vit"])
@torch.no_grad()
def test_out_indices_choose_levels(name):
    torch.manual_seed(0)
    everything = Backbone(name, None)
    chosen = Backbone(name, None, out_indices=[everything.out_indices[i] for i in (1, 3)])
    assert chosen.channels == [everything.channels[1], everything.channels[3]]
    names = chosen.net.state_dict()
    chosen.net.load_state_dict({k: v for k, v in everything.net.state_dict().items() if k in names})
    images = torch.rand(1, 3, 64, 64)
    maps = everything(images)
    for ours, expected in zip(chosen(images), (maps[1], maps[3]), strict=True):
        torch.testing.assert_close(ours, expected)


@pytest.mark.parametrize("levels", [[], [1, 0], [0, 0], [-6], [-1, 0], [-1, 4], [0, 99]])
@pytest.mark.parametrize("name", ["alexnet", "test_resnet"])
def test_levels_that_are_not_there_are_refused(name, levels):
    refusal = rf"out_indices of {name} must be rising numbers from 0 to 4, or negative"
    with pytest.raises(ValueError, match=refusal):
        Backbone(name, None, out_indices=levels)


@pytest.mark.parametrize("size", [0, -1])
def test_an_impossible_input_size_is_refused(size):
    with pytest.raises(ValueError, match=f"input_size must be None or from 1 to 8192 pixels, got {size}"):
        Backbone("alexnet", None, input_size=size)


@pytest.mark.parametrize("name", ["test_resnet", "test_vit"])
@torch.no_grad()
def test_input_size_resizes_every_image_to_it(name):
    backbone = Backbone(name, None, input_size=96)
    images = torch.rand(1, 3, 64, 80, generator=torch.Generator().manual_seed(0))
    resized = F.interpolate(images, (96, 96), mode="bilinear", antialias=True)
    for ours, expected in zip(backbone(images), backbone(resized), strict=True):
        torch.testing.assert_close(ours, expected)


@torch.no_grad()
def test_what_a_fixed_size_means_for_each_kind():
    assert Backbone("mixer_s32_224", None).input_size == (224, 224)
    vit = Backbone("test_vit", None)
    assert vit.input_size is None
    assert vit(torch.rand(1, 3, 64, 100))[0].shape[-2:] == (4, 7)
    fixed = Backbone("test_vit", None, input_size=64)
    assert fixed(torch.rand(1, 3, 160, 160))[0].shape[-2:] == (4, 4)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float64])
def test_images_of_any_precision_are_resized(dtype):
    torch.manual_seed(0)
    backbone = Backbone("alexnet", None, input_size=96)
    images = torch.rand(2, 3, 64, 64)
    expected = backbone(images)
    for ours, theirs in zip(backbone.to(dtype)(images.to(dtype)), expected, strict=True):
        assert ours.dtype == dtype
        torch.testing.assert_close(ours.float(), theirs, rtol=0, atol=0.02 * theirs.abs().max().item())


@pytest.mark.parametrize(("name", "smallest"), [("alexnet", 31), ("squeezenet1_1", 17)])
def test_an_image_too_small_is_refused_with_the_smallest_size(name, smallest):
    backbone = Backbone(name, None)
    message = f"images of 1×1 pixels are too small for {name}, which takes {smallest}×{smallest} or more"
    with pytest.raises(ValueError, match=message):
        backbone(torch.rand(1, 3, 1, 1))
    with pytest.raises(ValueError, match=f"images of 64×{smallest - 1} pixels are too small"):
        backbone(torch.rand(1, 3, 64, smallest - 1))
    backbone(torch.rand(1, 3, smallest, smallest))


def test_looking_for_the_smallest_size_leaves_a_trainable_backbone_as_it_was():
    backbone = Backbone("test_convnext", None, trainable=True).train()
    with pytest.raises(ValueError, match="32×32 or more"):
        backbone(torch.rand(1, 3, 1, 1))
    assert all(module.training for module in backbone.modules())


# --- names and weights ---


@pytest.mark.parametrize("name", ["squeezenet1_1", "test_resnet", "test_vit"])
def test_negative_levels_count_from_the_last_as_in_timm(name):
    every = Backbone(name, None).channels
    tapped = Backbone(name, None, out_indices=[0, -2, -1])
    assert tapped.channels == [every[0], *Backbone(name, None, out_indices=[-2, -1]).channels]
    if name == "test_resnet":
        theirs = timm.create_model(name, features_only=True, out_indices=[0, -2, -1])
        assert tapped.channels == theirs.feature_info.channels()
    assert all(level >= 0 for level in tapped.out_indices)


def test_a_network_without_a_pretrained_configuration_is_built_as_timm_builds_it():
    def net_without_cfg(pretrained=False, **arguments):
        # as networks of older versions of timm read their rates
        assert [round(rate.item(), 1) for rate in torch.linspace(0, 0.2, 3)] == [0, 0.1, 0.2]
        blocks = {"block": BasicBlock, "layers": [1, 1, 1, 1], "channels": (8, 8, 8, 8)}
        return build_model_with_cfg(ResNet, "net_without_cfg", pretrained, **blocks, **arguments)

    net_without_cfg.__module__ = ResNet.__module__  # where timm keeps its lists of names
    module = sys.modules[ResNet.__module__]
    names = list(module.__all__)
    try:
        register_model(net_without_cfg)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            assert Backbone("net_without_cfg", None).channels == [64, 8, 8, 8, 8]
            with pytest.raises(FileNotFoundError, match="no weights for net_without_cfg"):
                Backbone("net_without_cfg")
    finally:
        module.__all__[:] = names
        registry._model_entrypoints.pop("net_without_cfg", None)
        for names in registry._module_to_models.values():
            names.discard("net_without_cfg")


@pytest.mark.parametrize("name", ["alexnet", "test_resnet", "resnet18.a1_in1k"])
def test_weights_that_are_nowhere_are_one_clear_line(name):
    with pytest.raises(FileNotFoundError, match=f"no weights for {name}: .*PERCEPTUAL_WEIGHTS") as raised:
        Backbone(name)
    assert len(str(raised.value).splitlines()) == 1
    assert f"{name.split('.')[0]}.safetensors" in str(raised.value)


def test_random_weights_differ_and_follow_the_seed():
    def first(seed):
        torch.manual_seed(seed)
        return next(Backbone("test_resnet", None).parameters())

    assert torch.equal(first(0), first(0))
    assert not torch.equal(first(0), first(1))
    assert Backbone("test_resnet", None).source == "random"


@pytest.mark.parametrize(
    "name", ["test_resnet", "test_convnext", "test_vit", "swin_tiny_patch4_window7_224", "test_mambaout"]
)
def test_a_whole_classifiers_file_gives_the_features_that_timm_computes(name, tmp_path):
    if "mambaout" in name:
        pytest.importorskip("timm", "1.0.20")
    torch.manual_seed(0)
    classifier = timm.create_model(name, img_size=64) if "swin" in name else timm.create_model(name)
    save_file({k: v.contiguous() for k, v in classifier.state_dict().items()}, tmp_path / "w.safetensors")
    size = {"input_size": 64} if "swin" in name else {}
    ours = Backbone(name, str(tmp_path / "w.safetensors"), **size)
    assert ours.source == f"file:{tmp_path / 'w.safetensors'}"
    images = torch.rand(1, 3, *((64, 64) if size else (160, 160)))
    with torch.no_grad():
        _, expected = classifier.eval().forward_intermediates((images - ours.mean) / ours.std)
        maps = ours(images)
    torch.testing.assert_close(maps[-1], expected[-1], atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("name", ["alexnet", "test_resnet"])
def test_a_file_without_what_the_taps_need_is_refused_naming_it(name, tmp_path):
    backbone = Backbone(name, None)
    state = {k.removeprefix("model."): v for k, v in backbone.net.state_dict().items()}
    missing = next(iter(state))
    save_file({k: v.contiguous() for k, v in state.items() if k != missing}, tmp_path / "w.safetensors")
    with pytest.raises(ValueError, match=rf"weights of {name} from file:.* lack 1 of .*{missing}"):
        Backbone(name, str(tmp_path / "w.safetensors"))


def test_weights_of_another_architecture_are_refused(tmp_path):
    path = write_weights(tmp_path, "squeezenet1_1")
    for name in ("alexnet", "test_resnet", "test_vit"):
        with pytest.raises(ValueError, match=f"weights of {name} from file:.* (lack|have other shapes)"):
            Backbone(name, str(path))


def test_weights_of_a_wider_relative_are_refused(tmp_path):
    state = timm.create_model("resnet18").state_dict()
    save_file(state, tmp_path / "w.safetensors")
    with pytest.raises(ValueError, match=r"weights of resnet34 from file"):
        Backbone("resnet34", str(tmp_path / "w.safetensors"))
    with pytest.raises(ValueError, match=r"weights of resnet10t .* lack"):
        Backbone("resnet10t", str(tmp_path / "w.safetensors"))
    state["conv1.weight"] = torch.zeros(64, 3, 3, 3)
    save_file(state, tmp_path / "w.safetensors")
    with pytest.raises(ValueError, match=r"weights of resnet18 .* have other shapes of .*conv1\.weight"):
        Backbone("resnet18", str(tmp_path / "w.safetensors"))


def test_deeper_levels_may_be_missing_where_they_are_not_tapped(tmp_path):
    state = {k: v for k, v in torchvision_state(trunk("alexnet")).items() if k < "features.6"}
    path = write_weights(tmp_path, "alexnet", state)
    assert Backbone("alexnet", str(path), out_indices=[0, 1]).channels == [64, 192]
    with pytest.raises(ValueError, match="lack"):
        Backbone("alexnet", str(path))


def test_the_fingerprint_is_that_of_the_weights_in_use(tmp_path):
    first = Backbone("alexnet", str(write_weights(tmp_path, "alexnet")))
    state = torchvision_state(trunk("alexnet"))
    assert first.fingerprint() == Backbone("alexnet", str(write_weights(tmp_path, "alexnet"))).fingerprint()
    state["features.10.bias"][0] += 1
    other = Backbone("alexnet", str(write_weights(tmp_path, "alexnet", state)))
    assert first.fingerprint() != other.fingerprint()


def test_bfloat16_is_a_choice_and_distances_stay_in_full():
    backbone = Backbone("test_resnet", None, precision="bf16-mixed")
    maps = backbone(torch.rand(2, 3, 40, 40))
    assert {m.dtype for m in maps} == {torch.bfloat16}
    whole = Backbone("test_resnet", None)
    whole.load_state_dict(backbone.state_dict())
    for half, full in zip(maps, whole(torch.rand(2, 3, 40, 40)), strict=True):
        assert half.shape == full.shape
    with pytest.raises(ValueError, match="precision must be one of 32-true, bf16-mixed, got 'bf16'"):
        Backbone("test_resnet", None, precision="bf16")


# --- the defaults of PyTorch while it is made ---


@pytest.fixture
def made_under():
    """Make something under another default precision, or with another default device."""
    before = torch.get_default_dtype()

    def make(default, build):
        try:
            if isinstance(default, torch.dtype):
                torch.set_default_dtype(default)
                return build()
            if default == "bf16-true":  # sets bfloat16
                with pl.Trainer(precision="bf16-true", accelerator="cpu", logger=False).init_module():
                    return build()
            with torch.device(default):
                return build()
        finally:
            torch.set_default_dtype(before)

    return make


class Halves(nn.Module):
    """A network of the user's without weights, which says what it normalises with."""

    mean, std = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)

    def forward(self, images):
        return [images - 0.5]


@pytest.mark.parametrize("default", [torch.float64, "bf16-true", "meta"])
@pytest.mark.parametrize("name", ["alexnet", "test_resnet-random", "own", "ssim"])
def test_defaults_of_pytorch_do_not_change_a_distance(name, default, made_under, tmp_path, monkeypatch):
    def make():
        return PerceptualDistance(LPIPS(Backbone.of(Halves()))) if name == "own" else create_metric(name)

    if name in NETS:
        write_weights(tmp_path, name)
        monkeypatch.setenv("PERCEPTUAL_WEIGHTS", str(tmp_path))
    if default == "meta" and name == "own":
        pytest.skip("without weights it is on the default device")
    x, y = torch.rand(2, 2, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    expected, metric = make(), made_under(default, make)
    if default != "meta":  # where it would sum up, too
        for batch in ((x, y), (x[:1], y[:1])):
            metric.update(*batch)
            expected.update(*batch)
        assert torch.equal(metric.compute(), expected.compute())
    assert torch.equal(metric.distance(x, y), expected.distance(x, y))
    if hasattr(metric.distance, "backbone"):
        ours, theirs = metric.distance.backbone, expected.distance.backbone
        assert (ours.input_size, ours.mean.tolist()) == (theirs.input_size, theirs.mean.tolist())
        assert ours.try_out() == theirs.try_out()


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_a_network_of_another_precision_is_taken_as_it_is(dtype, tmp_path):
    state = {key: value.to(dtype) for key, value in torchvision_state(trunk("alexnet")).items()}
    file = str(write_weights(tmp_path, "alexnet", state))
    for backbone in (Backbone("alexnet", file), Backbone.of(Custom().to(dtype))):
        assert (backbone.mean.dtype, backbone.input_size) == (dtype, None)
        metric = LPIPS(backbone, None)
        assert metric(*torch.rand(2, 1, 3, 64, 64)).dtype == torch.promote_types(dtype, torch.float32)


class Custom(nn.Sequential):
    """A small network of the user's."""

    def __init__(self):
        super().__init__(nn.Conv2d(3, 4, 3))

    def forward(self, images):
        return [super().forward(images)]


class Broken(nn.Module):
    """Fails in another way than by the size of images."""

    def __init__(self, *_, **__):
        super().__init__()
        self.layer = nn.Linear(7, 7)

    def forward(self, images):
        return [self.layer(images.flatten(1))[..., None, None]]


def test_only_an_error_of_size_is_explained_as_one(monkeypatch, tmp_path):
    backbone = Backbone("alexnet", str(write_weights(tmp_path, "alexnet")))
    backbone.net.double()  # behind the back of mean and std
    with pytest.raises(RuntimeError, match=r"[Dd]ouble"):
        backbone(torch.rand(1, 3, 64, 64))
    backbone.net.float()
    with pytest.raises(ValueError, match="images of 64×20 pixels are too small for alexnet"):
        backbone(torch.rand(1, 3, 64, 20))
    network = Network(Broken(), BackboneInfo("resnet18", (0,), [7], "random", fallback_size=(224, 224)))
    monkeypatch.setattr("perceptual.features.networks.find", lambda *_: network)
    with pytest.raises(ValueError, match="resnet18 fails on images of any size: mat1 and mat2"):
        Backbone("resnet18")


def test_a_full_memory_is_not_explained_as_a_size(monkeypatch):
    backbone = Backbone("test_resnet", None)

    def full(images):
        raise torch.OutOfMemoryError("out of memory")

    monkeypatch.setattr(backbone.net, "forward", full)
    with pytest.raises(torch.OutOfMemoryError):
        backbone(torch.rand(1, 3, 64, 64))
