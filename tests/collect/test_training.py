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
from perceptual.data import ManifestDataModule
from perceptual.data.synthetic.making import make_triplets
from perceptual.data.synthetic.photographs import packaged
from perceptual.data.writers.folders import write_unjudged
from perceptual.evaluation.intervals import bootstrap, clusters
from perceptual.evaluation.methods import build
from perceptual.evaluation.scoring import measure
from perceptual.metrics.two_afc import two_afc_agreement

pytestmark = [pytest.mark.slow, pytest.mark.timeout(590)]


def coarse(image):
    """What the simulated observer sees: means of 8×8 pixels."""
    side = image.shape[0] // 8
    return image.reshape(side, 8, side, 8, 3).mean((1, 3))


def test_the_manifest_trains(assets, tmp_path, monkeypatch):
    """Judgments of an observer who sees coarse colours only, gathered through HTTP, are learnt."""
    monkeypatch.setenv("PERCEPTUAL_WEIGHTS", str(assets / "weights"))
    monkeypatch.chdir(tmp_path)
    write_unjudged(make_triplets(packaged(), 600, 0), tmp_path / "ask")
    chance = np.random.default_rng(0)

    def observe(visitor, trial):
        images = [
            coarse(np.asarray(Image.open(io.BytesIO(file))).astype(float)) for file in visitor.pixels(trial)
        ]
        left, right = (np.sqrt(np.square(images[side] - images[1]).mean()) for side in (0, 2))
        prefers_right = 1 / (1 + np.exp(8 * (np.log(right + 1) - np.log(left + 1))))
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
    app.run("train.py", *data, "backbone=alexnet", "model=lin", "runs=runs", monkeypatch=monkeypatch)
    (trained,) = (tmp_path / "runs").glob("**/last.ckpt")

    module = ManifestDataModule("judged/manifest.csv", split_by="triplet", val_fraction=0.4)
    module.setup("validate")
    methods = {"trained": str(trained), "uncalibrated": "alexnet-uncalibrated"}
    measured = measure({name: build(method) for name, method in methods.items()}, module.val_dataloader())

    table = module.val_set.table
    judgment = torch.from_numpy(table.judgment)
    agreement = [
        two_afc_agreement(*map(torch.from_numpy, measured[name].columns), judgment).numpy()
        for name in methods
    ]
    drawn = bootstrap(np.stack(agreement), np.zeros(len(table), np.int64), clusters(table.ref)[0])
    gain = drawn.draws[:, 0, -1] - drawn.draws[:, 1, -1]
    low, high = np.quantile(gain, [0.025, 0.975])
    print(
        f"trained {drawn.score[0, -1]:.3f}, uncalibrated {drawn.score[1, -1]:.3f}, "
        f"gain {low:.3f} to {high:.3f}"
    )
    assert low > 0
