import json
import re
from importlib.metadata import version

import pytest
import torch
from hub import hub
from networks import torchvision_state, trunk, write_weights
from safetensors.torch import load_file, save_file

from perceptual import LPIPS, Backbone
from perceptual.distance.saving import folders
from perceptual.evaluation import methods
from perceptual.features.weights import fingerprint
from perceptual.names import Method
from perceptual.ranking import RANKINGS, PaperRanking, restore

RECORD = {
    "data": "twelve photographs",
    "fingerprint": "ab12",
    "epochs": 3,
    "settings": {"variant": "lin", "lr": 1e-4},
    "command": "python train.py seed=7",
    "scores": [
        {
            "data": "2afc-1234",
            "kind": "2afc",
            "description": "500 triplets",
            "fingerprint": "f" * 64,
            "rows": [
                {"subset": "few", "items": 3, "score": 0.7, "low": None, "high": None},
                {"subset": "mean", "items": 1500, "score": 0.7123, "low": 0.694, "high": 0.731},
            ],
        }
    ],
}


def ranking_of(saved):
    """The ranking network of a saved folder, or None."""
    return saved.ranking_state and restore(saved.config["ranking"]["name"], saved.ranking_state, "the folder")


def images(seed=0, side=40):
    generator = torch.Generator().manual_seed(seed)
    return torch.rand(2, 3, 3, side, side, generator=generator)


def calibrate(metric, seed=0):
    generator = torch.Generator().manual_seed(seed)
    for vector in metric.lin:
        vector.data = torch.rand(len(vector), generator=generator)
    return metric


def a_metric(seed=0, **arguments):
    """A calibrated distance on a small backbone with random weights."""
    torch.manual_seed(seed)
    return calibrate(LPIPS(Backbone("test_resnet", weights=None), lin=None, **arguments), seed)


DELETED = object()


def edited(folder, changes, seal=True):
    """Change fields of config.json, by their dotted names."""
    path = folder / "config.json"
    config = json.loads(path.read_text())
    for dotted, value in changes.items():
        *parents, key = dotted.split(".")
        node = config
        for parent in parents:
            node = node[parent]
        if value is DELETED:
            del node[key]
        else:
            node[key] = value
    path.write_text(json.dumps(folders.seal(config) if seal else config))


def with_tensors(folder, change, name="model.safetensors"):
    """Change the tensors of a file, and have config.json name the SHA-256 of what it holds now."""
    # copied: older versions of safetensors map the file that is written below
    state = {key: value.clone() for key, value in load_file(folder / name).items()}
    change(state)
    save_file({key: value.contiguous() for key, value in state.items()}, folder / name)
    edited(folder, {"sha256" if name == "model.safetensors" else "ranking.sha256": fingerprint(state)})


# --- there and back ---


@pytest.mark.parametrize("form", ["per_position", "pooled"])
def test_a_distance_comes_back_bit_for_bit(tmp_path, form):
    metric = a_metric(form=form)
    metric.save_pretrained(tmp_path / "mine")
    loaded = LPIPS.from_pretrained(tmp_path / "mine")
    x, y = images()
    assert torch.equal(loaded(x, y), metric(x, y))
    assert loaded.form == form
    assert loaded.backbone.source == "random"
    assert loaded.saved.config["record"] == {}
    assert not any(parameter.requires_grad for parameter in loaded.parameters())


def test_arguments_of_the_backbone_and_of_use_come_back_or_are_given(tmp_path):
    torch.manual_seed(0)
    backbone = Backbone(
        "test_convnext", None, out_indices=(0, 2), input_size=48, mean=(0, 0, 0), std=(1, 1, 2)
    )
    metric = calibrate(LPIPS(backbone, lin=None))
    metric.save_pretrained(tmp_path)
    loaded = LPIPS.from_pretrained(tmp_path, value_range=(-1, 1), spatial=True)
    x, y = images()
    assert loaded.backbone.out_indices == (0, 2)
    assert loaded.backbone.input_size == (48, 48)
    maps = loaded(2 * x - 1, 2 * y - 1)
    assert maps.shape == (3, 1, 40, 40)
    metric.spatial = True
    torch.testing.assert_close(maps, metric(x, y), atol=1e-6, rtol=1e-5)


