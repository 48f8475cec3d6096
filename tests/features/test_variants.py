import json

import numpy as np
import pytest
import timm
import torch
import torchvision
from hub import hub
from safetensors.torch import save_file
from torch import nn

from perceptual import LPIPS
from perceptual.features.backbone import Backbone
from perceptual.features.shifts import antialias


def images(*shape, seed=0):
    return torch.rand(*shape, generator=torch.Generator().manual_seed(seed))


def assert_maps(backbone, expected, x):
    for ours, theirs in zip(backbone(x), expected, strict=True):
        torch.testing.assert_close(ours, theirs, atol=1e-5, rtol=1e-4)


# --- options of timm ---


@torch.no_grad()
def test_options_build_the_variant_that_timm_builds(tmp_path):
    torch.manual_seed(0)
    options = {"act_layer": "silu", "aa_layer": "avg"}
    net = timm.create_model(
        "resnet18", features_only=True, act_layer="silu", aa_layer=nn.AvgPool2d, output_stride=16
    ).eval()
    save_file(net.state_dict(), tmp_path / "weights.safetensors")
    name = "resnet18[output_stride=16]"
    backbone = Backbone(name, str(tmp_path / "weights.safetensors"), options=options)
    assert backbone.name == "resnet18[aa_layer=avg,act_layer=silu,output_stride=16]"
    x = images(1, 3, 64, 64)
    assert_maps(backbone, net((x - backbone.mean) / backbone.std), x)
    plain = Backbone("resnet18", str(tmp_path / "weights.safetensors"))
    assert plain.fingerprint() == backbone.fingerprint(), "only the name tells them apart"
    assert not torch.allclose(plain(x)[-1].mean(), backbone(x)[-1].mean())


def test_antialiasing_by_its_name_blurs(tmp_path):
    blurred, plain = (Backbone(name, None).net for name in ("resnet18[aa_layer=blurpc]", "resnet18"))
    names = {type(module).__name__ for module in blurred.modules()}
    assert "BlurPool2dConstant" in names
    assert "BlurPool2dConstant" not in {type(module).__name__ for module in plain.modules()}


@pytest.mark.parametrize(
    ("name", "message"),
    [
        (
            "test_resnet[aa_layr=blur]",
            r"test_resnet has no option aa_layr; it takes .*aa_layer.*drop_path_rate",
        ),
        ("test_resnet[aa_layer=blurr]", "aa_layer must be one of avg, blur, blurpc, got 'blurr'"),
        ("test_resnet[act_layer=nothing]", "nothing"),
        ("alexnet[width=2]", "alexnet has the options out_indices, chroma, antialias, got width"),
        ("test_resnet[chroma=2]", r"chroma must be a number from 0 \(grey\) to 1, got 2"),
        ("test_resnet[antialias=true]", "antialias is for alexnet, squeezenet1_1, vgg16; .* aa_layer"),
        ("alexnet[antialias=2]", "antialias must be true or false, got 2"),
        ("alexnet[chroma=true]", "chroma must be a number from 0"),
        ("torchvision:resnet18[width=2]", "torchvision:resnet18 has the option nodes, got width"),
        ("torchvision:renet18[nodes=[a]]", "did you mean resnet18"),
        ("torchvision:resnet18", "resnet18 needs nodes, .*; at the top level there are conv1, bn1, .*layer4"),
        ("torchvision:resnet18[nodes=[layr1]]", "there is no node 'layr1'"),
        ("test_resnet[a=1]+alexnet", "has no option a"),
        ("alexnt", "unknown backbone 'alexnt'; did you mean .*alexnet"),
        ("squeezenet1_0", "unknown backbone 'squeezenet1_0'; did you mean .*squeezenet1_1"),
        ("resnet_50", "unknown backbone 'resnet_50'; did you mean .*resnet50"),
        ("test_resnet+alexnett", "unknown backbone 'alexnett'; did you mean alexnet"),
        ("%%%", "unknown backbone '%%%'; list_metrics.*list the names"),
        ("resnet18.nonsense", "no weights 'nonsense' for resnet18; its tags: .*a1_in1k.*tv_in1k"),
    ],
)
def test_a_wrong_name_is_refused_naming_what_there_is(name, message):
    with pytest.raises(ValueError, match=message) as caught:
        Backbone(name, None)
    assert "\n" not in str(caught.value)


def test_weights_that_do_not_fit_a_variant_are_refused_naming_them(tmp_path):
    save_file(timm.create_model("test_resnet").state_dict(), tmp_path / "w.safetensors")
    with pytest.raises(ValueError, match=r"other shapes of layer4"):
        Backbone("test_resnet[channels=[32,48,48,64]]", str(tmp_path / "w.safetensors"))


def test_a_network_that_the_user_registers_is_known_by_its_name():
    @timm.models.register_model
    def my_registered_resnet(pretrained=False, **kwargs):
        return timm.create_model("test_resnet", pretrained=pretrained, **kwargs)

    assert Backbone("my_registered_resnet", None).channels == Backbone("test_resnet", None).channels


# --- weights inside a larger model ---


