import itertools
import sys

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from networks import write_weights
from timm.layers import Conv2dSame
from timm.layers.pool2d_same import MaxPool2dSame

from perceptual import LPIPS, Backbone, cli
from perceptual.publish.onnx import program, same_padding, to_onnx


def a_metric(name, **arguments):
    torch.manual_seed(0)
    metric = LPIPS(Backbone(name, weights=None), lin=None, **arguments)
    for vector in metric.lin:
        vector.data = torch.rand_like(vector)
    return metric


def pairs(*shape, seed=0, dtype=torch.float32):
    generator = torch.Generator().manual_seed(seed)
    x, y = torch.rand(2, *shape, generator=generator)
    return (x, y) if dtype == torch.float32 else ((255 * x).to(dtype), (255 * y).to(dtype))


def run_onnx(path, x, y):
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    (distance,) = session.run(None, {"x": x.numpy(), "y": y.numpy()})
    return torch.from_numpy(distance)


SIZES = [(1, 64, 64), (3, 80, 112), (2, 71, 65)]


def check(path, metric, *shapes, dtype=torch.float32):
    for shape in shapes:
        x, y = pairs(*shape, dtype=dtype)
        torch.testing.assert_close(run_onnx(path, x, y), metric(x, y), atol=1e-4, rtol=1e-4)


# an export takes PyTorch some ten seconds
slow = pytest.mark.slow
ANY = [(count, 3, *side) for count, *side in SIZES]
EFFICIENTNET = [(64, 64), (224, 160), (97, 131), (63, 66), (33, 250)]
WAYS = ({"spatial": True}, {"form": "pooled"}, {"value_range": (-1, 1)}, {"uint8": True})
OF_ONE_SIZE = ("test_vit", "swin_tiny_patch4_window7_224", "vit_tiny_patch16_224")


@slow
@pytest.mark.parametrize(
    ("name", "arguments", "size", "shapes"),
    [
        *((name, {}, None, ANY) for name in ("test_resnet", "squeezenet1_1")),
        ("tf_efficientnet_lite0", {}, None, [(n, 3, *size) for n, size in enumerate(EFFICIENTNET, 1)]),
        *((name, {}, (64, 64), [(1, 3, 64, 64), (3, 3, 64, 64)]) for name in OF_ONE_SIZE),
        *(
            ("test_resnet", arguments, None, [(2, 3, 50, 70), (1, 3, 64, 64)])
            for arguments in (
                {"spatial": True},
                {"form": "pooled"},
                {"value_range": (-1, 1)},
                {"uint8": True},
            )
        ),
    ],
)
def test_onnx_gives_the_same_distances_of_any_batch(tmp_path, name, arguments, size, shapes):
    uint8 = arguments.get("uint8", False)
    metric = a_metric(name, **{key: value for key, value in arguments.items() if key != "uint8"})
    to_onnx(metric, tmp_path / "model.onnx", size=size, uint8=uint8)
    check(tmp_path / "model.onnx", metric, *shapes, dtype=torch.uint8 if uint8 else torch.float32)
    if shapes is ANY:
        x, _ = pairs(2, 3, 64, 64)
        x[1] = 0
        assert np.array_equal(run_onnx(tmp_path / "model.onnx", x, x), [0, 0])


@pytest.mark.slow
def test_onnx_of_padding_that_depends_on_the_size(tmp_path):
    metric = a_metric("test_resnet")
    net = metric.backbone.net
    net.conv1[0] = Conv2dSame(3, 16, 3, stride=(2, 4))  # of which one is larger than the kernel
    net.maxpool = MaxPool2dSame(3, 2)
    to_onnx(metric, tmp_path / "model.onnx")
    sizes = [(64, 64), (81, 112), (71, 90), (98, 101)]
    check(tmp_path / "model.onnx", metric, *((count, 3, *size) for count, size in enumerate(sizes, 1)))


def test_same_padding_is_what_the_last_window_lacks():
    for side, kernel, stride, dilation in itertools.product(range(1, 40), (1, 2, 3, 5), (1, 2, 3, 4), (1, 2)):
        last = range(0, side, stride)[-1] + dilation * (kernel - 1)
        assert same_padding(side, kernel, stride, dilation) == max(last - (side - 1), 0)


