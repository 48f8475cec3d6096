"""Calibrations: published with the package, in files, and by the names of distances."""

import warnings

import lpips
import pytest
import torch
from networks import NETS, write_weights
from safetensors.torch import load_file, save_file

from perceptual.distance import calibration as calibrations
from perceptual.distance.lpips import LPIPS
from perceptual.evaluation.provenance import describe
from perceptual.features.backbone import Backbone


@pytest.fixture(scope="module")
def backbone():
    return Backbone("alexnet", None)


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


@pytest.mark.parametrize("name", ["alexnett", "vggg", "alexnet-v01", "alexnet-uncalibrate"])
def test_a_misspelt_name_is_refused_with_the_nearest_before_any_calibration(name):
    with pytest.raises(ValueError, match=f"unknown backbone '{name}'; did you mean .*(alex|vgg)"):
        LPIPS(name, "nowhere/lin.safetensors")


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
def test_calibrations_are_read_from_files(backbone, tmp_path, suffix):
    vectors = [torch.rand(c) for c in backbone.channels]
    path = tmp_path / f"lin{suffix}"
    if suffix == ".pth":
        torch.save({f"lin{i}.model.1.weight": v.view(1, -1, 1, 1) for i, v in enumerate(vectors)}, path)
    else:
        save_file({f"lin.{i}": v for i, v in enumerate(vectors)}, path)
    for given in (path, str(path)):
        distance = LPIPS(backbone, given)
        assert all(torch.equal(a, b) for a, b in zip(distance.lin, vectors, strict=True))


def test_the_packages_own_file_is_its_release(backbone):
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


def test_a_calibration_of_other_channels_is_refused(backbone, tmp_path):
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
def test_a_file_that_is_no_calibration_is_refused(backbone, tmp_path, state):
    save_file(state, tmp_path / "w.safetensors")
    with pytest.raises(ValueError, match=r"w\.safetensors' is not a calibration"):
        LPIPS(backbone, tmp_path / "w.safetensors")


def test_a_calibration_that_is_not_there_is_named(backbone, tmp_path):
    with pytest.raises(FileNotFoundError, match=r"absent\.safetensors"):
        LPIPS(backbone, tmp_path / "absent.safetensors")


def test_v00_is_refused_on_a_backbone_normalised_otherwise(backbone):
    with pytest.raises(ValueError, match=r"made with mean=\[0\.5, 0\.5, 0\.5\], but the backbone normalises"):
        LPIPS(backbone, "v0.0")
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