def test_a_frozen_backbone_that_can_be_had_again_is_recorded_not_stored(tmp_path, alexnet):
    metric = calibrate(LPIPS("alexnet", lin=None))
    metric.save_pretrained(tmp_path / "mine")
    assert {key.split(".")[0] for key in load_file(tmp_path / "mine/model.safetensors")} == {"lin"}
    record = json.loads((tmp_path / "mine/config.json").read_text())["backbone"]
    assert (record["name"], record["source"], record["saved"]) == (
        "alexnet",
        "file:alexnet.safetensors",
        False,
    )
    assert record["sha256"] == metric.backbone.fingerprint()
    x, y = images()
    assert torch.equal(LPIPS.from_pretrained(tmp_path / "mine")(x, y), metric(x, y))


def test_other_weights_of_the_backbone_are_refused_and_missing_ones_named(tmp_path, alexnet, monkeypatch):
    LPIPS("alexnet").save_pretrained(tmp_path / "mine")
    state = torchvision_state(trunk("alexnet"))
    state["features.0.bias"][0] += 1e-3
    write_weights(alexnet, "alexnet", state)
    for load in (LPIPS.from_pretrained, lambda folder: LPIPS("alexnet", lin=folder)):
        with pytest.raises(
            ValueError, match=r"mine.* was calibrated on weights of alexnet from .* holds others"
        ):
            load(tmp_path / "mine")
    monkeypatch.delenv("PERCEPTUAL_WEIGHTS")
    with pytest.raises(FileNotFoundError, match="no weights for alexnet"):
        LPIPS.from_pretrained(tmp_path / "mine")


@pytest.mark.parametrize("how", ["tuned", "changed", "from a file"])
def test_a_backbone_that_its_name_does_not_give_again_is_stored(tmp_path, alexnet, monkeypatch, how):
    other = alexnet / "alexnet.safetensors"
    if how == "from a file":
        other = write_weights(alexnet.parent, "alexnet")
    backbone = Backbone(
        "alexnet", str(other) if how == "from a file" else "default", trainable=how == "tuned"
    )
    metric = LPIPS(backbone)
    if how == "changed":
        with torch.no_grad():
            next(metric.backbone.parameters()).mul_(1.5)
    metric.save_pretrained(tmp_path / "mine")
    monkeypatch.delenv("PERCEPTUAL_WEIGHTS")
    loaded = LPIPS.from_pretrained(tmp_path / "mine")
    x, y = images()
    assert torch.equal(loaded(x, y), metric(x, y))
    assert loaded.backbone.source.startswith("file:alexnet.safetensors")
    loaded.save_pretrained(tmp_path / "again")
    assert torch.equal(LPIPS.from_pretrained(tmp_path / "again")(x, y), metric(x, y))


def test_published_calibrations_by_name_equal_the_lpips_package(alexnet, monkeypatch):
    from networks import reference_lpips

    x, y = images(side=64)
    ours = LPIPS.from_pretrained("alexnet-v0.1", value_range=(-1, 1))
    expected = reference_lpips("alexnet", monkeypatch, version="0.1")
    with torch.no_grad():
        theirs = expected(2 * x - 1, 2 * y - 1).flatten()
    torch.testing.assert_close(ours(2 * x - 1, 2 * y - 1), theirs, atol=1e-6, rtol=1e-5)
    with pytest.raises(ValueError, match=r"no calibration 'v0\.1' was published for 'resnet18'"):
        LPIPS.from_pretrained("resnet18-v0.1")


def test_a_saved_folder_is_a_method_and_a_calibration(tmp_path, alexnet):
    metric = calibrate(LPIPS("alexnet", lin=None))
    metric.save_pretrained(tmp_path / "mine")
    x, y = images()
    assert torch.equal(methods.build(str(tmp_path / "mine"))(x, y), metric(x, y))
    assert Method.parse(str(tmp_path / "mine")).family == "trained"
    assert torch.equal(LPIPS("alexnet", lin=tmp_path / "mine")(x, y), metric(x, y))
    with pytest.raises(ValueError, match=r"calibrated on alexnet, not vgg16; LPIPS\.from_pretrained"):
        LPIPS("vgg16", lin=tmp_path / "mine")
    with pytest.raises(ValueError, match="was made in the form per_position, not pooled"):
        LPIPS("alexnet", lin=tmp_path / "mine", form="pooled")
    a_metric().save_pretrained(tmp_path / "own")
    with pytest.raises(ValueError, match="calibrated on a backbone that it holds itself"):
        LPIPS("test_resnet", lin=tmp_path / "own")


