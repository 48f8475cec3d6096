import csv
import json
from pathlib import Path

import numpy as np
import pytest
import pytorch_lightning as pl
import timm
import torch
from PIL import Image

from perceptual import LPIPS, PerceptualRanker, create_metric


def tensor(*pixels):
    return torch.from_numpy(np.stack(pixels).transpose(0, 3, 1, 2).astype(np.float32) / 255)


def picture(path):
    """Pixels (H, W, 3) of a picture."""
    with Image.open(path) as image:
        return np.asarray(image.convert("RGB")).astype(float)


def is_drawn(path):
    """Whether a file is a picture that is not of one colour."""
    return np.ptp(picture(path)) > 100


# pairs


def test_the_matrix_is_that_of_all_pairs(shell, draw, weights):
    images = [draw(f"photos/{number}.png", number % 4) for number in range(5)]  # 4 is 0 again
    code, out, _ = shell("pairs", "photos", "-o", "m.csv", "--plot", "tree.png", "--csv")
    assert code == 0
    with open("m.csv", newline="") as file:
        header, *rows = csv.reader(file)
    assert header == ["image", *(f"{number}.png" for number in range(5))]
    assert [row[0] for row in rows] == header[1:]
    matrix = np.array([[float(cell) for cell in row[1:]] for row in rows])
    first, second = np.divmod(np.arange(25), 5)
    batch = tensor(*images)
    expected = LPIPS("alexnet")(batch[first], batch[second]).view(5, 5)
    np.testing.assert_allclose(matrix, expected, rtol=1e-3, atol=1e-6)
    _, *nearest = csv.reader(out.splitlines())
    assert [row[:2] for row in nearest[:2]] == [["0.png", "4.png"], ["4.png", "0.png"]]
    np.fill_diagonal(matrix, np.inf)
    for image, other, value in nearest:
        row = matrix[int(image[0])]
        assert (int(other[0]), float(value)) == (row.argmin(), row.min())
    assert is_drawn("tree.png")


def test_pairs_of_a_classic_distance(shell, draw):
    a, b, c = (draw(f"photos/{number}.png", number) for number in range(3))
    _, out, _ = shell("pairs", "photos", "-m", "l2", "--nearest", 2, "--json")
    found = {(row["image"], row["nearest"]): row["distance"] for row in json.loads(out)["nearest"]}
    assert len(found) == 6
    for (i, x), (j, y) in [((0, a), (1, b)), ((2, c), (0, a))]:
        expected = ((x / 255 - y / 255) ** 2).mean()
        assert found[f"{i}.png", f"{j}.png"] == pytest.approx(expected, rel=1e-5)


def test_pairs_report_what_they_leave_out(shell, draw, folder):
    for number in range(3):
        draw(f"photos/{number}.png", number)
    draw("photos/small.png", 0, 20, 20)
    (folder / "photos/1.png").write_text("an essay")
    code, _, err = shell("pairs", "photos", "-m", "l2", "-o", "m.csv")
    assert code == 1
    assert err.splitlines() == [
        "not measured: photos/1.png (not an image)",
        "not measured: photos/0.png has 48×40 pixels, photos/small.png 20×20; --resize resizes the "
        "second to the first",
        "error: 2 of 4 images could not be measured",
    ]
    assert Path("m.csv").read_text().splitlines()[0] == "image,0.png,2.png"
    draw("one/1.png", 0)
    assert shell("pairs", "one", "-m", "l2")[2] == "error: one has fewer than two images that can be used"


