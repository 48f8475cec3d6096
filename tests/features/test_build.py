import pytest
import torch
from test_custom import MY_NETS, Pyramid, nets  # noqa: F401  (a fixture)
from torch import nn

from perceptual.features.build import build_backbone


def test_members_and_nodes_become_parts_of_the_name():
    joint = build_backbone({"members": ["alexnet", "test_resnet"], "weights": None})
    assert joint.name == "alexnet+test_resnet"
    nodes = build_backbone({"name": "torchvision:resnet18", "nodes": ["layer1"], "weights": None})
    assert nodes.name == "torchvision:resnet18[nodes=[layer1]]"


def test_a_target_has_its_arguments_in_its_name(nets):  # noqa: F811
    nets(MY_NETS)
    backbone = build_backbone({"_target_": "my_nets.MyNet", "width": 6, "input_size": 32})
    assert (backbone.name, backbone.channels) == ("my_nets.MyNet[width=6]", [6])
    assert backbone(torch.rand(1, 3, 64, 64))[0].shape == (1, 6, 32, 32)
    again = build_backbone(backbone.info.spec, trusted=False)
    assert again.name == backbone.name


def test_a_target_takes_weights_of_a_file_below_a_prefix(nets, tmp_path):  # noqa: F811
    nets(MY_NETS)
    torch.manual_seed(0)
    layer = nn.Conv2d(3, 4, 1)
    state = {f"encoder.layer.{key}": value for key, value in layer.state_dict().items()}
    torch.save({"state_dict": state}, tmp_path / "mine.ckpt")
    spec = {"_target_": "my_nets.MyNet", "weights": str(tmp_path / "mine.ckpt"), "prefix": "encoder."}
    backbone = build_backbone(spec)
    torch.testing.assert_close(backbone.net.layer.weight, layer.weight)
    assert backbone.source.endswith("mine.ckpt")
    with pytest.raises(ValueError, match=r"other shapes of layer\.weight"):
        build_backbone({**spec, "width": 5})


def test_scratch_takes_no_learned_weights():
    built = build_backbone(Pyramid(), trainable=True, scratch=True)
    assert built.info.spec["weights"] is None
    assert build_backbone("test_resnet", scratch=True).source == "random"