@pytest.mark.parametrize("kind", RANKINGS)
def test_the_ranking_network_is_saved_with_it(tmp_path, kind):
    torch.manual_seed(0)
    ranking = RANKINGS[kind]()
    for parameter in ranking.parameters():
        parameter.data.add_(0.1)
    a_metric().save_pretrained(tmp_path, ranking=ranking)
    loaded = ranking_of(folders.read(tmp_path))
    d0, d1 = torch.rand(2, 5)
    assert torch.equal(loaded(d0, d1), ranking(d0, d1))
    a_metric().save_pretrained(tmp_path)
    assert ranking_of(folders.read(tmp_path)) is None


# --- the card ---


def test_the_card_says_what_is_known(tmp_path):
    a_metric().save_pretrained(tmp_path, record=RECORD)
    card = (tmp_path / "README.md").read_text()
    config = json.loads((tmp_path / "config.json").read_text())
    for said in (
        "library_name: perceptual",
        "twelve photographs",
        "python train.py seed=7",
        "`variant=lin`",
        "| few | 3 | 70.0 | too few |",
        "| mean | 1,500 | 71.2 | 69.4 – 73.1 |",
        config["sha256"],
        f"torch {version('torch')}",
        "weights from `random` (in `model.safetensors`)",
    ):
        assert said in card
    a_metric().save_pretrained(tmp_path)
    card = (tmp_path / "README.md").read_text()
    assert "Nothing is recorded." in card
    assert "None are recorded." in card


@pytest.mark.parametrize("version", ["v0.1", "v0.0"])
def test_the_card_of_a_published_calibration_says_whose_it_is_and_its_licence(tmp_path, alexnet, version):
    metric = LPIPS(f"alexnet-{version}")
    metric.save_pretrained(tmp_path / "theirs")
    LPIPS.from_pretrained(tmp_path / "theirs").save_pretrained(tmp_path / "again")
    for folder in ("theirs", "again"):
        card = (tmp_path / folder / "README.md").read_text()
        assert f"calibration {version} of Zhang et al." in card
        assert "license: bsd-2-clause" in card
        assert "Copyright (c) 2018, Richard Zhang" in card
        assert "THIS SOFTWARE IS PROVIDED BY THE COPYRIGHT HOLDERS" in card  # the condition of a copy
        assert "Nothing is recorded." not in card
        assert LPIPS.from_pretrained(tmp_path / folder).calibration == version
    calibrate(metric).save_pretrained(tmp_path / "own")
    LPIPS("alexnet", lin=None).save_pretrained(tmp_path / "ones")
    for folder, said in (("own", "made by whoever saved this"), ("ones", "none: all weights 1")):
        card = (tmp_path / folder / "README.md").read_text()
        assert f"| calibration | {said} |" in card
        assert "license:" not in card
        assert "Zhang et al.'s" not in card


def test_the_code_of_the_card_runs(tmp_path, monkeypatch):
    a_metric().save_pretrained(tmp_path / "mine")
    code = re.search(r"```python\n(.*?)```", (tmp_path / "mine/README.md").read_text(), re.DOTALL)[1]
    x, y = images()
    exec(code.replace("path/to/this/folder", str(tmp_path / "mine")), {"x": x, "y": y})


def test_what_is_known_is_kept_while_the_weights_are_the_same(tmp_path):
    ranking = PaperRanking()
    a_metric().save_pretrained(tmp_path / "first", ranking=ranking, record=RECORD)
    loaded = LPIPS.from_pretrained(tmp_path / "first")
    assert loaded.saved.config["record"] == RECORD
    loaded.save_pretrained(tmp_path / "second")
    again = folders.read(tmp_path / "second")
    assert again.config["record"] == RECORD
    assert torch.equal(ranking_of(again).layers[0].weight, ranking.layers[0].weight)
    loaded.lin[0].data.mul_(2)
    loaded.save_pretrained(tmp_path / "third")
    third = folders.read(tmp_path / "third")
    assert third.config["record"] == {}
    assert ranking_of(third) is None


# --- refused by name ---


