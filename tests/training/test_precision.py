"""trainer.precision=bf16-mixed: features in bfloat16 while training and validating, distances in float32."""

import app
import pytest
import torch
from rankers import RANDOM, Data, make_batches, trainer

from perceptual.data import Batch
from perceptual.features.backbone import Backbone
from perceptual.training.module import PerceptualRanker


@pytest.fixture
def seen(monkeypatch):
    """Notes (training mode, what, type) of the maps of a ranker and of the distances of its batches."""
    noted = set()
    measure = Batch.distances

    def note(batch, distance):
        d0, d1 = measure(batch, distance)
        noted.add((distance.training, "distances", d0.dtype))
        noted.add((distance.training, "distances", d1.dtype))
        return d0, d1

    monkeypatch.setattr(Batch, "distances", note)

    def watch(ranker):
        def hook(module, inputs, maps):
            noted.update((ranker.training, "maps", each.dtype) for each in maps)

        ranker.distance.backbone.register_forward_hook(hook)
        return noted

    return watch


@pytest.mark.parametrize("variant", ["tune", "lin", "scratch"])
@pytest.mark.parametrize(("precision", "dtype"), [("bf16-mixed", torch.bfloat16), ("32-true", torch.float32)])
def test_the_precision_of_the_trainer_is_that_of_the_maps(tmp_path, seen, variant, precision, dtype):
    ranker = PerceptualRanker(RANDOM, variant)
    noted = seen(ranker)
    made = trainer(tmp_path, precision=precision)
    made.fit(ranker, datamodule=Data(make_batches(), ["all"]))
    assert noted == {
        (training, what, type_)
        for training in (True, False)
        for what, type_ in (("maps", dtype), ("distances", torch.float32))
    }
    assert all(parameter.dtype == torch.float32 for parameter in ranker.parameters())


def test_train_py_passes_it_on(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    path = app.write_manifest(tmp_path / "set")
    noted, forward = set(), Backbone.forward

    def note(backbone, images):
        maps = forward(backbone, images)
        noted.update((backbone.training, each.dtype) for each in maps)
        return maps

    monkeypatch.setattr(Backbone, "forward", note)
    words = (
        "data=manifest",
        f"data.path={path}",
        "data.size=32",
        "backbone.name=test_resnet",
        "trainer=smoke",
        *app.NO_PICTURES,
    )
    words = (*words, "backbone.weights=null", "model=tune", "trainer.precision=bf16-mixed")
    app.run("train.py", *words, monkeypatch=monkeypatch)
    assert {dtype for training, dtype in noted if training} == {torch.bfloat16}
