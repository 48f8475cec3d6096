import sys
from pathlib import Path

import pytest
import timm
import torch
from torch import nn

from perceptual import LPIPS
from perceptual.features import custom
from perceptual.features.backbone import Backbone
from perceptual.features.build import build_backbone


class Pyramid(nn.Module):
    """Two levels, each of its own convolution."""

    def __init__(self, width=8):
        super().__init__()
        self.first, self.second = nn.Conv2d(3, width, 3), nn.Conv2d(width, 2 * width, 3, stride=2)

    def forward(self, images):
        first = self.first(images).relu()
        return [first, self.second(first).relu()]


class Broken(nn.Module):
    def __init__(self, gives, channels=None):
        super().__init__()
        self.gives = gives
        if channels:
            self.channels = channels

    def forward(self, images):
        return self.gives(images)


@pytest.fixture
def nets(tmp_path, monkeypatch):
    """Call with source code: the module `my_nets` of that code can be imported."""

    def write(code):
        (tmp_path / "my_nets.py").write_text(code)
        monkeypatch.chdir(tmp_path)
        monkeypatch.setattr(sys, "path", [*sys.path])
        monkeypatch.delitem(sys.modules, "my_nets", raising=False)
        monkeypatch.setattr(custom, "_imported", set())

    return write


MY_NETS = """
from os import system
from torch import nn
class MyNet(nn.Module):
    def __init__(self, width=4):
        super().__init__()
        self.layer = nn.Conv2d(3, width, 1)
    def forward(self, images):
        return [self.layer(images)]
def number(): return 3
"""


@torch.no_grad()
def test_any_module_that_gives_maps_is_a_backbone():
    torch.manual_seed(0)
    network = Pyramid()
    distance = LPIPS(network)
    x, y = torch.rand(2, 2, 3, 20, 24)
    expected = 0
    for u, v in zip(network(x), network(y), strict=True):
        u, v = u / (u.norm(dim=1, keepdim=True) + 1e-10), v / (v.norm(dim=1, keepdim=True) + 1e-10)
        expected = expected + (u - v).square().sum(1).mean((1, 2))
    torch.testing.assert_close(distance(x, y), expected)
    assert (distance.backbone.name, distance.backbone.channels) == ("Pyramid", [8, 16])
    assert distance.backbone.net is network
    assert not any(p.requires_grad for p in network.parameters())
    assert isinstance(network, custom.FeatureNetwork)


def test_what_a_module_says_of_itself_is_kept():
    network = Pyramid()
    network.name, network.mean, network.std = "mine", [0.5] * 3, torch.full((1, 3, 1, 1), 0.25)
    backbone = Backbone.of(network, trainable=True)
    assert backbone.name == "mine"
    assert backbone.mean.flatten().tolist() == [0.5] * 3
    x = torch.rand(1, 3, 16, 16)
    torch.testing.assert_close(backbone(x), network(x))  # it normalises itself: not once more
    assert all(p.requires_grad for p in network.parameters())
    assert Backbone.of(backbone) is backbone


@pytest.mark.parametrize(
    ("network", "message"),
    [
        (
            Broken(lambda x: x),
            r"Broken gives one tensor \(1, 3, 64, 64\) of float32; a feature network gives",
        ),
        (Broken(lambda x: []), "gives an empty list"),
        (Broken(lambda x: {"a": x}), "gives a dict"),
        (Broken(lambda x: [x.mean(3)]), r"gives one tensor \(1, 3, 64\) of float32 as its map 0"),
        (Broken(lambda x: [x, x.int()]), "of int32 as its map 1"),
        (Broken(lambda x: [x.permute(0, 2, 3, 1)]), "second dimension changes with the size"),
        (Broken(lambda x: [x], channels=[4]), r"states channels=\[4\], but gives maps of \[3\] channels"),
        (
            Broken(lambda x: 1 / 0),
            r"image \(1, 3, 64, 64\): ZeroDivisionError: division by zero \(.*test_custom.py, line \d+\)",
        ),
    ],
)
def test_what_breaks_the_contract_is_one_line(network, message):
    with pytest.raises(ValueError, match=message) as caught:
        LPIPS(network)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ({"_target_": "MyNet"}, "must name a module and what is in it"),
        ({"_target_": "my_netz.MyNet"}, "the module my_netz cannot be imported: ModuleNotFoundError"),
        ({"_target_": "my_nets.MyNett"}, "my_nets has no MyNett; did you mean MyNet?"),
        ({"_target_": "my_nets.MyNet", "widht": 3}, "unexpected keyword argument 'widht'"),
        ({"_target_": "my_nets.number"}, "gives a int, not a torch.nn.Module"),
    ],
)
def test_a_wrong_target_is_one_line(nets, spec, message):
    nets(MY_NETS)
    with pytest.raises(ValueError, match=message):
        custom.build(spec, trusted=True)