@pytest.mark.parametrize("name", ["model.safetensors", "ranking.safetensors"])
def test_a_changed_or_damaged_file_is_refused_by_name(tmp_path, name):
    a_metric().save_pretrained(tmp_path, ranking=PaperRanking())
    good = (tmp_path / name).read_bytes()
    (tmp_path / name).write_bytes(good[:-1] + bytes([good[-1] ^ 1]))
    with pytest.raises(ValueError, match=rf"{name}' is not the file that config\.json describes"):
        LPIPS.from_pretrained(tmp_path)
    (tmp_path / name).write_bytes(good[:-8])
    with pytest.raises(ValueError, match=rf"{name}' cannot be read"):
        LPIPS.from_pretrained(tmp_path)
    (tmp_path / name).unlink()
    with pytest.raises(FileNotFoundError, match=name):
        LPIPS.from_pretrained(tmp_path)


def a_kernel(state):
    """Name of a kernel of the backbone."""
    return next(key for key, value in state.items() if key.startswith("backbone.net.") and value.ndim == 4)


def replace_lin(change, state):
    state["lin.1"] = change(state["lin.1"])


ODD_LIN = {
    "negative": lambda lin: -lin,
    "half": lambda lin: lin.half(),
    "nan": lambda lin: lin * torch.nan,
    "matrix": lambda lin: lin[:, None],
    "scalar": lambda lin: lin[0].clone(),
}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda state: state.pop("lin.1"), r"model\.safetensors holds .* says levels of"),
        (lambda state: state.update({"lin.0": torch.ones(3)}), r"model\.safetensors holds"),
        (lambda state: state.pop(a_kernel(state)), "weights of test_resnet in .* lack 1 of the"),
        (
            lambda state: state.update({a_kernel(state): torch.ones(2, 3)}),
            "test_resnet in .* have other shapes",
        ),
        *(
            (
                lambda state, odd=odd: state.update({"lin.1": odd(state["lin.1"])}),
                r"lin\.1 must be a float32 vector",
            )
            for odd in ODD_LIN.values()
        ),
    ],
)
def test_tensors_that_do_not_fit_are_refused_by_name(tmp_path, change, message):
    a_metric().save_pretrained(tmp_path)
    with_tensors(tmp_path, change)
    with pytest.raises(ValueError, match=message) as raised:
        LPIPS.from_pretrained(tmp_path)
    assert len(str(raised.value).splitlines()) == 1


@pytest.mark.parametrize("name", ["model.safetensors", "ranking.safetensors"])
def test_weights_that_are_not_finite_are_refused_by_name(tmp_path, name):
    a_metric().save_pretrained(tmp_path, ranking=PaperRanking())
    state = load_file(tmp_path / name)
    key = next(key for key, value in state.items() if not key.startswith("lin.") and value.ndim)
    with_tensors(tmp_path, lambda state: state.update({key: state[key] * torch.nan}), name)
    refusal = rf"{re.escape(name)}.*{re.escape(key)} has values that are not finite"
    with pytest.raises(ValueError, match=refusal):
        LPIPS.from_pretrained(tmp_path)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", r"config\.json: Invalid JSON"),
        ("[" * 10**5, r"config\.json: Invalid JSON"),
        ("[]", r"config\.json: .*it describes no saved distance"),
        ('{"model_type": "bert"}', r"config\.json: format: .*it describes no saved distance"),
        ('{"format": 99}', r"config\.json' was written by a later version"),
        (
            '{"format": 1, "channels": [], "backbone": {"name": "x"}}',
            r"config\.json: backbone\.source: Field required",
        ),
    ],
)
def test_another_config_is_refused_by_name(tmp_path, text, message):
    a_metric().save_pretrained(tmp_path)
    (tmp_path / "config.json").write_text(text)
    with pytest.raises(ValueError, match=message):
        LPIPS.from_pretrained(tmp_path)


def test_what_is_no_saved_distance_is_refused_by_name(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"holds no saved distance: config\.json is missing"):
        LPIPS.from_pretrained(tmp_path)
    with pytest.raises(FileNotFoundError, match=r"folder '.*nowhere' does not exist"):
        LPIPS.from_pretrained(tmp_path / "nowhere")
    (tmp_path / "last.ckpt").write_bytes(b"")
    with pytest.raises(NotADirectoryError, match="`perceptual export`"):
        LPIPS.from_pretrained(tmp_path / "last.ckpt")
    with pytest.raises(FileNotFoundError, match="'some/thing' does not exist, and the hub did not give it"):
        LPIPS.from_pretrained("some/thing")


