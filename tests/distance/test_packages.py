"""Distances and readers of other packages: theirs to the digit, and one line for what goes wrong."""

import json
import subprocess
import sys
from pathlib import Path

import app
import pytest
import torch

from perceptual import create_metric
from perceptual.data import ManifestDataModule
from perceptual.distance import packages
from perceptual.evaluation.methods import identity, load
from perceptual.names import Method

EXAMPLE = Path(__file__).parents[2] / "examples/plugin"
PYIQA = """
import torch
from torch import nn
class Metric(nn.Module):
    def __init__(self, name, as_loss, loss_reduction, device):
        super().__init__()
        assert (as_loss, loss_reduction, device) == (True, "none", "cpu")
        if name == "heavy":
            raise OSError("no weights here\\nand more")
        self.lower_better = name == "mae"
    def forward(self, x, y):
        mae = (x - y).abs().mean((1, 2, 3))
        return mae if self.lower_better else 1 - mae
def list_models(metric_mode):
    return ["mae", "likeness", "heavy"] if metric_mode == "FR" else ["niqe"]
create_metric = Metric
"""


def images(side=64):
    return torch.rand(2, 3, 3, side, side, generator=torch.Generator().manual_seed(0))


def entry(folder, distribution, group, line):
    """Install a package that has nothing but an entry point."""
    info = folder / f"{distribution}-1.0.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text(
        f"Metadata-Version: 2.1\nName: {distribution}\nVersion: 1.0\nLicense: ours\n"
    )
    (info / "entry_points.txt").write_text(f"[{group}]\n{line}\n")


@pytest.fixture
def site(tmp_path, monkeypatch):
    """A folder of packages, which Python finds."""
    folder = tmp_path / "site"
    folder.mkdir()
    monkeypatch.syspath_prepend(str(folder))
    return folder


@pytest.fixture
def pyiqa(site, monkeypatch):
    """A stand-in for pyiqa."""
    monkeypatch.delitem(sys.modules, "pyiqa", raising=False)
    (site / "pyiqa.py").write_text(PYIQA)
    yield
    sys.modules.pop("pyiqa", None)


@pytest.mark.parametrize(("name", "turned"), [("gmsd", 1), ("haarpsi", -1), ("srsim", -1), ("psnr", -1)])
def test_distances_of_piq_are_its_own(name, turned):
    piq = pytest.importorskip("piq")
    x, y = images(96)
    theirs = getattr(piq, name)(x, y, data_range=1.0, reduction="none")
    ours = create_metric(f"piq:{name}", "none")(x, y)
    torch.testing.assert_close(ours, theirs if turned > 0 else -theirs + (name != "psnr"), atol=1e-6, rtol=0)


def test_scores_of_pyiqa_are_turned_so_that_larger_is_more_different(pyiqa):
    x, y = images()
    mae = (x - y).abs().mean((1, 2, 3))
    torch.testing.assert_close(load("pyiqa:mae").distance(x, y), mae)
    distance = load("pyiqa:likeness").distance
    torch.testing.assert_close(distance(x, y), mae - 1)
    moving = x.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(distance(moving, y).sum(), moving)
    assert gradient.abs().sum() > 0
    assert identity(Method.parse("pyiqa:mae")) == "pyiqa:mae"
    assert Method.parse("pyiqa:mae").family == "pyiqa"


