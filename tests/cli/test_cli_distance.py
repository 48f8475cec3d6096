import io
import json
import os
import re
import subprocess
import sys
from importlib import metadata
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torchmetrics.functional.image import structural_similarity_index_measure

import perceptual
from perceptual import LPIPS
from perceptual.cli.errors import write_anything

COMMANDS = (
    *(
        "distance",
        "dirs",
        "pairs",
        "heatmap",
        "rank",
        "video",
        "notice",
        "models",
        "info",
        "export",
        "leaderboard",
    ),
    *("compare", "data pack", "data show", "collect new", "collect serve", "collect export"),
)
# besides torch, which every distance needs, with what reads images
OTHERS = {"timm", "torchvision", "torchmetrics", "piq", "scipy", "huggingface_hub", "wandb", "matplotlib"} | {
    *("av", "pytorch_lightning", "requests", "sqlalchemy", "uvicorn", "starlette")
}
HEAVY = {"torch", "numpy", "PIL", *OTHERS}


def batch(pixels):
    return torch.from_numpy(pixels.transpose(2, 0, 1)[None].astype(np.float32) / 255)


def test_help_of_every_command_has_an_example_and_imports_nothing_heavy():
    code = (
        "import sys\n"
        "from perceptual.cli import app\n"
        f"for words in {COMMANDS}:\n"
        "    try: app([*words.split(), '--help'])\n"
        "    except SystemExit as end: assert not end.code\n"
        f"heavy = {HEAVY} & set(sys.modules)\n"
        "assert not heavy, heavy"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True)
    for words in COMMANDS:
        assert re.search(rf"Example: perceptual {words}[ \n]", run.stdout), words


MISSING = {
    "distance no.png no.png": "no file no.png",
    "distance no.png no.png --metod l2": "No such option",
    "heatmap no.png no.png": "no file no.png",
    "rank no.png no.png": "no file no.png",
    "video no.mp4 no.mp4": "no file no.mp4",
    "pairs no": "no folder no",
    "dirs . no": "no folder no",
}


def test_what_is_not_there_is_said_before_anything_heavy_is_imported(folder):
    code = (
        "import sys\n"
        "from perceptual.cli import app\n"
        f"for words in {list(MISSING)}:\n"
        "    try: app(words.split())\n"
        "    except SystemExit as end: print(end.code, file=sys.stderr)\n"
        f"heavy = {HEAVY} & set(sys.modules)\n"
        "assert not heavy, heavy"
    )
    environment = os.environ | {"PYTHONPATH": str(Path(perceptual.__file__).parents[1])}
    run = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=60, env=environment
    )
    assert (run.returncode, run.stdout) == (0, ""), run.stderr
    for said in MISSING.values():
        assert said in run.stderr


def test_the_shell_completes_commands_and_methods(shell, monkeypatch):
    monkeypatch.setenv("_PERCEPTUAL_COMPLETE", "complete_bash")
    monkeypatch.setenv("COMP_WORDS", "perceptual ra")
    monkeypatch.setenv("COMP_CWORD", "1")
    assert shell()[1].split() == ["rank"]
    monkeypatch.setenv("COMP_WORDS", "perceptual distance --method alex")
    monkeypatch.setenv("COMP_CWORD", "3")
    assert shell()[1].split() == ["alexnet", "alexnet-uncalibrated", "alexnet-v0.0", "alexnet-v0.1"]


def test_the_measured_example(shell, assets, monkeypatch):
    monkeypatch.setenv("PERCEPTUAL_WEIGHTS", str(assets / "weights"))
    images = [assets / "examples/ref.png", assets / "examples/p0.png"]
    assert shell("distance", *images, "--method", "alexnet") == (0, "0.7219\n", "")


def test_two_numbers_need_no_library_but_torch(draw, folder, weights):
    """Others take as long to import as PyTorch, each: two images are measured sooner."""
    draw("a.png", 0)
    code = (
        "import sys\n"
        "from perceptual.cli import app\n"
        "for method in ('l2', 'alexnet'):\n"
        "    try: app(['distance', *sys.argv[1:], '--method', method])\n"
        "    except SystemExit as end: assert not end.code\n"
        f"heavy = {OTHERS} & set(sys.modules)\n"
        "assert not heavy, heavy"
    )
    arguments = [sys.executable, "-c", code, *2 * [str(folder / "a.png")]]
    root = Path(perceptual.__file__).parents[1]
    run = subprocess.run(arguments, capture_output=True, text=True, timeout=120, cwd=root)
    assert (run.returncode, run.stdout) == (0, "0.0000\n0.0000\n"), run.stderr


def test_the_number_is_that_of_the_library(shell, draw, weights):
    a, b = draw("a.png", 0), draw("b.png", 1)
    expected = LPIPS("alexnet")(batch(a), batch(b)).item()
    assert shell("distance", "a.png", "b.png") == (0, f"{expected:.4f}\n", "")
    code, out, _ = shell("distance", "a.png", "b.png", "--json")
    assert (code, json.loads(out)["method"]) == (0, "alexnet-v0.1")
    assert json.loads(out)["distance"] == pytest.approx(expected, rel=1e-6)
    code, out, _ = shell("distance", "a.png", "b.png", "--csv")
    header, row = out.splitlines()
    assert (header, row.split(",")[:2]) == ("a,b,distance", ["a.png", "b.png"])
    assert float(row.split(",")[2]) == pytest.approx(expected, rel=1e-6)