# --- the hub ---


def test_pushed_and_pulled(tmp_path, monkeypatch):
    metric = a_metric()
    with hub(monkeypatch, tmp_path / "cache") as server:
        url = metric.push_to_hub("me/mine", token="secret", ranking=PaperRanking(), record=RECORD)
        assert url.endswith("me/mine")
        assert set(server.repositories["me/mine"]) == {
            "README.md",
            "config.json",
            "model.safetensors",
            "ranking.safetensors",
        }
        loaded = LPIPS.from_pretrained("me/mine")
        with pytest.raises(FileNotFoundError, match="'me/other' does not exist, and the hub did not give it"):
            LPIPS.from_pretrained("me/other")
    x, y = images()
    assert torch.equal(loaded(x, y), metric(x, y))
    assert loaded.saved.config["record"] == RECORD
    # the hub is gone; what was downloaded stays
    again = LPIPS.from_pretrained("me/mine", local_files_only=True)
    assert torch.equal(again(x, y), metric(x, y))
    assert torch.equal(methods.build("me/mine")(x, y), metric(x, y))


OTHER = {
    "form": "pooled",
    "backbone.mean": [0.4, 0.5, 0.6],
    "backbone.std": [0.1, 0.2, 0.3],
    "backbone.input_size": 64,
    "backbone.out_indices": [0],
    "ranking": {"name": "paper", "sha256": "0" * 64},
}


@pytest.mark.parametrize(
    ("field", "value"),
    [*OTHER.items(), *(("config_sha256", odd) for odd in (DELETED, None, 3, "0" * 64))],
)
def test_a_config_of_another_distance_is_refused(tmp_path, field, value):
    a_metric().save_pretrained(tmp_path)
    edited(tmp_path, {field: value}, seal=False)
    message = "config_sha256" if field == "config_sha256" else "' was damaged or changed"
    with pytest.raises(ValueError, match=rf"config\.json.*{message}"):
        LPIPS.from_pretrained(tmp_path)


@pytest.mark.parametrize("seal", [False, True], ids=["changed", "changed and sealed"])
@pytest.mark.parametrize(
    ("field", "values"),
    {
        "backbone.std": (
            *([0.0, 1.0, 1.0], [-1.0, 1.0, 1.0], [1.0], "x", None, DELETED),
            *([odd] * 3 for odd in (float("nan"), 1e-300, 1e300, 10**400)),
        ),
        "backbone.mean": ([], {}, [1, 2, "3"], DELETED, [10**400, 0, 0], [float("inf"), 0, 0]),
        "backbone.input_size": (0, -3, "64", 2.5, [64], True, 10**9, 10**30),
        "backbone.out_indices": ([], "012", [0.5], None),
        "backbone.saved": (1, "true", None),
        "backbone.name": (None, 3, [], "", "resnet18[checkpoint_path=/any/file]", "a+b[pretrained_cfg=x]"),
        "backbone": (None, [], "alexnet", 7),
        "channels": ([], None, [0], [-4], ["8"], {"0": 8}, 8),
        "form": (None, "sideways", ["pooled"], 1),
        "sha256": (None, "", "ab", 5),
        "ranking": ("paper", [], {"name": "paper"}, {"name": 3, "sha256": "0"}),
        "record": (None, [], "much"),
        "record.scores": ("many", [{"data": "a set"}], [{"rows": [[]]}], [None]),
        "versions": (None, [], {"torch": 2}, DELETED),
        "format": (None, "1", 99, 0),
    }.items(),
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_a_field_of_another_type_or_range_is_refused_by_name(tmp_path, field, values, seal):
    a_metric().save_pretrained(tmp_path)
    config = (tmp_path / "config.json").read_bytes()
    for value in values:
        (tmp_path / "config.json").write_bytes(config)
        edited(tmp_path, {field: value}, seal)
        with pytest.raises(ValueError, match=r"config\.json") as caught:
            LPIPS.from_pretrained(tmp_path)
        assert "\n" not in str(caught.value)
        assert field.rpartition(".")[2] in str(caught.value)


def test_a_record_that_no_card_can_show_is_refused_when_it_is_saved(tmp_path):
    with pytest.raises(ValueError, match=r"record\.scores"):
        a_metric().save_pretrained(tmp_path / "mine", record={"scores": [{"data": "a set"}]})
    assert not (tmp_path / "mine/config.json").exists()
