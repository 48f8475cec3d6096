import pickle

import pytest
import skimage.data
import timm
import torch
from safetensors.torch import save_file
from torch import nn

from perceptual.features.weights import (
    assign,
    check_names,
    check_shapes,
    find_local,
    fingerprint,
    lives_in_state_dict,
    plain,
    read,
)


def state(value):
    return {"conv.weight": torch.full((2, 3), float(value))}


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.setenv("PERCEPTUAL_WEIGHTS", str(tmp_path))
    return tmp_path


def test_the_full_name_is_found_before_the_part_before_the_dot(folder):
    save_file(state(1), folder / "resnet18.safetensors")
    assert find_local("resnet18.a1_in1k", "default").state["conv.weight"][0, 0] == 1
    save_file(state(2), folder / "resnet18.a1_in1k.safetensors")
    found = find_local("resnet18.a1_in1k", "default")
    assert found.state["conv.weight"][0, 0] == 2
    assert found.source == f"file:{folder / 'resnet18.a1_in1k.safetensors'}"
    assert find_local("resnet18", "default").state["conv.weight"][0, 0] == 1


def test_a_tagged_file_does_not_serve_the_bare_name_or_another_tag(folder):
    save_file(state(1), folder / "resnet18.a1_in1k.safetensors")
    assert find_local("resnet18", "default") is None
    assert find_local("resnet18.tv_in1k", "default") is None


def test_a_given_file_is_taken_before_the_folder(folder):
    save_file(state(1), folder / "resnet18.safetensors")
    save_file(state(2), folder / "other.safetensors")
    assert find_local("resnet18", folder / "other.safetensors").state["conv.weight"][0, 0] == 2


def test_the_folder_is_searched_before_the_installed_package(folder):
    assert find_local("tf_efficientnet_lite0.in1k", "default").source.startswith("package:")
    save_file(state(1), folder / "tf_efficientnet_lite0.safetensors")
    assert find_local("tf_efficientnet_lite0.in1k", "default").source.startswith("file:")


def test_without_folder_or_package_only_the_hub_has_them():
    assert find_local("resnet18", "default") is None


def test_a_folder_that_does_not_exist_is_refused_rather_than_passed_over(monkeypatch, tmp_path):
    monkeypatch.setenv("PERCEPTUAL_WEIGHTS", str(tmp_path / "absent"))
    with pytest.raises(FileNotFoundError, match=r"PERCEPTUAL_WEIGHTS names .*absent"):
        find_local("resnet18", "default")


def test_the_packaged_efficientnet_has_timms_296_keys_and_shapes():
    found = find_local("tf_efficientnet_lite0", "default").state
    expected = timm.create_model("tf_efficientnet_lite0").state_dict()
    assert len(expected) == 296
    assert {k: v.shape for k, v in found.items()} == {k: v.shape for k, v in expected.items()}


@pytest.mark.parametrize(("photograph", "classes"), [("chelsea", range(281, 286)), ("coffee", [967, 504])])
def test_the_packaged_efficientnet_under_timms_names_sees_cats_and_cups(photograph, classes):
    net = timm.create_model("tf_efficientnet_lite0").eval()
    net.load_state_dict(find_local("tf_efficientnet_lite0", "default").state)
    image = torch.from_numpy(getattr(skimage.data, photograph)()).permute(2, 0, 1)[None] / 127.5 - 1
    image = nn.functional.interpolate(image, (224, 224), mode="bilinear", antialias=True)
    with torch.no_grad():
        assert net(image).argmax() in classes


@pytest.mark.parametrize("suffix", [".safetensors", ".pth"])
def test_both_formats_are_read(tmp_path, suffix):
    path = tmp_path / f"w{suffix}"
    save_file(state(3), path) if suffix == ".safetensors" else torch.save(state(3), path)
    assert torch.equal(read(path)["conv.weight"], torch.full((2, 3), 3.0))


@pytest.mark.parametrize("key", ["state_dict", "model"])
def test_nested_and_data_parallel_forms_are_unwrapped(tmp_path, key):
    torch.save({key: {f"module.{k}": v for k, v in state(3).items()}, "epoch": 7}, tmp_path / "w.pth")
    assert set(read(tmp_path / "w.pth")) == {"conv.weight"}


def test_a_file_overwritten_after_loading_changes_nothing(tmp_path):
    path = tmp_path / "net.safetensors"
    save_file({"a": torch.zeros(1000)}, path)
    state = read(path)
    size = path.stat().st_size
    with path.open("r+b") as file:  # in place, as `cp` over a file does
        file.seek(size - 4000)
        file.write(b"\x7f" * 4000)
    assert (state["a"] == 0).all()


def test_a_file_that_is_not_there_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"weights file .*absent\.pth' does not exist"):
        read(tmp_path / "absent.pth")


class Bomb:
    def __reduce__(self):
        return (pytest.fail, ("code of the file was run",))