def test_methods_and_parts(shell, draw, weights):
    a, b = draw("a.png", 0), draw("b.png", 1)

    def value(*options):
        code, out, err = shell("distance", "a.png", "b.png", "--json", *options)
        assert code == 0, err
        return json.loads(out)["distance"]

    uncalibrated = LPIPS("alexnet", lin=None)(batch(a), batch(b)).item()
    assert value("--method", "alexnet-uncalibrated") == pytest.approx(uncalibrated, rel=1e-6)
    assert value() == value("-m", "alex") == value("-m", "alexnet") == value("-m", "alexnet-v0.1")
    assert len({value("-m", "alexnet-v0.0"), value(), uncalibrated}) == 3
    similarity = structural_similarity_index_measure(batch(a), batch(b), data_range=1.0).item()
    assert value("-m", "ssim") == pytest.approx(1 - similarity, rel=1e-5)


def test_what_json_has_no_number_for_is_null(shell, draw):
    draw("a.png", 0)
    code, out, _ = shell("distance", "a.png", "a.png", "-m", "psnr", "--json")
    assert (code, json.loads(out)["distance"]) == (0, None)


def test_images_are_compared_as_a_viewer_shows_them(shell, draw, folder, weights):
    pixels = draw("a.png", 0)
    exif = Image.Exif()
    exif[0x0112] = 6  # a viewer turns it clockwise
    Image.fromarray(np.rot90(pixels)).save(folder / "turned.png", exif=exif)
    Image.fromarray(pixels).convert("RGBA").save(folder / "alpha.tif")
    for other in ("turned.png", "alpha.tif"):
        assert shell("distance", "a.png", other) == (0, "0.0000\n", "")


def test_other_sizes_are_refused_or_resized(shell, draw, weights):
    a = draw("a.png", 0)
    b = draw("b.png", 1, 80, 96)
    code, out, err = shell("distance", "a.png", "b.png")
    assert (code, out) == (1, "")
    assert err == ("error: a.png has 48×40 pixels, b.png 96×80; --resize resizes the second to the first")
    smaller = np.asarray(Image.fromarray(b).resize((48, 40), Image.Resampling.BILINEAR))
    expected = LPIPS("alexnet")(batch(a), batch(smaller)).item()
    assert shell("distance", "a.png", "b.png", "--resize") == (0, f"{expected:.4f}\n", "")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("a.png", "no.png"), "no file no.png"),
        (("a.png", "."), ". is a folder, where one image is expected"),
        (("a.png", "text.png"), "text.png (not an image)"),
        (("cut.png", "a.png"), "cut.png (image file is truncated"),
        (("a.png", "https://x.org/a.png"), "https://x.org/a.png is a URL, which is not fetched: download it"),
        (("a.png", "a.png", "-m", "alexnett"), "unknown method 'alexnett'; did you mean alexnet"),
        (("a.png", "a.png", "-m", "ssimm"), "unknown method 'ssimm'"),
        (("a.png", "a.png", "-m", "alexnet.foo"), "there are no weights 'foo' for alexnet; it has no tags"),
        (("a.png", "a.png", "-m", "resnet18-v0.1"), "no calibration 'v0.1' was published for 'resnet18'"),
        (("a.png", "a.png", "-m", "no.ckpt"), "checkpoint 'no.ckpt' does not exist"),
        (("a.png", "a.png", "-m", "mine"), "unknown method 'mine'; a path has a slash: ./mine is the folder"),
        (("tiny.png", "tiny.png"), "images of 5×5 pixels are too small for alexnet"),
        (
            ("a.png", "a.png", "--memory", "9"),
            "images of 40×48 pixels do not fit memory=9, and alexnet needs",
        ),
        (("a.png", "a.png", "--memory", "9", "-m", "ssim"), "memory is what features of a network may take"),
    ],
)
def test_what_cannot_be_measured_is_one_line(shell, draw, folder, weights, arguments, message):
    draw("a.png", 0)
    draw("tiny.png", 0, 5, 5)
    (folder / "mine").mkdir()
    (folder / "mine" / "config.json").write_text("{}")
    (folder / "text.png").write_text("an essay")
    (folder / "cut.png").write_bytes((folder / "a.png").read_bytes()[:2000])
    code, out, err = shell("distance", *arguments)
    assert (code, out) == (1, "")
    assert err.startswith(f"error: {message}")
    assert len(err.splitlines()) == 1


@pytest.mark.parametrize("command", [("distance", "a.png", "b.png"), ("models",)])
@pytest.mark.parametrize("formats", [("--json", "--csv"), ("--csv", "--json")])
def test_two_formats_at_once_are_wrong_usage(shell, command, formats):
    code, out, err = shell(*command, *formats)
    assert (code, out) == (2, "")
    assert "--json and --csv are two formats: give one" in err


def test_the_version(shell):
    assert shell("--version") == (0, f"perceptual {metadata.version('perceptual-lpips')}\n", "")


@pytest.mark.parametrize("command", [(), ("distance",), ("data",), ("data", "pack"), ("collect", "export")])
def test_help_shows_flags_without_a_type(shell, command):
    code, said, _ = shell(*command, "--help")
    assert code == 0
    assert "--help" in said
    assert "bool" not in said.lower()


@pytest.mark.parametrize(
    ("encoding", "written"), [("utf-8", "≈ é \udcff"), ("cp1252", "? é ?"), ("ascii", "? ? ?")]
)
def test_what_a_console_lacks_is_replaced(encoding, written, monkeypatch):
    raw = io.BytesIO()
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(raw, encoding))
    write_anything()
    print("≈ é \udcff", end="", flush=True)
    assert raw.getvalue().decode(encoding, "surrogateescape") == written
