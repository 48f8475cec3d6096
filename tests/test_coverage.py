"""Architectures of timm give a distance at 64×64: a sample of families; `benchmarks.coverage` surveys all."""

import pytest
import timm
import torch

from benchmarks import coverage
from perceptual.features.backbone import Backbone

# the smallest of 40 families, chosen so that every rule on input sizes and every layout of maps occurs
SAMPLE = [
    "bat_resnext26ts",  # attention in blocks of 8: refuses 64×64, sees 256×256
    "coat_tiny",
    "convit_tiny",
    "convnext_atto",
    "convmixer_1024_20_ks9_p14",
    "crossvit_9_240",
    "cspresnet50",
    "davit_tiny",
    "deit_tiny_patch16_224",
    "densenet121",
    "edgenext_xx_small",
    "eva02_tiny_patch14_224",
    "efficientformer_l1",
    "efficientvit_b0",
    "fastvit_t8",
    "efficientvit_m0",
    "gcvit_xxtiny",
    "ghostnet_050",
    "hardcorenas_a",
    "hgnetv2_b0",
    "hrnet_w18_small",
    "inception_v3",  # has no valid output below 75×75, timm states no smallest size: sees 299×299
    "lambda_resnet26t",  # has a three-dimensional convolution
    "lcnet_035",
    "levit_128s",
    "maxvit_rmlp_pico_rw_256",
    "mixer_s32_224",  # fixed size, sees 224×224
    "mobilenetv3_small_050",
    "mobilevit_xxs",
    "mvitv2_tiny",
    "pit_ti_224",
    "poolformer_s12",
    "pvt_v2_b0",
    "regnetx_002",
    "repvgg_a0",
    "resnet10t",
    "swin_tiny_patch4_window7_224",  # channels last
    "tiny_vit_5m_224",
    "tresnet_m",  # its stem cannot be tapped
    "vit_tiny_patch16_224",
    "xcit_nano_12_p16_224",
]

# of these, those that give no feature maps with timm up to 1.0.20 at least
LATER = {
    "coat_tiny",
    "convit_tiny",
    "convmixer_1024_20_ks9_p14",
    "crossvit_9_240",
    "efficientvit_m0",
    "gcvit_xxtiny",
}


@pytest.mark.parametrize("name", SAMPLE)
def test_a_family_gives_a_distance(name):
    if name in LATER:
        pytest.importorskip("timm", "1.0.31")
    row = coverage.survey(name, 0)
    assert row["ok"], row
    assert (row["input_size"] == [299, 299]) == (name == "inception_v3")
    assert len(row["levels"]) == len(row["channels"]) >= 3


def test_the_sample_has_forty_families_and_all_rules():
    assert len({timm.model_entrypoint(name).__module__ for name in SAMPLE}) >= 36
    assert len(SAMPLE) >= 40


@pytest.mark.parametrize(
    ("name", "size", "rule"),
    [
        ("resnet10t", None, "as it is"),
        ("vit_tiny_patch16_224", None, "fixed size: built for any"),
        ("mixer_s32_224", (224, 224), "fixed size: resized"),
        ("bat_resnext26ts", (256, 256), "refuses 64×64: resized"),  # what timm states as the smallest
    ],
)
def test_rules_on_input_sizes(name, size, rule):
    backbone = Backbone(name, weights=None)
    assert backbone.input_size == size
    assert coverage._rule(backbone) == rule
    sizes = [m.shape for m in backbone(torch.rand(1, 3, 64, 64))]
    if size:
        assert sizes == [m.shape for m in backbone(torch.rand(1, 3, *size))]


def test_a_stem_that_is_no_module_is_not_tapped():
    backbone = Backbone("tresnet_m", weights=None)
    assert backbone.out_indices == (1, 2, 3, 4)


def test_a_size_that_cannot_be_divided_is_named_with_the_way_out(monkeypatch):
    backbone = Backbone("test_resnet", weights=None)
    forward = backbone.net.forward

    def only_multiples_of_32(x):
        assert x.shape[-1] % 32 == 0, "width must be a multiple of 32"
        return forward(x)

    monkeypatch.setattr(backbone.net, "forward", only_multiples_of_32)
    with pytest.raises(
        ValueError, match=r"cannot take images of 100×100 .*multiple of 32.*input_size=… resizes"
    ):
        backbone(torch.rand(1, 3, 100, 100))
    assert backbone(torch.rand(1, 3, 64, 64))[0].shape[1] == backbone.channels[0]


def test_trying_64_leaves_statistics_alone():
    torch.manual_seed(0)
    tried = Backbone("resnet10t", weights=None, trainable=True)
    assert tried.training
    assert all((buffer == 0).all() for name, buffer in tried.named_buffers() if name.endswith("running_mean"))


def test_networks_over_the_limit_are_surveyed_in_bf16_or_by_shapes():
    assert coverage.survey("resnet10t", 5_000_000, memory=2**24)["dtype"] == "bfloat16"
    row = coverage.survey("resnet10t", 5_000_000, memory=2**20)
    assert (row["ok"], row["device"], row["reason"]) == (True, "meta", "shapes only")


def test_a_failing_network_is_a_row_with_its_reason():
    row = coverage.survey("no_such_network", 0)
    assert not row["ok"]
    assert row["reason"].startswith("ValueError: unknown backbone")


def test_what_a_killed_survey_left_of_a_row_is_none(tmp_path):
    path = tmp_path / "rows.jsonl"
    coverage.append(path, {"name": "a"})
    with path.open("a") as file:
        file.write('\n{"name": "b", "levels": [')
    coverage.append(path, {"name": "c"})
    assert [row["name"] for row in coverage.read(path)] == ["a", "c"]


@pytest.mark.slow
@pytest.mark.parametrize("name", timm.list_models("*_tiny*"))
def test_more_of_timm_gives_a_distance(name):
    assert coverage.survey(name, 0)["ok"]