def test_a_module_with_an_error_is_refused_naming_the_line(nets):
    nets("x = 1\ndef broken(:\n")
    with pytest.raises(ValueError, match=r"my_nets cannot be imported: SyntaxError: .*\(line 2\)"):
        custom.import_modules(["my_nets"])


def test_no_file_imports_a_module_or_calls_what_is_not_its_own(nets, tmp_path):
    nets(MY_NETS + f"import pathlib\npathlib.Path({str(tmp_path / 'ran')!r}).touch()\n")
    spec = {"_target_": "my_nets.MyNet", "width": 3}
    with pytest.raises(ValueError, match=r"no file may import: add imports=\[my_nets\], or pass"):
        custom.build(spec, trusted=False)
    with pytest.raises(ValueError, match="no file may import"):
        custom.build({"_target_": "os.system", "command": f"touch {tmp_path / 'ran'}"}, trusted=False)
    assert not (tmp_path / "ran").exists()
    custom.import_modules(["my_nets"])
    assert custom.build(spec, trusted=False).layer.out_channels == 3
    with pytest.raises(ValueError, match="which my_nets only imports: no file may call it"):
        custom.build({"_target_": "my_nets.system", "command": "true"}, trusted=False)


BROKEN = """
from timm.models import is_model, register_model

def at_fault(pretrained=False, **kwargs):
    raise KIND("width must be
a tensor")

def no_levels(pretrained=False, **kwargs):
    from torch import nn
    return nn.Identity()

class Net:
    def __init__(self, width=1):
        at_fault()
"""


@pytest.mark.parametrize("kind", ["KeyError", "TypeError", "RuntimeError", "OSError", "AssertionError"])
@pytest.mark.parametrize("options", [{}, {"stem_width": 3}])
@pytest.mark.parametrize("way", ["registered", "named"])
def test_an_error_of_the_users_network_is_one_line_with_its_place(way, options, kind, tmp_path, monkeypatch):
    module = f"broken_{kind.lower()}_{way}_{len(options)}"
    code = BROKEN.replace("KIND", kind).replace("be\na", "be\\na")
    Path(tmp_path, f"{module}.py").write_text(code)
    monkeypatch.chdir(tmp_path)
    custom.import_modules([module])
    found = sys.modules[module]
    if way == "registered":
        monkeypatch.setattr(found.at_fault, "__name__", module)
        timm.models.register_model(found.at_fault)
        spec = {"name": module, "weights": None, "options": options}
    else:
        spec = {"_target_": f"{module}.Net"} | ({"width": 3} if options else {})
    line = code.splitlines().index(next(text for text in code.splitlines() if "raise" in text)) + 1
    with pytest.raises(ValueError, match=f"{kind}: .*width must be") as raised:
        build_backbone(spec)
    assert f"({module}.py, line {line})" in str(raised.value)
    assert "\n" not in str(raised.value)


def test_a_registered_network_without_levels_is_refused(tmp_path, monkeypatch):
    Path(tmp_path, "broken_levels.py").write_text(BROKEN.replace("be\na", "be"))
    monkeypatch.chdir(tmp_path)
    custom.import_modules(["broken_levels"])
    timm.models.register_model(sys.modules["broken_levels"].no_levels)
    with pytest.raises(ValueError, match="no_levels does not say its levels in feature_info"):
        build_backbone({"name": "no_levels", "weights": None})


def test_a_folder_of_transformers_is_not_a_model_of_timm(tmp_path):
    pytest.importorskip("timm", "1.0.26")
    (tmp_path / "config.json").write_text('{"model_type": "vit", "architectures": ["ViTModel"]}')
    with pytest.raises(ValueError, match=r"is not a model of timm: its config\.json names no architecture"):
        build_backbone({"name": f"local-dir:{tmp_path}"})


def test_members_and_nodes_become_parts_of_the_name():
    joint = build_backbone({"members": ["alexnet", "test_resnet"], "weights": None})
    assert joint.name == "alexnet+test_resnet"
    nodes = build_backbone({"name": "torchvision:resnet18", "nodes": ["layer1"], "weights": None})
    assert nodes.name == "torchvision:resnet18[nodes=[layer1]]"


def test_a_target_has_its_arguments_in_its_name(nets):
    nets(MY_NETS)
    backbone = build_backbone({"_target_": "my_nets.MyNet", "width": 6, "input_size": 32})
    assert (backbone.name, backbone.channels) == ("my_nets.MyNet[width=6]", [6])
    assert backbone(torch.rand(1, 3, 64, 64))[0].shape == (1, 6, 32, 32)
    again = build_backbone(backbone.info.spec, trusted=False)
    assert again.name == backbone.name


def test_a_target_takes_weights_of_a_file_below_a_prefix(nets, tmp_path):
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
