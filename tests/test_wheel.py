"""The wheel, installed outside the clone: the command, training in Python, and the application it brings."""

import os
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path

import numpy as np
import pytest
from app import write_manifest
from PIL import Image

from perceptual.version import __version__

ROOT = Path(__file__).parents[1]
TRAIN = """
import numpy as np, torch
from perceptual import PerceptualRanker
ranker = PerceptualRanker({"name": "test_resnet", "weights": None}, lr=0.01)
optimizer = torch.optim.Adam([p for p in ranker.parameters() if p.requires_grad], 0.01)
ref, p0, p1 = torch.rand(3, 8, 3, 32, 32)
judgment, losses = torch.ones(8), []
for _ in range(10):
    d0, d1 = ranker.distance(ref, p0), ranker.distance(ref, p1)
    loss = torch.nn.functional.binary_cross_entropy_with_logits(ranker.ranking(d0, d1), judgment)
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    losses.append(loss.item())
assert losses[-1] < losses[0], losses
"""


@pytest.fixture(scope="module")
def installed(tmp_path_factory):
    """Run a program in an environment with the wheel, where the clone is not: its output."""
    pytest.importorskip("setuptools", "70.1")
    folder = tmp_path_factory.mktemp("installed")
    source = folder / "source"  # what an earlier build left in the clone would come along
    source.mkdir()
    for path in ROOT.iterdir():
        if path.name in ("perceptual", "callbacks", "conf"):
            shutil.copytree(path, source / path.name, ignore=shutil.ignore_patterns("__pycache__"))
        elif path.is_file():
            shutil.copy2(path, source)
    build = ["pip", "wheel", "--no-deps", "--no-build-isolation", "--no-index", "-q", "-w", folder, source]
    subprocess.run([sys.executable, "-m", *map(str, build)], check=True, timeout=250)
    (wheel,) = folder.glob("*.whl")
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", folder / "env"], check=True, timeout=60)
    place = {"base": str(folder / "env"), "platbase": str(folder / "env")}
    bin, site = (Path(sysconfig.get_path(name, vars=place)) for name in ("scripts", "purelib"))
    # what the wheel needs is found where this process has it, but not the clone: files in there are not read
    (site / "dependencies.pth").write_text(sysconfig.get_path("purelib"))
    install = [
        "pip",
        "--python",
        bin / "python",
        "install",
        "--no-deps",
        "--no-index",
        "--ignore-installed",
        "-q",
        wheel,
    ]
    subprocess.run([sys.executable, "-m", *map(str, install)], check=True, timeout=60)
    assert {path.name for path in site.iterdir() if "dist-info" not in path.name} >= {"perceptual"}

    def run(*words: object, cwd: Path = folder) -> str:
        environment = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
        done = subprocess.run(
            [bin / str(words[0]), *map(str, words[1:])],
            cwd=cwd,
            env=environment,
            capture_output=True,
            text=True,
            timeout=250,
        )
        assert done.returncode == 0, done.stderr
        return done.stdout

    assert Path(run("python", "-c", "import perceptual; print(perceptual.__file__)").strip()).is_relative_to(
        site
    )
    run.folder = folder
    return run


@pytest.mark.slow
def test_it_holds_the_command_and_one_package(installed):
    assert f"perceptual {__version__}" in installed("perceptual", "--version")
    assert "distance" in installed("perceptual", "--help")
    names = "import importlib.metadata as m; print({f.parts[0] for f in m.files('perceptual-lpips')})"
    found = eval(installed("python", "-c", names))
    assert {name for name in found if not name.endswith(".dist-info") and name != ".."} == {"perceptual"}


@pytest.mark.slow
def test_it_measures_and_draws(installed):
    pixels = np.random.default_rng(0).integers(0, 256, (2, 64, 64, 3), dtype=np.uint8)
    for name, image in zip("ab", pixels, strict=True):
        Image.fromarray(image).save(installed.folder / f"{name}.png")
    assert float(installed("perceptual", "distance", "a.png", "b.png", "-m", "l2").split()[-1]) > 0.1
    installed("perceptual", "heatmap", "a.png", "b.png", "-m", "alexnet-random", "-o", "map.png")
    assert (installed.folder / "map.png").is_file()


@pytest.mark.slow
def test_it_trains_in_python(installed):
    installed("python", "-c", TRAIN)


@pytest.mark.slow
def test_its_application_trains(installed):
    installed("perceptual", "new", "mine")
    write_manifest(installed.folder / "mine" / "set", size=16)
    options = ("backbone=test_resnet", "backbone.weights=null", "trainer=smoke", "data.size=16")
    data = ("data=manifest", "data.path=set/triplets.csv")
    assert "Keys of data=manifest" in installed(
        "python", "train.py", "--help", *data, cwd=installed.folder / "mine"
    )
    assert "Run       " in installed("python", "train.py", *options, *data, cwd=installed.folder / "mine")
