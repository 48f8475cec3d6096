"""Training on trios: people of known distances are recovered; what is for triplets is refused."""

import csv
import json
from pathlib import Path

import app
import numpy as np
import pytest
import torch
from judged import make_table
from rankers import RANDOM, trainer

from perceptual.data import ODD_ONE_OUT, JudgedDataModule
from perceptual.distance.lpips import LPIPS
from perceptual.evaluation.scoring import columns_of, score
from perceptual.features.build import build_backbone
from perceptual.ranking import RANKINGS, ranking_loss
from perceptual.training.cache import CachedDataModule
from perceptual.training.module import PerceptualRanker

SMOOTH = [name for name in RANKINGS if name != "paper"]


@pytest.mark.parametrize("name", SMOOTH)
def test_a_softmax_over_two_distances_is_the_preference(name):
    ranking = RANKINGS[name]()
    torch.nn.init.constant_(ranking.log_slope, 0.7)
    d = torch.rand(3, 20, generator=torch.Generator().manual_seed(0))
    utility = {
        "antisymmetric": -d.numpy(),
        "bounded": -(d / (d.sum(0) + 1e-6)).numpy(),
        "ratio": -np.log(d.numpy() + 1e-8),
    }[name] * np.exp(0.7)
    odd = np.random.default_rng(0).dirichlet((1, 1, 1), 20)
    logits = ranking(*d)
    of_each = -(odd.T * (utility - np.log(np.exp(utility).sum(0)))).sum(0)
    assert ranking_loss(logits, torch.tensor(odd).float()).item() == pytest.approx(of_each.mean(), rel=1e-5)
    weight = torch.rand(20)
    found = ranking_loss(logits, torch.tensor(odd).float(), weight).item()
    assert found == pytest.approx((weight.numpy() * of_each).mean(), rel=1e-5)
    if name != "bounded":  # whose sum is of all three
        two = ranking(d[0], d[1]).detach().sigmoid()
        torch.testing.assert_close(logits[:, :2].softmax(1)[:, 1], two)


class Trios(JudgedDataModule):
    """Noise of several grains, and people who leave out by a softmax over known distances."""

    kind = ODD_ONE_OUT
    count, votes, scale = 600, 8, 14.0

    def truth(self):
        torch.manual_seed(0)
        distance = LPIPS(build_backbone(RANDOM, trainable=False, scratch=False), lin=None)
        generator = torch.Generator().manual_seed(1)
        for vector in distance.lin:
            keep = torch.rand(len(vector), generator=generator) < 0.1
            vector.copy_(9 * keep * torch.rand(len(vector), generator=generator))
        return distance

    def read(self, side):
        rng = np.random.default_rng(side == "val")
        base = rng.integers(0, 256, (60, 3, 40, 40))
        grain, shift = rng.uniform(0, 120, (60, 1, 1, 1)), rng.uniform(-60, 60, (60, 3, 1, 1))
        images = torch.from_numpy(np.clip(128 + shift + (base - 128) * grain / 120, 0, 255).astype(np.uint8))
        shown = np.stack([rng.choice(60, 3, replace=False) for _ in range(self.count)])
        roles = dict(zip("abc", shown.T, strict=True))
        made = make_table(ODD_ONE_OUT, images, **roles, odd=np.zeros((self.count, 3)))
        table = Judge(made).val_set
        (d,) = columns_of({"": self.truth()}, Judge(made).val_dataloader())[""]
        p = np.exp(-self.scale * np.stack(d, 1).astype(float))
        votes = rng.multinomial(self.votes, p / p.sum(1, keepdims=True))
        odd = votes / self.votes
        return make_table(ODD_ONE_OUT, images, **roles, odd=odd, votes=np.full(len(table), float(self.votes)))

    def source(self):
        return "made up"


class Judge(JudgedDataModule):
    kind, trains = ODD_ONE_OUT, False

    def __init__(self, table):
        super().__init__(size=40, batch_size=50)
        self.table = table
        self.setup("validate")

    def read(self, side):
        return self.table


