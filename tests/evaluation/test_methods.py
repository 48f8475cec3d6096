import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import timm
import torch
from networks import write_weights
from PIL import Image

from perceptual import PerceptualDistance, create_metric, list_metrics
from perceptual.distance.baselines import BASELINES, Baseline
from perceptual.distance.lpips import LPIPS
from perceptual.evaluation import methods
from perceptual.evaluation.methods import identity
from perceptual.names import Method


def test_names_become_distances(tmp_path, monkeypatch):
    write_weights(tmp_path, "alexnet")
    monkeypatch.setenv("PERCEPTUAL_WEIGHTS", str(tmp_path))
    assert isinstance(methods.build("l2"), Baseline)
    uncalibrated, released = methods.build("alexnet-uncalibrated"), methods.build("alex")
    x, y = torch.rand(2, 2, 3, 64, 64)
    for name in ("alexnet", "alexnet-v0.1", "alex"):
        assert torch.equal(methods.build(name)(x, y), LPIPS("alexnet")(x, y))
    assert all((vector == 1).all() for vector in uncalibrated.lin)
    assert not any((vector == 1).all() for vector in released.lin)


def test_random_weights_are_the_same_each_time_and_disturb_nothing():
    first = methods.build("alexnet-random").backbone
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    second = methods.build("alexnet-random").backbone
    assert torch.equal(torch.rand(3), expected)
    assert first.fingerprint() == second.fingerprint()
    assert first.source == "random (seed 0)"
    assert methods.build("test_resnet-random").backbone.source == "random (seed 0)"


def photographs(folder, seed, count=24):
    rng = np.random.default_rng(seed)
    folder.mkdir()
    for number in range(count):
        coarse = Image.fromarray(rng.integers(0, 256, (9, 9, 3), np.uint8))
        coarse.resize((96, 80), Image.Resampling.BICUBIC).save(folder / f"{number}.png")