def test_a_pickle_that_runs_code_is_refused_unrun(tmp_path):
    torch.save({"state_dict": state(1), "extra": Bomb()}, tmp_path / "w.pth")
    with pytest.raises(ValueError, match=r"w\.pth' cannot be read") as raised:
        read(tmp_path / "w.pth")
    assert len(str(raised.value).splitlines()) == 1
    (tmp_path / "plain.pth").write_bytes(pickle.dumps(Bomb()))
    with pytest.raises(ValueError, match="cannot be read"):
        read(tmp_path / "plain.pth")


@pytest.mark.parametrize("name", ["w.safetensors", "w.pth"])
@pytest.mark.parametrize("content", [b"", b"not weights at all", b"\x80\x02}q\x00."])
def test_an_unreadable_file_is_refused_by_name(tmp_path, name, content):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(ValueError, match=rf"weights file .*{name}'"):
        read(tmp_path / name)


def test_a_truncated_file_is_refused_by_name(tmp_path):
    for path, save in ((tmp_path / "w.safetensors", save_file), (tmp_path / "w.pth", torch.save)):
        save(state(1), path)
        path.write_bytes(path.read_bytes()[:-10])
        with pytest.raises(ValueError, match=path.name):
            read(path)


@pytest.mark.parametrize("content", [{}, {"a": 1}, [1, 2], {"state_dict": {"a": "b"}}, torch.zeros(3)])
def test_a_file_without_a_state_dict_is_refused(tmp_path, content):
    torch.save(content, tmp_path / "w.pth")
    with pytest.raises(ValueError, match=r"w\.pth"):
        read(tmp_path / "w.pth")


def test_missing_tensors_are_counted_and_named():
    net = nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4))
    with pytest.raises(ValueError, match=r"weights of X lack 2 of the 7 tensors .*: 0\.bias, 1\.weight$"):
        check_names(net, {k: v for k, v in net.state_dict().items() if k not in ("0.bias", "1.weight")}, "X")


def test_a_count_of_batches_may_be_missing_and_a_classifier_may_be_there():
    net = nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4))
    given = {k: v for k, v in net.state_dict().items() if "num_batches" not in k}
    given["classifier.weight"] = torch.zeros(9)
    with torch.device("meta"):
        empty = nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4))
    assign(empty, given, "X")
    assert all(torch.equal(empty.state_dict()[k], v) for k, v in net.state_dict().items())


def test_tensors_of_other_shapes_are_named():
    net = nn.Conv2d(3, 4, 1)
    given = {"weight": torch.zeros(4, 3, 3, 3), "bias": torch.zeros(4)}
    with pytest.raises(ValueError, match=r"weights of X have other shapes of weight$"):
        check_shapes(net, given, "X")
    with pytest.raises(ValueError, match="other shapes"):
        assign(net, given, "X")


def test_keys_with_and_without_the_feature_wrappers_names_are_one():
    assert plain("model.layer1.0.conv1.weight") == plain("layer1_0.conv1.weight")
    assert plain("stages_0.blocks.1.gamma") == plain("stages.0.blocks.1.gamma")


def test_a_tensor_outside_the_state_dict_is_noticed():
    net = nn.Linear(2, 2)
    assert lives_in_state_dict(net)
    net.register_buffer("table", torch.zeros(2), persistent=False)
    assert not lives_in_state_dict(net)
    net = nn.Linear(2, 2)
    net.loose = torch.zeros(2)
    assert not lives_in_state_dict(net)


WEIGHTS = {
    "a.weight": torch.arange(24, dtype=torch.float32).view(2, 3, 2, 2),
    "a.count": torch.tensor(3),
    "b.half": torch.ones(3, dtype=torch.bfloat16),
    "c.none": torch.zeros(0),
}


def test_the_fingerprint_ignores_order_and_memory_layout():
    other = {key: WEIGHTS[key].clone() for key in reversed(WEIGHTS)}
    other["a.weight"] = other["a.weight"].to(memory_format=torch.channels_last)
    assert fingerprint(other) == fingerprint(WEIGHTS)
    other["a.weight"] = nn.Parameter(WEIGHTS["a.weight"].transpose(0, 1).contiguous().transpose(0, 1))
    assert fingerprint(other) == fingerprint(WEIGHTS)
    assert len(fingerprint(WEIGHTS)) == 64


def flip_last_bit(value):
    changed = value.clone()
    changed.view(torch.int32)[0, 0, 0, 0] ^= 1
    return changed


@pytest.mark.parametrize(
    "change",
    [
        {"a.weight": flip_last_bit(WEIGHTS["a.weight"])},
        {"a.weight": WEIGHTS["a.weight"].view(3, 2, 2, 2)},
        {"a.weight": WEIGHTS["a.weight"].view(torch.int32)},
        {"a.count": torch.tensor(4)},
        {"d": torch.zeros(0)},
    ],
)
def test_the_fingerprint_sees_one_bit_a_shape_a_type_and_a_name(change):
    assert fingerprint(WEIGHTS | change) != fingerprint(WEIGHTS)


def test_the_fingerprint_sees_which_name_has_which_values():
    a, b = torch.zeros(2), torch.ones(2)
    assert fingerprint({"a": a, "b": b}) != fingerprint({"a": b, "b": a})