@pytest.mark.parametrize("name", ["ssim", "gmsd", "vif"])
def test_distances_of_the_real_pyiqa_are_its_own(name):
    pyiqa = pytest.importorskip("pyiqa")
    x, y = images(96)
    metric = pyiqa.create_metric(name, device="cpu")
    theirs = metric(x, y).flatten()
    ours = create_metric(f"pyiqa:{name}", "none")(x, y)
    torch.testing.assert_close(ours, theirs if metric.lower_better else -theirs, atol=1e-6, rtol=0)


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("pyiqa:niqe", r"pyiqa:niqe: there is no distance 'niqe'; there are mae, likeness, heavy"),
        ("pyiqa:mea", "did you mean mae"),
        ("pyiqa:heavy", "pyiqa:heavy cannot be built: OSError: no weights here$"),
        ("torchmetrics:dist", "did you mean dists"),
        ("nowhere:thing", "no installed package adds 'nowhere' to perceptual.methods; there are "),
        ("broken:thing", r"'broken' of bad-one cannot be imported \(no_such_module:f\): ModuleNotFoundError"),
        ("twice:thing", "'twice' of perceptual.methods is of one-dist and other-dist: uninstall one"),
        ("raising:thing", "raising:thing cannot be built: TypeError"),
        ("number:thing", "number:thing is a int; it must be a callable"),
    ],
)
def test_what_goes_wrong_in_another_package_is_one_line(name, says, pyiqa, site):
    entry(site, "bad-one", packages.GROUP, "broken = no_such_module:f")
    entry(site, "one-dist", packages.GROUP, "twice = os:getcwd")
    entry(site, "other-dist", packages.GROUP, "twice = os:getpid")
    entry(site, "raising-dist", packages.GROUP, "raising = os:getcwd")
    entry(site, "number-dist", packages.GROUP, "number = builtins:len")
    with pytest.raises(ValueError, match=says) as caught:
        load(name)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("package", ["pyiqa", "dreamsim"])
def test_a_package_that_is_not_there_is_asked_for(package, monkeypatch):
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(ValueError, match=rf"{package}:x needs the package {package}: pip install {package}"):
        load(f"{package}:x")


def test_an_evaluation_goes_on_without_the_broken(site, tmp_path, monkeypatch, capsys):
    entry(site, "bad-one", packages.GROUP, "broken = no_such_module:f")
    entry(site, "one-dist", packages.GROUP, "twice = os:getcwd")
    entry(site, "other-dist", packages.GROUP, "twice = os:getpid")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setitem(sys.modules, "pyiqa", None)
    app.write_manifest(tmp_path / "set", rows=12)
    wrong = {
        "pyiqa:ssim": "pip install pyiqa",
        "broken:x": "cannot be imported",
        "twice:x": "uninstall one",
        "test_resnet[out_indices=[cls]]-random": "this network has no cls",
    }
    methods = ",".join(f"'{name}'" for name in [*wrong, "piq:gmsd", "l2"])
    words = ("data=manifest", "data.path=set/triplets.csv", "data.size=32", f"methods=[{methods}]")
    app.run("evaluate.py", *words, monkeypatch=monkeypatch)
    said = capsys.readouterr()
    text = " ".join((said.out + said.err).split())
    for name, reason in wrong.items():
        assert text.count(reason) == 1, (name, text)
    assert "Traceback" not in said.err
    found = {json.loads(path.read_text())["method"] for path in Path("results").glob("*/*/*/row.json")}
    assert found >= {"piq:gmsd", "l2"}


def test_an_installed_package_adds_a_distance_and_a_reader(site, tmp_path, capsys, monkeypatch):
    pip = [sys.executable, "-m", "pip", "install", "-q", "--no-deps", "--no-build-isolation", "--no-index"]
    made = subprocess.run([*pip, "--target", site, EXAMPLE], capture_output=True, text=True)
    if "No module named pip" in made.stderr:
        pytest.skip("there is no pip")
    assert made.returncode == 0, made.stderr
    x, y = images()
    expected = (x.mean((2, 3)) - y.mean((2, 3))).abs().sum(1)
    torch.testing.assert_close(create_metric("colours:mean", "none")(x, y), expected)
    with pytest.raises(ValueError, match="colours:hue: colours has mean and spread, got 'hue'"):
        load("colours:hue")
    app.write_manifest(tmp_path / "set", rows=4)
    (tmp_path / "set/pairs.txt").write_text("0.png 1.png 2.png 0.25\n0.png 3.png 4.png 1\n")
    data = ManifestDataModule(tmp_path / "set", layout="pairs_txt", size=32, val_fraction=1)
    data.setup("validate")
    assert data.val_set.table.answer.tolist() == [0.25, 1]
    with pytest.raises(ValueError, match=r"layout must be one of csv, .*, pairs_txt, got 'pairs'"):
        ManifestDataModule(tmp_path / "set", layout="pairs")
    sys.modules.pop("perceptual_example", None)


def test_the_licence_of_another_package_is_named(site):
    entry(site, "licensed", packages.GROUP, "licensed = os:getcwd")
    assert packages.about("licensed:x") == {"package": "licensed 1.0", "licence": "ours"}
    assert packages.about("l2") == {}
