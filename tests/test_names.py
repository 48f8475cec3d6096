from inspect import signature

import pytest
import timm
from timm.models._builder import build_model_with_cfg

from perceptual import LPIPS, Backbone, create_metric, names
from perceptual.features.build import build_backbone
from perceptual.names import Method, Name, members, parse


@pytest.mark.parametrize(
    ("written", "name"),
    [
        ("resnet18", Name("resnet18", {})),
        ("vgg", Name("vgg16", {})),
        ("resnet18[aa_layer=blurpc]", Name("resnet18", {"aa_layer": "blurpc"})),
        ("vit[patch_size=8,drop_path_rate=1e-1]", Name("vit", {"patch_size": 8, "drop_path_rate": 0.1})),
        ("a[flag=true,none=null,word='1']", Name("a", {"flag": True, "word": "1"})),
        ("torchvision:r[nodes=[l1.0,l2]]", Name("torchvision:r", {"nodes": ["l1.0", "l2"]})),
    ],
)
def test_a_name_has_a_base_and_options(written, name):
    assert parse(written) == name
    assert parse(str(name)) == name, "what is written is read again"


def test_the_order_of_options_and_where_they_are_said_do_not_matter():
    assert str(parse("a[y=2,x=1]")) == str(parse("a[x=1]", {"y": 2})) == "a[x=1,y=2]"
    assert str(parse("a", {"x": "true"})) != str(parse("a", {"x": True}))


def test_several_names_are_joined_by_a_plus():
    assert members("a[x=[1,2],y=b]+c.d") == ["a[x=[1,2],y=b]", "c.d"]
    assert members("a[x=1+2]") == ["a[x=1+2]"]
    assert Method.parse("alex+squeeze").network == "alexnet+squeezenet1_1"


@pytest.mark.parametrize(
    "written", ["a[", "a]", "a[]", "a[x]", "a[x=]", "a[x=1", "a[x=1]b", "a[x=${y}]", "[x=1]"]
)
def test_what_is_no_name_is_refused(written):
    with pytest.raises(ValueError, match="is not a name of a network"):
        parse(written)


def test_an_option_is_said_once():
    with pytest.raises(ValueError, match="says x already"):
        parse("a[x=1]", {"x": 2})


# of timm's own functions, what is harmless or said by us
HARMLESS = {
    "model_name",
    "scriptable",
    "exportable",
    "no_jit",
    "kwargs",
    "model_cls",
    "variant",
    "feature_cfg",
}
HARMLESS |= {"kwargs_filter", "model_cfg"}  # functions and objects, which no name can hold


@pytest.mark.parametrize(
    "option",
    sorted(
        {*signature(timm.create_model).parameters, *signature(build_model_with_cfg).parameters} - HARMLESS
    ),
)
def test_options_that_name_files_or_configurations_are_refused(option):
    for call in (
        lambda: parse(f"resnet18[{option}=/any/file]"),
        lambda: parse("resnet18", {option: {"file": "/any/file"}}),
        lambda: Backbone("resnet18", None, options={option: "/any/file"}),
        lambda: create_metric(f"resnet18[{option}=file]"),
        lambda: create_metric(f"alexnet+resnet18[{option}=file]-uncalibrated"),
        lambda: build_backbone({"name": "resnet18", "weights": None, "options": {option: "/any/file"}}),
    ):
        with pytest.raises(ValueError, match=f"{option}.*no name of a network may"):
            call()


def test_options_of_networks_are_not_taken_for_files():
    options = (
        "drop_path_rate",
        "drop_path",
        "transformer_drop_path",
        "weight_init",
        "pretrained_window_sizes",
    )
    for option in (*options, "use_checkpoint", "aa_layer"):
        assert parse(f"a[{option}=1]").options == {option: 1}


def test_the_text_of_a_name_is_read_once_on_its_way_to_a_distance(monkeypatch):
    read, parts = [], names._parts
    monkeypatch.setattr(names, "_parts", lambda text: read.append(text) or parts(text))
    distance = LPIPS(Method.parse("test_resnet[aa_layer=blurpc]+test_vit-random"))
    assert distance.backbone.name == "test_resnet[aa_layer=blurpc]+test_vit"
    assert read == ["test_resnet[aa_layer=blurpc]", "test_vit"]
