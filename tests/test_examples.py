"""The examples, each run as a user would, with small settings."""

import runpy
import sys
from pathlib import Path

import pytest
import skimage.data
from PIL import Image

from perceptual import LPIPS
from perceptual.data import PhotosDataModule
from perceptual.metrics import PerSubset, TwoAFCScore

EXAMPLES = Path(__file__).parents[1] / "examples"


@pytest.fixture
def example(tmp_path, monkeypatch):
    """Run an example in an empty folder; what its main() returns."""
    monkeypatch.chdir(tmp_path)

    def run(name, *arguments):
        monkeypatch.setattr(sys, "argv", [name, *map(str, arguments)])
        return runpy.run_path(str(EXAMPLES / f"{name}.py"))["main"]()

    return run


def test_an_image_is_optimised_towards_another(example):
    distances = example("optimize_image", "--steps", 8, "--size", 64)
    assert len(distances) == 8
    assert distances[-1] < 0.8 * distances[0]
    with Image.open("progress.png") as picture:
        assert picture.size == (6 * 66 + 2, 68)


def test_an_autoencoder_trained_with_lpips_looks_more_like_its_input(example):
    scores = example("autoencoder", "--steps", 25)  # after ten, either may be ahead
    assert scores["L1 + LPIPS"][1] < scores["L1"][1]
    with Image.open("autoencoder.png") as picture:
        assert picture.size == (8 * 66 + 2, 3 * 66 + 2)


def test_the_metric_in_a_lightning_module(example):
    before, after = example("lightning_module", "--epochs", 1)
    assert after < before


@pytest.mark.slow  # docs/python.md, which a fast test runs, has the same steps
def test_a_distance_is_trained_in_python_and_saved(example):
    before, after = example("train_in_python", "--epochs", 2, "--count", 200)
    data = PhotosDataModule(200, count_val=50, num_workers=0)
    data.setup("validate")
    score, distance = PerSubset(TwoAFCScore(), data.val_set.table.subsets), LPIPS("tf_efficientnet_lite0")
    for batch in data.val_dataloader():
        score.update(*batch.distances(distance), batch.answer, subset=batch.subset)
    assert before == pytest.approx(score.compute()["mean"].item(), abs=1e-5)
    assert before <= after < 1
    assert Path("my_lpips/model.safetensors").is_file()


def test_a_folder_is_clustered(example, tmp_path):
    (tmp_path / "images").mkdir()
    for photo in ("chelsea", "brick"):
        image = Image.fromarray(getattr(skimage.data, photo)())
        for i in range(3):
            image.crop((40 * i, 40, 40 * i + 160, 200)).save(tmp_path / "images" / f"{photo}{i}.png")
    names, label = example("cluster_folder", "images", "--clusters", 2, "--size", 64)
    assert len(set(label)) == 2
    for photo in ("chelsea", "brick"):
        assert len({one for name, one in zip(names, label, strict=True) if name.startswith(photo)}) == 1
    with Image.open("clusters.png") as picture:
        assert picture.size == (3 * 66, 2 * 66)


def test_a_custom_backbone_is_trained_and_scored(example, capsys):
    scores = example("custom_backbone", "--count", 20)
    networks = {"tf_efficientnet_lite0", "tf_efficientnet_lite0-random"}
    assert set(scores) == {"gabor", "gabor, calibrated", *networks}
    assert all(0.4 < score["mean"] < 1 for score in scores.values())
    assert "gabor" in capsys.readouterr().out


def test_every_example_is_run_here():
    here = Path(__file__).read_text()
    assert all(f'"{path.stem}"' in here for path in EXAMPLES.glob("*.py"))