@torch.no_grad()
def test_weights_are_found_below_a_prefix(tmp_path):
    torch.manual_seed(0)
    net = timm.create_model("test_resnet", features_only=True).eval()
    state = {f"model.encoder.{key}": value for key, value in net.state_dict().items()}
    torch.save({"state_dict": {**state, "model.head": torch.ones(3)}, "epoch": 3}, tmp_path / "last.ckpt")
    backbone = Backbone("test_resnet", str(tmp_path / "last.ckpt"), prefix="model.encoder.")
    x = images(1, 3, 64, 64)
    assert_maps(backbone, net((x - backbone.mean) / backbone.std), x)
    with pytest.raises(ValueError, match=r"begins with prefix='encoder\.'; names begin with model.encoder"):
        Backbone("test_resnet", str(tmp_path / "last.ckpt"), prefix="encoder.")
    with pytest.raises(ValueError, match="is for weights=path/to/file"):
        Backbone("alexnet", prefix="encoder.")


# --- the hub and folders of timm ---


def timm_folder(path):
    torch.manual_seed(0)
    net = timm.create_model("test_resnet", num_classes=3)
    path.mkdir()
    save_file(net.state_dict(), path / "model.safetensors")
    config = {"architecture": "test_resnet", "num_classes": 3, "pretrained_cfg": {"mean": [0.1] * 3}}
    (path / "config.json").write_text(json.dumps(config))
    return net.eval()


@torch.no_grad()
def test_a_folder_of_timm_is_a_network(tmp_path):
    pytest.importorskip("timm", "1.0.26")
    net = timm_folder(tmp_path / "mine")
    backbone = Backbone(f"local-dir:{tmp_path / 'mine'}")
    assert backbone.mean.flatten().tolist() == pytest.approx([0.1] * 3)
    x = images(1, 3, 64, 64)
    assert_maps(backbone, net.forward_intermediates((x - 0.1) / backbone.std)[1], x)
    assert backbone.source.startswith("hub:")
    with pytest.raises(FileNotFoundError, match="local-dir:/nowhere gave no network: Config file not found"):
        Backbone("local-dir:/nowhere")


@pytest.mark.parametrize("version", ["1.0.12", "1.0.25.dev0"])
def test_an_older_timm_that_reads_no_folders_or_pickles_in_them_is_refused(version, monkeypatch):
    monkeypatch.setattr("timm.__version__", version)
    monkeypatch.delattr("timm.create_model")
    with pytest.raises(
        ValueError, match=rf"local-dir:/x: local-dir: needs timm 1\.0\.26 or newer, this is {version}"
    ):
        Backbone("local-dir:/x")


@torch.no_grad()
def test_a_repository_of_timm_on_the_hub_is_a_network(tmp_path, monkeypatch):
    net = timm_folder(tmp_path / "mine")
    with hub(monkeypatch, tmp_path / "cache") as server:
        files = {path.name: path.read_bytes() for path in (tmp_path / "mine").iterdir()}
        server.repositories["me/mine"] = files
        backbone = Backbone("hf-hub:me/mine")
        x = images(1, 3, 64, 64)
        assert_maps(backbone, net.forward_intermediates((x - 0.1) / backbone.std)[1], x)
        with pytest.raises(FileNotFoundError, match="hf-hub:me/other gave no network"):
            Backbone("hf-hub:me/other")


# --- torchvision by its nodes ---


@torch.no_grad()
def test_nodes_of_a_torchvision_network_are_its_levels(tmp_path, monkeypatch):
    torch.manual_seed(0)
    model = torchvision.models.resnet18(weights=None).eval()
    save_file(model.state_dict(), tmp_path / "torchvision-resnet18.safetensors")
    monkeypatch.setenv("PERCEPTUAL_WEIGHTS", str(tmp_path))
    backbone = Backbone("torchvision:resnet18", options={"nodes": ["layer1", "layer3"]})
    assert (backbone.name, backbone.channels) == ("torchvision:resnet18[nodes=[layer1,layer3]]", [64, 256])
    x = images(1, 3, 64, 64)
    normalized = (x - backbone.mean) / backbone.std
    stem = model.maxpool(model.relu(model.bn1(model.conv1(normalized))))
    first = model.layer1(stem)
    assert_maps(backbone, [first, model.layer3(model.layer2(first))], x)
    last = Backbone(backbone.name, out_indices=[-1])
    assert last.channels == [256]


@pytest.mark.slow  # to fill so many weights
def test_a_transformer_of_torchvision_takes_its_own_size():
    with pytest.raises(ValueError, match="Wrong image height"):
        Backbone("torchvision:vit_b_32[nodes=[conv_proj]]", None)
    backbone = Backbone("torchvision:vit_b_32[nodes=[conv_proj]]", None, input_size=224)
    assert backbone.channels == [768]


# --- several as one ---


