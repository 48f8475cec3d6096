import pytest
import timm
import torch
from networks import write_weights

from perceptual.distance.baselines import Baseline
from perceptual.evaluation import methods


def test_names_become_distances(tmp_path, monkeypatch):
    write_weights(tmp_path, "alexnet")
    monkeypatch.setenv("PERCEPTUAL_WEIGHTS", str(tmp_path))
    assert isinstance(methods.build("l2"), Baseline)
    uncalibrated, released = methods.build("alexnet"), methods.build("alexnet-v0.1")
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


def test_a_wildcard_is_every_timm_name_with_weights_that_fits():
    found = methods.expand(["l2", "timm:*convnext*", "l2", "convnext_tiny.fb_in1k"])
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
    ],
)
def test_families(method, family):
    assert methods.family(method) == family


@pytest.mark.parametrize(
    ("method", "message"),
    [
        ("alexnett", "unknown method 'alexnett'; .*did you mean alexnet"),
        ("ssimm", "did you mean ssim"),
        ("vgg16.nonsense", "no weights 'nonsense' for vgg16"),
        ("alexnett-random", "unknown method 'alexnett-random'; .*did you mean alexnet"),
        ("resnet18-v0.1", "no calibration 'v0.1' was published for 'resnet18'"),
    ],
)
def test_what_is_no_method_is_refused(method, message):
    with pytest.raises(ValueError, match=message):
        methods.build(method)


def test_a_checkpoint_that_is_not_there_is_refused():
    with pytest.raises(FileNotFoundError, match=r"nowhere\.ckpt"):
        methods.build("nowhere.ckpt")