@pytest.mark.parametrize("outside", ["see", "fill"])
@pytest.mark.parametrize("method", ["alexnet", "l2"])
def test_pairs_and_candidates_count_where_a_mask_says(shell, draw, folder, weights, outside, method):
    """Both commands give the distances of Python, which differ from those of whole images."""
    images = tensor(*(draw(f"photos/{number}.png", number) for number in range(3)))
    ink = np.zeros((40, 48), np.uint8)
    ink[8:30, 10:40] = 255
    Image.fromarray(ink).save("m.png")
    how = {"outside": outside} if method == "alexnet" else {}
    metric, mask = create_metric(method, **how), torch.from_numpy(ink)[None, None]
    words = ["-m", method, "--mask", "m.png", *(f"--{name}={value}" for name, value in how.items())]
    of = {}
    for i, j in ((0, 1), (0, 2), (1, 2)):
        metric.reset()
        metric.update(images[[i]], images[[j]], mask=mask)
        of[i, j] = of[j, i] = metric.compute().item()
    code, out, err = shell("pairs", "photos", *words, "--nearest", 2, "--json")
    assert (code, err) == (0, "")
    for row in json.loads(out)["nearest"]:
        assert row["distance"] == pytest.approx(of[int(row["image"][0]), int(row["nearest"][0])], rel=1e-3)
    code, out, err = shell("rank", *(f"photos/{number}.png" for number in (1, 0, 2)), *words, "--json")
    assert (code, err) == (0, "")
    found = {int(row["image"][-5]): row["distance"] for row in json.loads(out)["images"]}
    assert found == pytest.approx({0: of[1, 0], 2: of[1, 2]}, rel=1e-5)
    whole = shell("rank", *(f"photos/{number}.png" for number in (1, 0)), "-m", method, "--json")[1]
    assert json.loads(whole)["images"][0]["distance"] != pytest.approx(of[1, 0], rel=1e-3)
    Image.fromarray(ink[1:]).save("small.png")
    for command in (["pairs", "photos"], ["rank", "photos/0.png", "photos/1.png"]):
        code, _, err = shell(*command, "-m", method, "--mask", "small.png")
        assert (code, "small.png 48×39; --resize" in err) == (1, True)


def test_a_tree_of_distances_that_are_not_finite_is_refused(shell, draw):
    for number in range(3):
        draw(f"photos/{number}.png", 0)
    code, _, err = shell("pairs", "photos", "-m", "psnr", "--plot", "tree.png")
    assert (code, err.count("\n"), "not finite" in err) == (1, 0, True)


# heatmap


@pytest.mark.parametrize(("left", "top"), [(8, 72), (80, 16)])
def test_the_map_peaks_where_a_patch_was_pasted(shell, draw, folder, weights, left, top):
    pixels = draw("a.png", 0, 128, 128)
    pixels[top : top + 32, left : left + 32] = (255, 0, 0)
    Image.fromarray(pixels).save(folder / "b.png")
    code, out, _ = shell("heatmap", "a.png", "b.png", "-o", "map.png", "--json")
    peak = json.loads(out)["peak"]
    assert code == 0
    assert left <= peak["x"] < left + 32
    assert top <= peak["y"] < top + 32
    # the picture: of the third panel the brightest part is the patch
    drawn = picture("map.png")
    bright = drawn[:, :, 0] - drawn[:, :, 2]  # the upper colours of the map are yellow
    height, width = bright.shape
    panel = bright[:, int(0.62 * width) : int(0.92 * width)]
    rows, columns = np.nonzero(panel > 0.8 * panel.max())
    assert (np.median(rows) / height > 0.5) == (top > 48)
    assert (np.median(columns) / panel.shape[1] > 0.5) == (left > 48)


def test_the_strip_of_levels_makes_the_picture_taller_and_adds_up(shell, draw, weights):
    draw("a.png", 0, 64, 64)
    draw("b.png", 1, 64, 64)
    _, out, _ = shell("heatmap", "a.png", "b.png", "-o", "map.png", "--json")
    shell("heatmap", "a.png", "b.png", "-o", "levels.png", "--levels")
    found = json.loads(out)
    assert len(found["levels"]) == 5
    assert sum(found["levels"]) == pytest.approx(found["distance"])
    assert len(picture("levels.png")) > len(picture("map.png"))
    assert is_drawn("map.png")
    assert is_drawn("levels.png")