@torch.no_grad()
def test_a_joint_distance_is_the_sum_of_its_parts(monkeypatch):
    parts = ("test_resnet", "test_vit[img_size=96]")
    torch.manual_seed(0)
    joint = LPIPS(Backbone("+".join(parts), None))
    assert joint.backbone.name == "test_resnet+test_vit[img_size=96]"
    x, y = images(2, 3, 64, 64), images(2, 3, 64, 64, seed=1)
    expected = sum(LPIPS(Backbone.of(part))(x, y) for part in joint.backbone.net)
    torch.testing.assert_close(joint(x, y), expected)
    alone = [Backbone(part, None).channels for part in parts]
    assert joint.backbone.channels == [count for channels in alone for count in channels]


def test_a_joint_network_is_frozen_or_trained_as_one():
    frozen, trained = (Backbone("alexnet+test_resnet", None, trainable=t) for t in (False, True))
    assert frozen.frozen
    assert all(p.requires_grad for p in trained.parameters())
    assert trained.fingerprint() != frozen.fingerprint()
    with pytest.raises(ValueError, match="out_indices cannot be said of all"):
        Backbone("alexnet+test_resnet", None, out_indices=[1])


@torch.no_grad()
def test_a_joint_network_runs_in_the_precision_that_is_asked_for():
    backbone = Backbone("test_resnet+alexnet", None, precision="bf16-mixed")
    assert {m.dtype for m in backbone(images(1, 3, 64, 64))} == {torch.bfloat16}


@torch.no_grad()
@pytest.mark.parametrize("name", ["alexnet", "test_resnet", "alexnet+test_resnet"])
def test_chroma_0_sees_grey_images_and_1_leaves_them(name):
    x, y = images(3, 3, 64, 64), images(3, 3, 64, 64, seed=1)
    grey = [
        ((0.299 * i[:, 0] + 0.587 * i[:, 1] + 0.114 * i[:, 2])[:, None].repeat(1, 3, 1, 1)) for i in (x, y)
    ]
    plain, without, whole, half = (
        LPIPS("+".join(f"{one}{option}" for one in name.split("+")) + "-random")
        for option in ("", "[chroma=0]", "[chroma=1]", "[chroma=0.5]")
    )
    torch.testing.assert_close(without(x, y), plain(*grey), atol=1e-6, rtol=0)
    assert torch.equal(whole(x, y), plain(x, y))
    torch.testing.assert_close(half(x, y), plain(*((i + g) / 2 for i, g in zip((x, y), grey, strict=True))))
    assert not torch.allclose(half(x, y), plain(x, y))


@torch.no_grad()
def test_chroma_of_one_member_goes_along_when_it_is_saved(tmp_path):
    name = "test_resnet+test_resnet[chroma=0]"
    backbone = Backbone(name, None)
    assert backbone.name == name
    LPIPS(backbone, lin=None).save_pretrained(tmp_path)
    x, y = images(2, 3, 64, 64), images(2, 3, 64, 64, seed=1)
    assert torch.equal(LPIPS.from_pretrained(tmp_path)(x, y), LPIPS(backbone, lin=None)(x, y))
    assert name in (tmp_path / "README.md").read_text()
    mixed = [m for part in backbone.members for m in part(x)]
    assert not torch.equal(mixed[0], mixed[len(mixed) // 2])


@torch.no_grad()
@pytest.mark.parametrize("name", ["alexnet", "squeezenet1_1", "vgg16"])
def test_antialiased_strides_keep_weights_and_sizes_and_move_less(name):
    torch.manual_seed(0)
    plain = Backbone(name, None)
    torch.manual_seed(0)
    blurred = Backbone(name, None, options={"antialias": True})
    assert blurred.name == f"{name}[antialias=true]"
    assert blurred.fingerprint() == plain.fingerprint()
    x = images(4, 3, 83, 83)[..., 1:, 1:]
    expected, maps = plain(x), blurred(x)
    for ours, theirs in zip(maps, expected, strict=True):
        assert ours.shape[:2] == theirs.shape[:2]
        # a pool whose last window sticks out has one row more
        assert all(0 <= t - o <= 1 for o, t in zip(ours.shape[2:], theirs.shape[2:], strict=True))
    big = images(4, 3, 100, 100, seed=1)
    moved = [LPIPS(b, lin=None)(big[..., 2:82, 2:82], big[..., 3:83, 3:83]) for b in (plain, blurred)]
    assert (moved[1] < 0.8 * moved[0]).all()


@torch.no_grad()
def test_an_antialiased_pool_is_the_blurred_maximum():
    pool = nn.Sequential(nn.MaxPool2d(3, 2))
    antialias(pool)
    x = images(1, 2, 13, 13)
    windows = x.unfold(2, 3, 1).unfold(3, 3, 1).amax((4, 5)).numpy()
    padded = np.pad(windows, ((0, 0), (0, 0), (1, 1), (1, 1)), mode="reflect")
    blur = np.array([1, 2, 1]) / 4
    rows = sum(w * padded[:, :, i : i + 11] for i, w in enumerate(blur))
    both = sum(w * rows[:, :, :, i : i + 11] for i, w in enumerate(blur))
    np.testing.assert_allclose(pool(x).numpy(), both[:, :, ::2, ::2], rtol=1e-5)
