import pytest
import torch
from rankers import RANDOM, fit, make_batches, trainer

from perceptual.distance.attacks import Ball, ascend, auto_ascend
from perceptual.training.module import PerceptualRanker
from perceptual.training.robust import Robust

RADIUS = 4 / 255
QUIET = {"ranking": "antisymmetric", "lin_init": "ones", "dropout": 0.0, "lr": 0.01}
EMBEDDING = {"name": "test_vit", "weights": None, "out_indices": ["embedding"]}
NETWORKS = {
    "lin": (RANDOM, {}),
    "tune": (RANDOM, {}),
    "lora": ({"name": "test_vit", "weights": None}, {"lora_rank": 2}),
    "head": (EMBEDDING, {"form": "concatenated"}),
}


def draw(*shape, seed=0):
    return torch.rand(*shape, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("attack", [ascend, auto_ascend])
@pytest.mark.parametrize(("norm", "radius"), [("max", RADIUS), ("l2", 0.5)])
def test_an_attack_on_a_linear_function_reaches_the_closed_form(attack, norm, radius):
    x, weights = (
        0.3 + 0.4 * draw(5, 3, 8, 8),
        torch.randn(3, 8, 8, generator=torch.Generator().manual_seed(1)),
    )
    ball = Ball(x, radius, norm)
    y = attack(lambda y: (y * weights).sum((1, 2, 3)), ball, torch.Generator().manual_seed(0), 40)
    gained = ((y - x) * weights).sum((1, 2, 3))
    most = radius * (weights.abs().sum() if norm == "max" else weights.norm())
    assert (gained <= most * (1 + 1e-5)).all()
    assert (gained > 0.97 * most).all()
    if norm == "max":
        torch.testing.assert_close(y, x + radius * weights.sign())
    again = attack(lambda y: (y * weights).sum((1, 2, 3)), ball, torch.Generator().manual_seed(0), 40)
    assert torch.equal(y, again)


@pytest.mark.parametrize("norm", ["max", "l2"])
def test_attacked_images_stay_in_the_ball_and_in_range(norm):
    x, radius = draw(4, 3, 8, 8).round(), 0.3
    for attack in (ascend, auto_ascend):
        y = attack(lambda y: (y - x).square().sum((1, 2, 3)), Ball(x, radius, norm), torch.Generator(), 10)
        change = (y - x).flatten(1)
        assert (change.abs().amax(1) if norm == "max" else change.norm(dim=1)).max() <= radius + 1e-5
        assert y.min() >= 0
        assert y.max() <= 1
        assert (change.norm(dim=1) > 0.1).all()


def shared(batch):
    """The same items as rows of images that recur."""
    count = len(batch.answer)
    return batch._replace(items=torch.arange(3 * count).view(3, count))


@pytest.mark.parametrize("images", ["nearer", "p0", "p1", "ref", "all"])
def test_an_attack_moves_the_images_it_names_and_raises_the_loss(images):
    torch.manual_seed(0)
    ranker = PerceptualRanker(RANDOM, **QUIET, robust={"steps": 3, "images": images, "radius": "8/255"})
    ranker.eval()
    (batch,) = make_batches(1, items=4, side=40)
    made = trainer("/tmp")
    ranker._trainer = made

    def loss(some):
        d0, d1 = some.distances(ranker.distance)
        return torch.nn.functional.binary_cross_entropy_with_logits(
            ranker.ranking(d0, d1), batch.answer, reduction="none"
        )

    attacked, also = (
        ranker.robust.attack(loss, one, 1.0, torch.Generator().manual_seed(0))
        for one in (batch, shared(batch))
    )
    for role in ("ref", "p0", "p1"):
        moved = (attacked.role(role) - batch.role(role)).flatten(1).abs().amax(1)
        torch.testing.assert_close(attacked.role(role), also.role(role), atol=1e-3, rtol=0)
        if images == "nearer":
            expected = torch.zeros(4, dtype=bool) if role == "ref" else (batch.answer > 0.5) == (role == "p1")
        else:
            expected = torch.full((4,), images in (role, "all"))
        assert torch.equal(moved > 0, expected)
        assert moved.max() <= 8 / 255 + 1e-6
    assert (loss(attacked) > loss(batch)).all()


@pytest.mark.parametrize("precision", ["32-true", "bf16-mixed"])
@pytest.mark.parametrize("variant", NETWORKS)
def test_training_takes_part_of_its_loss_from_attacks(variant, precision, tmp_path, monkeypatch):
    if variant == "lora":
        pytest.importorskip("peft")
    (network, more), losses, moved, attack = NETWORKS[variant], {}, [], Robust.attack

    def noted(self, loss, batch, *others):
        found = attack(self, loss, batch, *others)
        moved.append(found.images - batch.images)
        return found

    monkeypatch.setattr(Robust, "attack", noted)
    for weight in (0.25, 1.0, None):
        torch.manual_seed(0)
        robust = None if weight is None else {"steps": 2, "weight": weight}
        ranker = PerceptualRanker(network, variant, **QUIET, **more, robust=robust)
        before = ranker.distance.backbone.fingerprint()
        made = fit(ranker, tmp_path, make_batches(1), log_every_n_steps=1, precision=precision)
        assert (ranker.distance.backbone.fingerprint() == before) == (variant in ("lin", "head"))
        losses[weight] = made.callback_metrics["train/loss"]
        assert ("train/2afc_attacked" in made.callback_metrics) == (weight is not None)
    torch.testing.assert_close(losses[0.25], torch.lerp(losses[None], losses[1.0], 0.25))
    assert losses[1.0] > losses[None]
    for change in moved:  # of images in single precision, whatever that of the features
        assert change.dtype == torch.float32
        assert change.abs().max() == pytest.approx(RADIUS, rel=1e-4)


def test_a_step_costs_at_most_steps_and_two_plain_ones(tmp_path):
    passes = {}
    for steps in (0, 3):
        ranker = PerceptualRanker(RANDOM, "tune", **QUIET, robust={"steps": steps})
        passes[steps] = seen = []
        ranker.distance.backbone.register_forward_hook(
            lambda _, inputs, __, seen=seen: seen.append(len(inputs[0]))
        )
        fit(ranker, tmp_path, make_batches(1))
    assert sum(passes[0]) < sum(passes[3]) <= 5 * sum(passes[0])


def test_the_radius_grows_in_warmup_and_a_run_repeats(tmp_path):
    batches, weights, parts, attack = make_batches(4), [], [], Robust.attack

    def noted(self, loss, batch, part, generator):
        parts.append(part)
        return attack(self, loss, batch, part, generator)

    for _ in range(2):
        parts.clear()
        torch.manual_seed(0)
        ranker = PerceptualRanker(RANDOM, "tune", **QUIET, robust={"steps": 1, "warmup": 0.5})
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(Robust, "attack", noted)
            fit(ranker, tmp_path, batches)
        assert parts == [0.5, 1, 1, 1]
        weights.append(ranker.distance.backbone.fingerprint())
    assert weights[0] == weights[1]


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"radius": "4/0"}, "robust.radius must be a positive number or fraction, such as 4/255, got 4/0"),
        ({"radius": -1}, "robust.radius must be a positive number"),
        ({"norm": "l1"}, "robust.norm must be one of max, l2, got 'l1'"),
        ({"images": "p2"}, "robust.images must be one of nearer, p0, p1, ref, all, got 'p2'"),
        ({"weight": 0}, "robust.weight must be more than 0 and at most 1, got 0"),
        ({"warmup": 1}, "robust.warmup must be at least 0 and less than 1, got 1"),
        ({"steps": -1}, "robust.steps must be at least 0, got -1"),
    ],
)
def test_settings_out_of_range_are_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        Robust(**settings)