def test_equal_images_have_a_map(shell, draw, weights):
    draw("a.png", 0, 64, 64)
    assert shell("heatmap", "a.png", "a.png")[:2] == (0, "map.png: distance 0.0000 · alexnet-v0.1\n")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("-m", "ssim"), "ssim gives one number, no map"),
        (("-o", "map.xyz"), "map.xyz cannot be drawn: its suffix must be one of "),
        (("-o", "."), ". is a folder, where the name of a file is expected"),
        (("-o", "/proc/map.png"), "/proc/map.png cannot be written ("),
    ],
)
def test_a_map_that_cannot_be_drawn_is_one_line(shell, draw, weights, arguments, message):
    draw("a.png", 0, 64, 64)
    code, out, err = shell("heatmap", "a.png", "a.png", *arguments)
    assert (code, out) == (1, "")
    assert err.startswith(f"error: {message}")
    assert [path.name for path in Path().iterdir()] == ["a.png"]


def test_a_plot_that_cannot_be_written_is_found_before_any_work(shell, draw, folder):
    draw("photos/a.png", 0)
    for command in (("pairs", "photos"), ("video", *2 * ["photos/a.png"])):
        _, _, err = shell(*command, "--plot", "photos")
        assert err == "error: photos is a folder, where the name of a file is expected"


# rank


def noisy(draw, folder, grains):
    """A reference and candidates with more and more noise, as paths."""
    ref = draw("ref.png", 0, 64, 64).astype(float)
    for grain in grains:
        pixels = np.clip(ref + np.random.default_rng(1).normal(0, grain, ref.shape), 0, 255)
        Image.fromarray(pixels.astype(np.uint8)).save(folder / f"{grain}.png")
    return [f"{grain}.png" for grain in grains]


def test_candidates_are_ordered(shell, draw, folder):
    images = noisy(draw, folder, (60, 5, 20))
    code, out, _ = shell("rank", "ref.png", *images, "-m", "l2", "--json")
    assert code == 0
    assert [row["image"] for row in json.loads(out)["images"]] == ["5.png", "20.png", "60.png"]
    assert [row["rank"] for row in json.loads(out)["images"]] == [1, 2, 3]
    code, out, err = shell("rank", "ref.png", "5.png", "gone.png", "-m", "l2", "--csv")
    assert (code, len(out.splitlines())) == (1, 2)
    assert err.splitlines()[0] == "not measured: no file gone.png"
    assert shell("rank", "gone.png", "5.png", "-m", "l2")[2] == "error: no file gone.png"


@pytest.mark.parametrize("ranking", ["paper", "antisymmetric"])
def test_a_checkpoint_says_how_sure_it_is(shell, draw, folder, ranking):
    images = noisy(draw, folder, (60, 5, 20))
    torch.manual_seed(0)
    model = PerceptualRanker({"name": "alexnet", "weights": None}, ranking=ranking)
    model.distance.project()
    trainer = pl.Trainer(
        logger=False, enable_checkpointing=False, enable_progress_bar=False, accelerator="cpu"
    )
    trainer.strategy.connect(model)
    trainer.save_checkpoint("model.ckpt")
    code, out, err = shell("rank", "ref.png", *images, "-m", "model.ckpt", "--json")
    assert code == 0, err
    rows = json.loads(out)["images"]
    assert [row["image"] for row in rows] == ["5.png", "20.png", "60.png"]
    d = torch.tensor([row["distance"] for row in rows])
    with torch.no_grad():
        there, back = (torch.sigmoid(model.ranking(*d01)) for d01 in ((d[1:], d[:-1]), (d[:-1], d[1:])))
    expected = [*((there + 1 - back) / 2).tolist(), None]
    assert [row["preferred_to_next"] for row in rows] == pytest.approx(expected, abs=1e-6)
    if ranking == "antisymmetric":  # the nearer is the preferred one
        assert all(row["preferred_to_next"] > 0.5 for row in rows[:-1])
    assert shell("rank", "ref.png", "gone.png", "-m", "model.ckpt")[2].splitlines() == [
        "not measured: no file gone.png",
        "error: 1 of 1 images could not be measured",
    ]
    code, out, _ = shell("info", "model.ckpt", "--json")
    found = json.loads(out)
    assert (found["variant"], found["backbone"], found["method"]) == ("lin", "alexnet", "model.ckpt")


