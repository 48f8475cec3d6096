"""Levels that are embeddings: class tokens, what heads pool, and means of patch tokens."""

import numpy as np
import pytest
import timm
import torch
import torch.nn.functional as F
from test_coverage import SAMPLE
from torch import nn

from perceptual import LPIPS, Backbone
from perceptual.distance.differences import mean_differences
from perceptual.publish.onnx import to_onnx

CLIP = "vit_base_patch16_clip_224.openai[depth=2,embed_dim=24,num_heads=2]"  # with a projection to 512
SLOW = pytest.mark.slow
# heads: linear, norm and MLP, class token, attention of a class token; then more of them, and windows
HEADS = ["test_resnet", "test_convnext", "test_vit4", "xcit_nano_12_p16_224"]
MORE = ["mobilenetv3_small_050", "test_efficientnet", "deit_tiny_distilled_patch16_224"]
MORE += ["swin_tiny_patch4_window7_224", "vit_tiny_patch16_dinov3_qkvb", "cait_xxs24_224", "hrnet_w18_small"]
ALL = [*HEADS, *(pytest.param(name, marks=SLOW) for name in MORE)]
FAMILIES = [*ALL, *(pytest.param(name, marks=SLOW) for name in SAMPLE if name not in {*HEADS, *MORE})]
CONVOLUTIONAL = ["test_resnet", *(pytest.param(name, marks=SLOW) for name in ("test_convnext", MORE[0]))]


def images(count=2, side=64):
    return torch.rand(2, count, 3, side, side, generator=torch.Generator().manual_seed(0))


def random(name, **how):
    if not timm.is_model(known := name.partition("[")[0].partition(".")[0]):
        pytest.skip(f"timm {timm.__version__} has no {known}")
    torch.manual_seed(0)
    return Backbone(name, weights=None, **how)


def whole(backbone, classes):
    """timm's own network, with the weights of a backbone."""
    net = timm.create_model(
        backbone.info.name.partition("[")[0], num_classes=classes, **OPTIONS[backbone.name]
    )
    net.load_state_dict(
        {key.removeprefix("model."): value for key, value in backbone.net.state_dict().items()}
    )
    return net.eval()


OPTIONS = {CLIP: {"depth": 2, "embed_dim": 24, "num_heads": 2, "dynamic_img_size": True}}
OPTIONS |= {
    name: {"dynamic_img_size": True} if name.startswith("test_vit") else {} for name in [*HEADS, *MORE]
}


@pytest.mark.parametrize(("name", "classes"), [("test_resnet", 0), ("mobilenetv3_small_050", 0), (CLIP, 512)])
def test_the_embedding_is_what_timm_gives(name, classes):
    backbone = random(name, out_indices=["embedding"])
    x, _ = images()
    net = whole(backbone, classes)
    with torch.no_grad():
        (found,), expected = backbone(x), net((x - backbone.mean) / backbone.std)
    torch.testing.assert_close(found[:, :, 0, 0], expected)
    assert backbone.channels == [expected.shape[1]]
    assert backbone.info.embeds


def test_tokens_are_those_of_the_last_block_before_the_norm():
    backbone = random(CLIP, out_indices=["cls", "patches"])
    with_embedding = random(CLIP, out_indices=[0, "cls", "embedding"])
    seen = {}
    for each in (backbone, with_embedding):
        each.net.model.blocks[-1].register_forward_hook(lambda *given: seen.update(tokens=given[2]))
        with torch.no_grad():
            found = each(images()[0])
        torch.testing.assert_close(found[each.out_indices.index("cls")][:, :, 0, 0], seen["tokens"][:, 0])
        if "patches" in each.out_indices:
            torch.testing.assert_close(found[-1][:, :, 0, 0], seen["tokens"][:, 1:].mean(1))
    assert "model.norm.weight" not in backbone.net.state_dict(), "no weights that nothing uses"


@pytest.mark.parametrize("name", ALL)
def test_maps_beside_an_embedding_are_the_same_maps(name):
    if name == "test_convnext" and tuple(map(int, timm.__version__.split(".")[:3])) < (1, 0, 20):
        with pytest.raises(ValueError, match="numbers the maps beside an embedding otherwise"):
            random(name, out_indices=[0, -1, "embedding"])
        return
    both = random(name, out_indices=[0, -1, "embedding"])
    alone = random(name, out_indices=[0, -1])
    weights = {key.replace("model.", "").replace(".", "_"): v for key, v in both.net.state_dict().items()}
    plain = {key: key.replace("model.", "").replace(".", "_") for key in alone.net.state_dict()}
    alone.net.load_state_dict({key: weights[name] for key, name in plain.items()})
    with torch.no_grad():
        *maps, embedding = both(images()[0])
        assert all(map(torch.equal, maps, alone(images()[0])))
    assert embedding.shape == (2, both.channels[-1], 1, 1)
    assert both.out_indices == (*alone.out_indices, "embedding")
    assert not both.info.embeds


