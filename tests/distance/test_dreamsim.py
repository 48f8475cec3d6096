"""The form `concatenated`: DreamSim's distance, loss and head, against plain PyTorch and its package."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from perceptual import LPIPS, Backbone
from perceptual.distance.head import Head
from perceptual.ranking import hinge_loss
from perceptual.training import lora

peft = pytest.importorskip("peft")

TINY = "depth=12,embed_dim=24,img_size=32,num_heads=2"
DINO = f"vit_base_patch16_224.dino[{TINY},out_indices=[cls]]"
CLIP = f"vit_base_patch16_clip_quickgelu_224.openai[{TINY},out_indices=[embedding]]"
OPEN_CLIP = f"vit_base_patch16_clip_224.openai[{TINY},out_indices=[embedding]]"
KINDS = {"single": DINO, "ensemble": f"{DINO}+{CLIP}+{OPEN_CLIP}"}
RANK, ALPHA = 2, 6


def images(count=3):
    return torch.rand(2, count, 3, 32, 32, generator=torch.Generator().manual_seed(1))


@pytest.fixture(params=KINDS)
def metric(request):
    """DreamSim with random weights, and adapters that do something."""
    torch.manual_seed(0)
    backbone = Backbone(KINDS[request.param], weights=None)
    for parameter in backbone.parameters():
        nn.init.normal_(parameter, std=0.1)
    for member in backbone.members:
        if getattr(member.net.model.head, "bias", None) is not None:
            nn.init.zeros_(member.net.model.head.bias)
    lora.add(backbone.net, backbone.name, RANK, ALPHA, targets=["qkv"])
    for name, parameter in backbone.named_parameters():
        if "lora_B" in name:
            nn.init.normal_(parameter, std=0.1)
    return LPIPS(backbone, lin=None, form="concatenated", center=True).eval()


def layer(p, x, eps):
    return F.layer_norm(x, x.shape[-1:], p["weight"], p["bias"], eps)


def below(state, prefix):
    return {
        key.removeprefix(f"{prefix}."): value for key, value in state.items() if key.startswith(f"{prefix}.")
    }


def vit(state, x, clip, quick, heads=2):
    """A vision transformer with LoRA on qkv, by its formulas: the class token, or its projection."""
    eps = 1e-5 if clip else 1e-6
    patches = F.conv2d(x, state["patch_embed.proj.weight"], state.get("patch_embed.proj.bias"), stride=16)
    tokens = (
        torch.cat([state["cls_token"].expand(len(x), -1, -1), patches.flatten(2).mT], 1) + state["pos_embed"]
    )
    if clip:
        tokens = layer(below(state, "norm_pre"), tokens, eps)
    for number in range(12):
        p = below(state, f"blocks.{number}")
        y = layer(below(p, "norm1"), tokens, eps)
        qkv = below(p, "attn.qkv")
        adapted = y @ qkv["lora_A.default.weight"].T @ qkv["lora_B.default.weight"].T * ALPHA / RANK
        qkv = F.linear(y, qkv["base_layer.weight"], qkv["base_layer.bias"]) + adapted
        q, k, v = qkv.unflatten(-1, (3, heads, -1)).permute(2, 0, 3, 1, 4)
        attended = ((q @ k.mT) / q.shape[-1] ** 0.5).softmax(-1) @ v
        tokens = tokens + F.linear(
            attended.transpose(1, 2).flatten(2), p["attn.proj.weight"], p["attn.proj.bias"]
        )
        y = F.linear(layer(below(p, "norm2"), tokens, eps), p["mlp.fc1.weight"], p["mlp.fc1.bias"])
        y = y * torch.sigmoid(1.702 * y) if quick else F.gelu(y)
        tokens = tokens + F.linear(y, p["mlp.fc2.weight"], p["mlp.fc2.bias"])
    if not clip:
        return tokens[:, 0]
    return F.linear(layer(below(state, "norm"), tokens[:, 0], eps), state["head.weight"])


def states(metric):
    """The weights of each member under timm's names, and whether they are CLIP's and have its quick GELU."""
    for member in metric.backbone.members:
        state = {key.removeprefix("model."): value for key, value in member.net.state_dict().items()}
        yield member, state, "clip" in member.name, "quickgelu" in member.name


def by_formulas(metric, x, y):
    parts = [
        [vit(state, (image - member.mean) / member.std, clip, quick) for image in (x, y)]
        for member, state, clip, quick in states(metric)
    ]
    a, b = (torch.cat(part, 1) for part in zip(*parts, strict=True))
    a, b = (v - v.mean(1, keepdim=True) for v in (a, b))
    return 1 - F.cosine_similarity(a, b)


def by_the_package(metric, x, y, monkeypatch):
    """`dreamsim.PerceptualModel` with the same weights; its loaders, which download, are replaced."""
    pytest.importorskip("dreamsim")
    from dreamsim.feature_extraction.extractor import ViTExtractor
    from dreamsim.feature_extraction.load_clip_as_dino import QuickGELU
    from dreamsim.feature_extraction.vision_transformer import VisionTransformer
    from dreamsim.model import PerceptualModel

    left = list(states(metric))

    def create(model_type, load_dir):
        _, state, clip, quick = left.pop(0)
        net = VisionTransformer(img_size=[32], embed_dim=24, num_heads=2, qkv_bias=True)
        if clip:
            net.pos_drop = nn.LayerNorm(24)
        for module in net.modules():
            if isinstance(module, nn.LayerNorm):
                module.eps = 1e-5 if clip else 1e-6
        for block in net.blocks if quick else ():
            block.mlp.act = QuickGELU()
        plain = {
            key.replace(".base_layer.", ".").replace("norm_pre", "pos_drop"): v for key, v in state.items()
        }
        plain.setdefault("patch_embed.proj.bias", torch.zeros(24))
        proj = plain.get("head.weight")
        net.load_state_dict({key: plain.get(key, value) for key, value in net.state_dict().items()})
        return net, proj.T if clip else None

    monkeypatch.setattr(ViTExtractor, "create_model", staticmethod(create))
    kinds = {
        1: ("dino_vitb16", "cls", "16"),
        3: ("dino_vitb16,clip_vitb16,open_clip_vitb16", "cls,embedding,embedding", "16,16,16"),
    }
    model_type, feat_type, stride = kinds[len(left)]
    members = list(states(metric))
    model = PerceptualModel(model_type, feat_type, stride, lora=True, normalize_embeds=True, device="cpu")
    config = peft.LoraConfig(r=RANK, lora_alpha=ALPHA, target_modules=["qkv"])
    model = peft.get_peft_model(model, config).eval()
    for (_, state, _, _), extractor in zip(members, model.base_model.model.extractor_list, strict=True):
        own = extractor.model.state_dict()
        extractor.model.load_state_dict(
            {key: state[key] if "lora_" in key else value for key, value in own.items()}
        )
    return model(x, y)


@pytest.mark.parametrize("reference", ["formulas", "package"])
@torch.no_grad()
def test_the_distance_is_dreamsims(metric, reference, monkeypatch):
    x, y = images()
    if reference == "formulas":
        expected = by_formulas(metric, x, y)
    else:
        expected = by_the_package(metric, x, y, monkeypatch)
    torch.testing.assert_close(metric(x, y) / 2, expected, atol=1e-5, rtol=0)
    assert expected.std() > 1e-4


@torch.no_grad()
def test_all_that_a_distance_does_works_on_one_vector(metric, tmp_path):
    x, y = images()
    d = metric(x, y)
    assert metric.per_level(x, y).shape == (3, 1)
    torch.testing.assert_close(metric.pairwise(x, y).diagonal(), d, atol=1e-5, rtol=1e-4)
    torch.testing.assert_close((metric.embed(x) - metric.embed(y)).square().sum(1), d, atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(metric.reference(y)(x), d)
    one = torch.arange(3)
    torch.testing.assert_close(metric.among(torch.cat([x, y]), one, one + 3), d)
    d0, d1 = metric.triplet(x, y, x)
    torch.testing.assert_close(d0, d)
    assert (d1.abs() < 1e-5).all()
    assert not torch.allclose(LPIPS(metric.backbone, lin=None, form="concatenated")(x, y), d), (
        "centring does something"
    )


def test_a_head_begins_as_nothing_and_is_saved(tmp_path):
    backbone = Backbone("test_vit[out_indices=[cls,embedding]]", weights=None)
    x, y = images()
    head = Head(sum(backbone.channels), 5)
    metric = LPIPS(backbone, lin=None, form="concatenated", head=head)
    plain = LPIPS(backbone, lin=None, form="concatenated")
    with torch.no_grad():
        torch.testing.assert_close(metric(x, y), plain(x, y))
        for parameter in head.parameters():
            nn.init.normal_(parameter)
        e, f = (torch.cat([m.flatten(1) for m in backbone(each)], 1) for each in (x, y))
        w1, b1, w2, b2 = (p.flatten(1) if p.ndim > 1 else p for p in head.parameters())
        e, f = (v + F.relu(v @ w1.T + b1) @ w2.T + b2 for v in (e, f))
        torch.testing.assert_close(metric(x, y), 2 * (1 - F.cosine_similarity(e, f)), atol=1e-5, rtol=1e-4)
        metric.save_pretrained(tmp_path)
        again = LPIPS.from_pretrained(tmp_path)
        assert torch.equal(again(x, y), metric(x, y))
    assert "a head of 5 hidden units" in (tmp_path / "README.md").read_text()
    centred = LPIPS(backbone, lin=None, form="concatenated", center=True)
    centred.save_pretrained(tmp_path)
    assert LPIPS.from_pretrained(tmp_path).center
    config = (tmp_path / "config.json").read_text()
    (tmp_path / "config.json").write_text(config.replace('"center": true', '"center": false'))
    with pytest.raises(ValueError, match="was damaged or changed"):
        LPIPS.from_pretrained(tmp_path)


def test_the_hinge_and_its_gradients_are_dreamsims():
    generator = torch.Generator().manual_seed(0)
    d0, d1, judgment = torch.rand(3, 40, generator=generator, dtype=torch.float64)
    ours, theirs = ([d.clone().requires_grad_() for d in (d0, d1)] for _ in range(2))
    loss = hinge_loss(*ours, judgment, 0.05)
    loss.backward()
    # by hand: round, then ±1
    sign = np.where(judgment.numpy() > 0.5, 1.0, -1.0)
    expected = torch.max(torch.zeros(40), 0.05 - (theirs[0] - theirs[1]) * torch.from_numpy(sign)).mean()
    expected.backward()
    torch.testing.assert_close(loss, expected, atol=1e-6, rtol=0)
    for mine, other in zip(ours, theirs, strict=True):
        torch.testing.assert_close(mine.grad, other.grad, atol=1e-6, rtol=0)
    weight = torch.arange(40.0, dtype=torch.float64)
    alone = [hinge_loss(d0[i : i + 1], d1[i : i + 1], judgment[i : i + 1], 0.05) for i in range(40)]
    torch.testing.assert_close(
        hinge_loss(d0, d1, judgment, 0.05, weight), (torch.stack(alone) * weight).mean()
    )


@pytest.mark.parametrize(
    ("levels", "arguments", "says"),
    [
        ([0, "embedding"], {"form": "concatenated"}, "takes embeddings, and test_vit gives maps: tap"),
        (["embedding"], {"form": "concatenated", "spatial": True}, "compares no positions"),
        (["embedding"], {"center": True}, "center and head are of form='concatenated', got form='per_pos"),
    ],
)
def test_what_does_not_fit_is_one_line(levels, arguments, says):
    backbone = Backbone("test_vit", weights=None, out_indices=levels)
    with pytest.raises(ValueError, match=says) as caught:
        LPIPS(backbone, lin=None, **arguments)
    assert "\n" not in str(caught.value)