# models and info


def test_the_cost_of_a_variant(shell):
    name = "test_resnet[aa_layer=blurpc]"
    code, out, _ = shell("models", "--variant", name, "--json")
    facts = json.loads(out)
    net = timm.create_model("test_resnet", features_only=True)
    assert (code, facts["backbone"]) == (0, name)
    assert facts["channels"] == net.feature_info.channels()
    assert facts["parameters"] == sum(p.numel() for p in net.parameters())
    assert facts["FLOPs_of_64×64"] > 0
    assert facts["maps_of_64×64"][0] == "32×32"
    code, out, err = shell("models", "--variant", "test_resnet[aa_layr=blur]")
    assert (code, out) == (1, "")
    assert "has no option aa_layr" in err
    assert shell("models", "--variant", name, "--csv")[0] == 1


def test_models_on_this_machine(shell, weights):
    code, out, _ = shell("models", "--json")
    found = {row["backbone"]: row for row in json.loads(out)}
    assert code == 0
    assert found["alexnet"] == {"backbone": "alexnet", "calibrations": ["v0.0", "v0.1"], "weights": "file"}
    assert found["tf_efficientnet_lite0.in1k"]["weights"] == "package"
    assert (found["squeezenet1_1"]["weights"], "resnet50.a1_in1k" in found) == ("hub", False)


def test_models_of_a_pattern(shell):
    _, out, _ = shell("models", "*vgg16*", "--csv")
    assert [line.split(",")[0] for line in out.splitlines()] == [
        "backbone",
        "vgg16.tv_in1k",
        "vgg16_bn.tv_in1k",
    ]
    assert shell("models", "convnextt")[2] == "error: no backbone with weights fits 'convnextt'"


def test_a_downloaded_model_is_cached(shell, monkeypatch, tmp_path):
    snapshot = tmp_path / "models--timm--vgg16.tv_in1k/snapshots/abc"
    snapshot.mkdir(parents=True)
    (snapshot / "model.safetensors").write_text("weights")
    (snapshot.parents[1] / "refs").mkdir()
    (snapshot.parents[1] / "refs/main").write_text("abc")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr("huggingface_hub.file_download.HF_HUB_CACHE", str(tmp_path), raising=False)
    _, out, _ = shell("models", "vgg16.tv_in1k", "--csv")
    assert out.splitlines()[1].endswith(",cached")


def test_info(shell, weights, folder):
    code, out, _ = shell("info", "alexnet-v0.1", "--json")
    found = json.loads(out)
    model = LPIPS("alexnet")
    assert code == 0
    assert found["weights_sha256"] == model.backbone.fingerprint()
    assert found["channels"] == [64, 192, 384, 256, 256]
    assert found["calibration"].startswith("v0.1 of Zhang et al.")
    assert found["weights"].startswith("file:")
    assert json.loads(shell("info", "alex", "--json")[1]) == found
    assert shell("info", "alexnet-uncalibrated")[1].count("none: all weights 1") == 1
    assert shell("info", "l2")[0] == 0
    model.save_pretrained(folder / "mine")
    theirs = json.loads(shell("info", "./mine", "--json")[1])
    assert (theirs["family"], theirs["calibration"]) == ("alexnet", found["calibration"])
    model.lin[0].data.mul_(2)
    model.save_pretrained(folder / "own")
    assert json.loads(shell("info", "./own", "--json")[1])["calibration"] == "./own"
    assert shell("info", "nothing")[2].startswith("error: unknown method 'nothing'")