@pytest.mark.parametrize("name", FAMILIES)
def test_a_distance_of_embeddings_goes_the_whole_way(name, tmp_path):
    said = f"{name}[out_indices=[embedding]]"
    backbone = random(said)
    assert backbone.name == said
    metric = LPIPS(backbone)
    x, y = images()
    embeddings = [backbone(batch).pop().flatten(1).detach() for batch in (x, y)]
    if min(embedding.norm(dim=1).min() for embedding in embeddings) < 1e-6:
        pytest.skip(f"random weights of {name} leave an embedding of almost 0")
    cosine = 1 - F.cosine_similarity(*embeddings)
    torch.testing.assert_close(metric(x, y), 2 * cosine, atol=1e-5, rtol=1e-5)
    moving = x.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(metric(moving, y).sum(), moving)
    assert gradient.isfinite().all()
    assert gradient.abs().sum() > 0
    torch.testing.assert_close(
        torch.cdist(metric.embed(x), metric.embed(y)).square().diagonal(), metric(x, y), atol=1e-5, rtol=1e-3
    )
    (means,) = mean_differences(
        metric, [torch.tensor([[0, 1]])], lambda rows: torch.stack([x[0], y[0]])[rows]
    )
    torch.testing.assert_close(means.sum(1), metric(x[:1], y[:1]), atol=1e-6, rtol=1e-4)
    metric.save_pretrained(tmp_path)
    torch.testing.assert_close(LPIPS.from_pretrained(tmp_path)(x, y), metric(x, y))


@pytest.mark.parametrize("name", CONVOLUTIONAL)
def test_embeddings_of_convolutional_networks_are_exported(name, tmp_path):
    pytest.importorskip("torch", "2.7")  # refused before 2.6, whose converter fails with today's onnxscript
    onnxruntime = pytest.importorskip("onnxruntime")
    metric = LPIPS(random(name, out_indices=[0, "embedding"]))
    to_onnx(metric, tmp_path / "metric.onnx")
    x, y = images(side=96)
    (found,) = onnxruntime.InferenceSession(tmp_path / "metric.onnx").run(
        None, {"x": x.numpy(), "y": y.numpy()}
    )
    np.testing.assert_allclose(found, metric(x, y).detach().numpy(), rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize(
    ("name", "levels", "says"),
    [
        ("test_resnet", ["cls"], r"then embedding, got \['cls'\]: this network has no cls"),
        ("test_resnet", [0, "cls", "patches"], "no cls and no patches"),
        ("test_resnet", ["embeding"], r"from -5 to -1, then embedding, got \['embeding'\]"),
        ("test_resnet", ["embedding", 0], "must be rising numbers from 0 to 4"),
        ("test_vit", ["cls", "cls"], "then cls, embedding, patches, got"),
        ("alexnet", ["cls"], "this network has no cls"),
        (
            "test_resnet[out_indices=embedding]",
            None,
            r"out_indices must be a list, out_indices=\[embedding\]",
        ),
        ("test_resnet[out_indices=[0]]", [1], "says out_indices already: leave out out_indices"),
    ],
)
def test_what_a_network_does_not_have_is_named(name, levels, says):
    with pytest.raises(ValueError, match=says):
        Backbone(name, weights=None, out_indices=levels)


@pytest.mark.parametrize("name", ["alexnet", "squeezenet1_1"])
def test_the_networks_of_torchvision_pool_what_their_heads_get(name):
    backbone = random(name, out_indices=[2, "embedding"])
    with torch.no_grad():
        maps = backbone(images()[0])
        x = (images()[0] - backbone.mean) / backbone.std
        torch.testing.assert_close(maps[1][:, :, 0, 0], nn.Sequential(*backbone.net)(x).mean((2, 3)))
    assert backbone.channels == [m.shape[1] for m in maps]


class Embedder(nn.Module):
    """A network of the user's with a vector among its maps."""

    def __init__(self, maps=True):
        super().__init__()
        self.layer, self.maps = nn.Conv2d(3, 4, 3), maps

    def forward(self, x):
        features = self.layer(x)
        return [features, features.amax((2, 3))][0 if self.maps else 1 :]


def test_a_network_of_the_users_may_give_vectors():
    metric = LPIPS(Embedder())
    x, y = images()
    f, g = metric.backbone.net(x), metric.backbone.net(y)
    maps = (F.normalize(f[0]) - F.normalize(g[0])).square().sum(1).mean((1, 2))
    torch.testing.assert_close(metric(x, y), maps + 2 - 2 * F.cosine_similarity(f[1], g[1]))
    assert not metric.backbone.info.embeds
    assert Backbone.of(Embedder(maps=False)).info.embeds