@slow
def test_onnx_is_one_file_that_says_what_it_takes(tmp_path):
    metric = a_metric("test_resnet", value_range=(-1, 1))
    to_onnx(metric, tmp_path / "model.onnx", size=(48, 64))
    to_onnx(metric, tmp_path / "bytes.onnx", uint8=True)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["bytes.onnx", "model.onnx"]
    said = {p.key: p.value for p in onnx.load(tmp_path / "model.onnx").metadata_props}
    assert said["input"] == "x, y: RGB images (float32) of shape (N, 3, 48, 64), black -1, white 1"
    assert said["output"] == "distance: float32 (N), larger: more different"
    assert said["weights_sha256"] == metric.backbone.fingerprint()
    said = {p.key: p.value for p in onnx.load(tmp_path / "bytes.onnx").metadata_props}
    assert said["input"] == "x, y: RGB images (uint8) of shape (N, 3, H, W), black 0, white 255"


@slow
@pytest.mark.parametrize("name", ["squeezenet1_1", "tf_efficientnet_lite0", "test_resnet"])
def test_an_exported_program_gives_the_same_distances(tmp_path, name):
    metric = a_metric(name)
    torch.export.save(program(metric), tmp_path / "metric.pt2")
    loaded = torch.export.load(tmp_path / "metric.pt2").module()
    for count, *side in SIZES:
        x, y = pairs(count, 3, *side)
        torch.testing.assert_close(loaded(x, y), metric(x, y), atol=1e-6, rtol=1e-5)


def test_an_older_pytorch_is_refused_by_name(monkeypatch):
    monkeypatch.delattr(torch.export.Dim, "DYNAMIC", raising=False)
    with pytest.raises(ValueError, match=r"needs torch 2\.6 or newer, this is 2\."):
        program(a_metric("test_resnet"))


def test_what_cannot_be_exported_is_refused(tmp_path, monkeypatch):
    pytest.importorskip("torch", "2.6")
    with pytest.raises(ValueError, match="images of 2×2 pixels are too small for squeezenet1_1"):
        program(a_metric("squeezenet1_1"), size=(2, 2))
    with monkeypatch.context() as patched:
        patched.setitem(sys.modules, "onnxscript", None)
        with pytest.raises(ValueError, match=r"pip install -e '.\[onnx\]'"):
            to_onnx(a_metric("test_resnet"), tmp_path / "model.onnx")

    def export(*_, **__):
        raise RuntimeError("a guard\nof many lines")

    monkeypatch.setattr(torch.export, "export", export)
    with pytest.raises(ValueError, match=r"^test_resnet cannot .* of any size; give one: .*--size 224$"):
        program(a_metric("test_resnet"))
    with pytest.raises(ValueError, match=r"^test_resnet cannot .* for images of 64×96 \(a guard\)$"):
        program(a_metric("test_resnet"), size=(64, 96))


def test_a_network_of_windows_needs_a_size():
    pytest.importorskip("torch", "2.14")  # 2.6 exports a Swin of any size
    with pytest.raises(
        ValueError, match=r"swin_tiny_patch4_window7_224 cannot .* of any size; give one: .*--size 224"
    ):
        program(a_metric("swin_tiny_patch4_window7_224"))


def test_versions_that_cannot_write_it_are_said_in_one_line(tmp_path, monkeypatch):
    pytest.importorskip("torch", "2.6")

    def export(*_, **__):
        raise torch.onnx.OnnxExporterError("Failed\nNext steps: many") from AttributeError("no dtype\nat all")

    monkeypatch.setattr(torch.onnx, "export", export)
    says = (
        r"^test_resnet: torch 2\.\S+ with onnxscript \S+ cannot write it \(no dtype\); a newer PyTorch may$"
    )
    with pytest.raises(ValueError, match=says):
        to_onnx(a_metric("test_resnet"), tmp_path / "model.onnx")


@slow
def test_the_command_writes_onnx_into_the_folder(tmp_path, monkeypatch, capsys):
    write_weights(tmp_path, "alexnet")
    monkeypatch.setenv("PERCEPTUAL_WEIGHTS", str(tmp_path))
    folder = tmp_path / "out"
    monkeypatch.setattr(sys, "argv", ["perceptual", "export", "alexnet-v0.1", str(folder), "--onnx"])
    with pytest.raises(SystemExit) as end:
        cli.main()
    assert not end.value.code, end.value.code
    assert {path.name for path in folder.iterdir()} == {
        "README.md",
        "config.json",
        "model.onnx",
        "model.safetensors",
    }
    x, y = pairs(2, 3, 64, 64)
    torch.testing.assert_close(
        run_onnx(folder / "model.onnx", x, y), LPIPS("alexnet")(x, y), atol=1e-4, rtol=1e-4
    )