@pytest.fixture(scope="module")
def trios():
    data = Trios(size=40, batch_size=50)
    data.setup("fit")
    return data


def test_simulated_people_of_known_distances_are_recovered(trios, tmp_path):
    torch.manual_seed(0)
    ranker = PerceptualRanker(RANDOM, ranking="antisymmetric", lin_init="ones", lr=0.05, dropout=0.0)
    ranker.distance.backbone.load_state_dict(trios.truth().backbone.state_dict())
    before = ranker.uncalibrated()
    batches = CachedDataModule(trios, ranker.distance, tmp_path / "cache")
    trainer(tmp_path, max_epochs=15).fit(ranker, datamodule=batches)
    ranker.eval()
    distances = {"before": before, "trained": ranker.distance, "true": trios.truth()}
    scores = {name: found["mean"] for name, found in score(distances, trios.val_dataloader()).items()}
    assert scores["trained"] > scores["before"] + 0.02
    assert scores["trained"] > scores["true"] - 0.025
    columns = {
        name: np.concatenate(c) for name, (c,) in columns_of(distances, trios.val_dataloader()).items()
    }
    # scale and distance are known together: what people left out by
    ours = ranker.ranking.log_slope.exp().item() * columns["trained"]
    theirs = trios.scale * columns["true"]
    assert np.corrcoef(ours, theirs)[0, 1] > 0.97
    assert np.polyfit(theirs, ours, 1)[0] == pytest.approx(1, abs=0.15)


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"ranking": "paper"}, r"model\.ranking=paper is for triplets, and trios have 3 distances"),
        ({"loss": "hinge"}, r"model\.loss=hinge is"),
        ({"ranking": "bounded", "augmentation": ["swap"]}, r"model\.augmentation=\[swap\] is"),
        ({"ranking": "bounded", "robust": {"steps": 1}}, "robust is for triplets"),
    ],
)
def test_what_is_for_triplets_is_refused(trios, tmp_path, settings, said):
    with pytest.raises(ValueError, match=said):
        trainer(tmp_path).fit(PerceptualRanker(RANDOM, **settings), datamodule=trios)


def test_train_evaluate_and_a_suite_from_the_command_line(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    triplets = app.write_manifest(tmp_path / "set", rows=48)
    with triplets.open() as file:
        rows = list(csv.DictReader(file))
    with (tmp_path / "set/trios.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["a", "b", "c", "odd_a", "odd_b", "odd_c", "split"])
        for row in rows:
            p1 = int(4 * float(row["judge"]))
            writer.writerow([row["ref"], row["p0"], row["p1"], 0, p1, 4 - p1, row["split"]])
    data = ("data=odd", "data.path=set/trios.csv", "data.size=32")
    small = ("backbone.name=test_resnet", "backbone.weights=null", "trainer=smoke")
    app.run("train.py", *data, *small, "trainer.limit_val_batches=null", monkeypatch=monkeypatch)
    out = capsys.readouterr().out
    assert "val odd one out" in out
    assert "odd one out in %" in out
    (run,) = Path("runs").glob("*/*")
    assert (run / "checkpoints/best.ckpt").is_file()
    scores = json.loads((run / "scores.json").read_text())
    assert 0 < scores["trained"]["mean"] <= 1
    app.run("evaluate.py", f"ckpt={run / 'checkpoints/last.ckpt'}", monkeypatch=monkeypatch)
    assert f"{100 * scores['trained']['mean']:.1f}" in capsys.readouterr().out
    Path("suite.yaml").write_text(
        "trios: {data: odd, path: set/trios.csv, size: 32, val_fraction: 0.5}\n"
        "choices: {data: manifest, path: set/triplets.csv, size: 32}\n"
    )
    app.run("evaluate.py", *data, "methods=[l2,ssim]", monkeypatch=monkeypatch)
    assert "ceiling, estimated" in (shown := capsys.readouterr().out) or "12 validation trios" in shown
    app.run("evaluate.py", "suite=suite.yaml", "methods=[l2,ssim]", monkeypatch=monkeypatch)
    assert "trios: odd one out in %" in capsys.readouterr().out
