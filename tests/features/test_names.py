import pytest

from perceptual.features.names import Name, members, parse, resolve


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
    assert resolve("alex+squeeze") == "alexnet+squeezenet1_1"


@pytest.mark.parametrize(
    "written", ["a[", "a]", "a[]", "a[x]", "a[x=]", "a[x=1", "a[x=1]b", "a[x=${y}]", "[x=1]"]
)
def test_what_is_no_name_is_refused(written):
    with pytest.raises(ValueError, match="is no name of a network"):
        parse(written)


def test_an_option_is_said_once():
    with pytest.raises(ValueError, match="says x already"):
        parse("a[x=1]", {"x": 2})
