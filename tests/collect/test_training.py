"""From photographs to a trained metric: triplets, votes through HTTP, export, train.py."""

import io

import app
import numpy as np
import pytest
import torch
from PIL import Image
from studies import Visitor, make_study, served

from perceptual.collect.export import export
from perceptual.collect.quality import Rules
from perceptual.data import TWO_AFC, ManifestDataModule
from perceptual.data.synthetic.making import make_items
from perceptual.data.synthetic.photographs import packaged
from perceptual.data.writers.folders import write_new
from perceptual.evaluation.methods import build
from perceptual.evaluation.scoring import measure
from perceptual.evaluation.statistics import bootstrap, clusters
from perceptual.metrics.two_afc import two_afc_agreement

SHARE = 0.02  # of the channels
pytestmark = [pytest.mark.slow, pytest.mark.timeout(590)]


def observer():
    """An LPIPS with weights of its own: few of the channels count, at random."""
    distance, chance = build("alexnet-uncalibrated"), torch.Generator().manual_seed(1)
    with torch.no_grad():
        for lin in distance.lin:
            lin.copy_((torch.rand(lin.shape, generator=chance) < SHARE).float())
    return distance


def test_the_manifest_trains(assets, tmp_path, monkeypatch):
    """Judgments of an observer who weights channels in their own way, gathered through HTTP, are learnt."""
    monkeypatch.setenv("PERCEPTUAL_WEIGHTS", str(assets / "weights"))
    monkeypatch.chdir(tmp_path)
    write_new(make_items(TWO_AFC, packaged(), 600, 0), tmp_path / "ask", "unjudged")
    chance = np.random.default_rng(0)

    distance = observer()

    def observe(visitor, trial):
        images = [np.asarray(Image.open(io.BytesIO(file))) for file in visitor.pixels(trial)]
        left, ref, right = torch.from_numpy(np.stack(images)).permute(0, 3, 1, 2)[:, None].float() / 255
        with torch.no_grad():
            ratio = (distance(ref, right) / distance(ref, left).clamp(min=1e-6)).item()
        prefers_right = 1 / (1 + max(ratio, 1e-6) ** 8)
        return "right" if chance.random() < prefers_right else "left"

    study = make_study(tmp_path, source=tmp_path / "ask", items_per_session=300, votes_per_item=3)
    with served(study) as server:
        for _ in range(6):
            Visitor(server.port).enrol().take_part(observe)
        done = export(server.database, tmp_path / "judged", Rules())
    assert (done.items, done.votes) == (600, 1800)
    data = [
        "data=manifest",
        "data.path=judged/manifest.csv",
        "data.split_by=triplet",
        "data.val_fraction=0.4",
    ]
    app.run(
        "train.py",
        *data,
        "backbone=alexnet",
        "model=lin",
        "model.lr=0.003",
        "trainer.max_epochs=30",
        "runs=runs",
        monkeypatch=monkeypatch,
    )
    (trained,) = (tmp_path / "runs").glob("**/last.ckpt")

    module = ManifestDataModule("judged/manifest.csv", split_by="triplet", val_fraction=0.4)
    module.setup("validate")
    methods = {"trained": str(trained), "uncalibrated": "alexnet-uncalibrated"}
    measured = measure({name: build(method) for name, method in methods.items()}, module.val_dataloader())

    table = module.val_set.table
    judgment = torch.from_numpy(table.answer)
    agreement = [
        two_afc_agreement(*map(torch.from_numpy, measured[name].columns), judgment).numpy()
        for name in methods
    ]
    drawn = bootstrap(np.stack(agreement), np.zeros(len(table), np.int64), clusters(table.role("ref"))[0])
    gain = drawn.draws[:, 0, -1] - drawn.draws[:, 1, -1]
    low, high = np.quantile(gain, [0.025, 0.975])
    print(
        f"trained {drawn.score[0, -1]:.3f}, uncalibrated {drawn.score[1, -1]:.3f}, "
        f"gain {low:.3f} to {high:.3f}"
    )
    assert low > 0
