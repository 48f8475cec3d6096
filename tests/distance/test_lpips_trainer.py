"""What the Trainer of the `lpips` package writes is a method, and a start for training; and lin goes back."""

import sys

import lpips
import pytest
import torch
from networks import NETS, patch_trunk

from perceptual import LPIPS, Backbone
from perceptual.cli import app as command
from perceptual.evaluation.methods import load
from perceptual.training.module import PerceptualRanker


@pytest.fixture(params=["alexnet", pytest.param("squeezenet1_1", marks=pytest.mark.slow)])
def trained(request, tmp_path, monkeypatch):
    """A network that the package's Trainer has tuned a step, its file, and its name here."""
    name = request.param
    patch_trunk(name, monkeypatch)
    trainer = lpips.Trainer()
    trainer.initialize(net=NETS[name], pnet_rand=True, pnet_tune=True, use_gpu=False, is_train=True)
    torch.manual_seed(0)
    for layer in trainer.net.lins:
        layer.model[1].weight.data.uniform_(0, 1)
    trainer.save(str(tmp_path), "latest")
    return trainer.net.eval(), tmp_path / "latest_net_.pth", name


def test_a_trained_network_is_a_method(trained, tmp_path, monkeypatch):
    theirs, path, name = trained
    x, y = torch.rand(2, 2, 3, 64, 64)
    with torch.no_grad():
        expected = theirs(2 * x - 1, 2 * y - 1).flatten()
        distance = load(str(path)).distance
        torch.testing.assert_close(distance(x, y), expected, atol=1e-5, rtol=1e-4)
        described = {"name": name, "weights": str(path)}
        start = PerceptualRanker(described, "tune", lin_init="file").eval()
        torch.testing.assert_close(start.distance(x, y), expected, atol=1e-5, rtol=1e-4)

    monkeypatch.setattr(sys, "argv", ["perceptual", "export", str(path), str(tmp_path / "out"), "--lpips"])
    with pytest.raises(SystemExit) as stopped:
        command()
    assert not stopped.value.code
    again = lpips.LPIPS(
        net=NETS[name], pretrained=True, model_path=str(tmp_path / "out/lpips.pth"), verbose=False
    )
    for ours, layer in zip(distance.lin, again.lins, strict=True):
        assert torch.equal(ours, layer.model[1].weight.flatten())


def test_what_the_package_does_not_have_is_refused(tmp_path, monkeypatch):
    LPIPS(Backbone("test_resnet", weights=None)).save_pretrained(tmp_path / "saved")
    words = ["perceptual", "export", str(tmp_path / "saved"), str(tmp_path / "out"), "--lpips"]
    monkeypatch.setattr(sys, "argv", words)
    with pytest.raises(SystemExit, match="the lpips package has alexnet, squeezenet1_1, vgg16 at all"):
        command()
    torch.save({"lin0.model.1.weight": torch.ones(1, 7, 1, 1)}, tmp_path / "other.pth")
    with pytest.raises(ValueError, match=r"has levels of \[7\] channels, which no network of lpips has"):
        load(str(tmp_path / "other.pth"))