def test_weights_of_named_photographs(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(methods, "KMEANS_IMAGES", 48)  # a tenth of the time
    photographs(tmp_path / "mine", 0)
    method = "test_resnet-kmeans:mine"
    ours, packaged = methods.build(method), methods.build("test_resnet-kmeans")
    assert ours.backbone.fingerprint() == methods.build(method).backbone.fingerprint()
    assert ours.backbone.fingerprint() != packaged.backbone.fingerprint()
    assert all((vector == 1).all() for vector in ours.lin)
    read = Method.parse(method)
    assert (read.family, str(read)) == ("resnet", method)
    assert not Method.parse("test_resnet-kmeans:some/where/mine").path
    before = identity(read)
    assert re.fullmatch(re.escape(method) + "@[0-9a-f]{8}", before)
    assert identity(read) == before
    photographs(tmp_path / "others", 1)
    shutil.copy("others/3.png", "mine/3.png")
    assert identity(read) != before
    assert identity(Method.parse("test_resnet-kmeans")) == "test_resnet-kmeans"


@pytest.mark.parametrize(
    ("method", "message"),
    [
        ("test_resnet-kmeans:nowhere", "no folder nowhere"),
        ("test_resnet-kmeans:empty", "no photographs in empty"),
        ("test_resnet-kmeans:text", r"x\.png"),
        ("test_resnett-kmeans:text", "did you mean test_resnet"),
        ("l2-kmeans:text", "unknown backbone 'l2'"),
    ],
)
def test_photographs_that_cannot_be_used(method, message, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("empty").mkdir()
    Path("text").mkdir()
    Path("text/x.png").write_text("no image")
    assert identity(Method.parse(method)) == method  # evaluation gets as far as building it
    with pytest.raises((ValueError, OSError), match=message):
        methods.build(method)


def test_a_wildcard_is_every_timm_name_with_weights_that_fits():
    said = ["l2", "timm:*convnext*", "l2", "convnext_tiny.fb_in1k"]
    found = [method.text for method in methods.expand(said)]
    assert found[0] == "l2"
    assert sorted(found[1:]) == sorted(timm.list_pretrained("*convnext*"))
    assert all("convnext" in name for name in found[1:])
    with pytest.raises(ValueError, match=r"no timm model with weights fits 'timm:\*nothing\*'"):
        methods.expand(["timm:*nothing*"])


@pytest.mark.parametrize(
    ("method", "family"),
    [
        ("ssim", "classic"),
        ("alexnet-v0.1", "alexnet"),
        ("squeezenet1_1", "squeezenet"),
        ("vgg16.tv_in1k", "vgg"),
        ("resnet50-v0.1", "resnet"),
        ("alexnet-random", "alexnet"),
        ("runs/some/last.ckpt", "trained"),
        ("owner/name", "trained"),
        ("hf-hub:timm/resnet18.a1_in1k", "resnet"),
        ("torchvision:efficientnet_b0", "efficientnet"),
        ("alex+vgg", "alexnet+vgg"),
        ("nonsense[", "classic"),
    ],
)
def test_families(method, family):
    assert Method.parse(method).family == family


@pytest.mark.parametrize(
    ("method", "message"),
    [
        ("alexnett", "unknown method 'alexnett'; did you mean alexnet"),
        ("ssimm", "did you mean ssim"),
        ("vgg16.nonsense", "no weights 'nonsense' for vgg16"),
        ("alexnett-random", "unknown method 'alexnett-random'; did you mean alexnet"),
        ("alexnett-v0.1", "unknown method 'alexnett-v0.1'; did you mean alexnet"),
        ("alexnet-uncalibratd", "did you mean alexnet-uncalibrated"),
        ("convnext_tin", "did you mean convnext_tiny"),
        ("alexnet+resnett", "unknown backbone 'resnett'; did you mean resnet"),
        ("alexnet[", "'alexnet\\[' is not a name of a network"),
        ("zzzzqq", "list_metrics\\(\\) lists the names"),
        ("resnet18-v0.1", "no calibration 'v0.1' was published for 'resnet18'"),
    ],
)
def test_what_is_no_method_is_refused(method, message):
    with pytest.raises(ValueError, match=message):
        methods.build(method)


def test_a_checkpoint_that_is_not_there_is_refused():
    with pytest.raises(FileNotFoundError, match=r"nowhere\.ckpt"):
        methods.build("nowhere.ckpt")


@pytest.mark.parametrize(
    ("method", "name"),
    [
        ("alexnet", "alexnet-v0.1"),
        ("alex", "alexnet-v0.1"),
        ("vgg-v0.0", "vgg16-v0.0"),
        ("squeeze-uncalibrated", "squeezenet1_1-uncalibrated"),
        ("resnet18", "resnet18"),
        ("resnet18-uncalibrated", "resnet18"),
        ("resnet18-random", "resnet18-random"),
        ("ssim", "ssim"),
        ("runs/alexnet/last.ckpt", "runs/alexnet/last.ckpt"),
        ("nonsense[", "nonsense["),
    ],
)
def test_names_under_which_results_are_stored(method, name):
    assert str(Method.parse(method)) == str(Method.parse(name)) == name


def test_metrics_are_created_by_name(tmp_path, monkeypatch):
    write_weights(tmp_path, "alexnet")
    monkeypatch.setenv("PERCEPTUAL_WEIGHTS", str(tmp_path))
    x, y = torch.rand(2, 3, 3, 64, 64)
    metric = create_metric("alex", "none")
    assert isinstance(metric, PerceptualDistance)
    torch.testing.assert_close(metric(x, y), LPIPS("alexnet")(x, y))
    torch.testing.assert_close(create_metric("ssim")(x, y), BASELINES["ssim"]()(x, y).mean())
    half = create_metric("alexnet", precision="bf16-mixed")
    assert half.distance.backbone.precision == "bf16-mixed"
    assert half(x, y) != metric(x, y).mean()
    with pytest.raises(ValueError, match="reduction"):
        create_metric("l2", "median")


def test_metrics_are_listed_by_pattern():
    every = list_metrics()
    assert len(every) == len(set(every))
    assert set(BASELINES) | set(timm.list_pretrained()) | {"alexnet", "squeezenet1_1", "resnet50"} <= set(
        every
    )
    assert list_metrics("alexnet*") == ["alexnet", "alexnet-v0.0", "alexnet-v0.1", "alexnet-uncalibrated"]
    assert list_metrics("*ssim*") == [name for name in BASELINES if "ssim" in name]
    assert "convnext_tiny.fb_in1k" in list_metrics("*next*")
    assert list_metrics("nothing*") == []
    assert all(str(Method.parse(name)) in every for name in every)


def test_importing_the_package_imports_none_of_what_takes_seconds():
    code = (
        "import sys, perceptual; dir(perceptual); print(sorted({'torch', 'timm', 'torchmetrics', "
        "'pytorch_lightning', 'piq', 'torchvision', 'rich'} & set(sys.modules)))"
    )
    shown = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert shown == "[]\n"
