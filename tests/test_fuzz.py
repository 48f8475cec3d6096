"""Files that are damaged or changed in any way: the number stays, or one line says what is wrong."""

import copy
import functools
import io
import json
import os
import random
import shutil
from argparse import Namespace
from contextlib import suppress
from pathlib import Path

import app
import numpy as np
import pytest
import torch
from trees import write_subset

from perceptual import LPIPS, PerceptualRanker
from perceptual.data import BAPPSDataModule, ManifestDataModule, pack
from perceptual.data.readers import stores
from perceptual.data.readers.folders import read_origin
from perceptual.data.readers.manifests import read_manifest
from perceptual.data.readers.stores import check_pixels, read_store
from perceptual.data.synthetic.distorters.population import load_population
from perceptual.data.writers.shards import write_shards
from perceptual.distance.saving import folders
from perceptual.evaluation import evaluate as evaluation
from perceptual.evaluation.board import make
from perceptual.evaluation.results import find, publish
from perceptual.features.weights import read as read_weights
from perceptual.training import checkpoints
from perceptual.training.cache import CachedDataModule

NUMBERS = [-1, 10**30, 10**400, 3.5, 1e-300, float("nan")]
ODD = [None, True, *NUMBERS, "text", "", "../../etc/passwd", [], [[]], {}, {"a": [1]}]
SMALL_NET = """
from torch import nn
class Small(nn.Sequential):
    def __init__(self, width=4):
        super().__init__(nn.Conv2d(3, width, 3, stride=2), nn.ReLU())
    def forward(self, images):
        return [super().forward(images)]
"""


@pytest.fixture(scope="module")
def intact(tmp_path_factory, distorters):
    """A folder with one of each kind of file."""
    folder = tmp_path_factory.mktemp("intact")
    shutil.copytree(distorters, folder / "population")
    with pytest.MonkeyPatch.context() as monkeypatch:
        monkeypatch.chdir(folder)
        manifest = app.write_manifest(folder / "manifest", rows=20, size=32)
        words = ("data=manifest", "data.path=manifest/triplets.csv", "data.size=32", "data.batch_size=10")
        run = ("trainer.accelerator=cpu", "trainer.devices=1", "trainer.max_steps=1", "backbone.weights=null")
        Path("small_net.py").write_text(SMALL_NET)
        monkeypatch.syspath_prepend(str(folder))
        for kind, network in {
            "checkpoint": "backbone._target_=small_net.Small",
            "of_timm": "backbone.name=test_resnet",
        }.items():
            place = f"hydra.run.dir=runs/{kind}"
            app.run("train.py", *words, *run, network, place, monkeypatch=monkeypatch)
            Path(kind).mkdir()
            shutil.copy(f"runs/{kind}/checkpoints/last.ckpt", kind)
    ranker = PerceptualRanker.load_from_checkpoint(folder / "of_timm/last.ckpt")
    ranker.eval().distance.save_pretrained(folder / "saved")
    (folder / "run").mkdir()
    torch.save(ranker.distance.backbone.net.state_dict(), folder / "run/w.pth")
    (folder / "weights").mkdir()
    shutil.copy(folder / "run/w.pth", folder / "weights")
    write_subset(folder / "bapps/2afc/val/cnn", 8)
    (table,) = read_origin(folder / "bapps").values()
    pack(table, folder / "store", "here", 16, workers=1)
    pack(table, folder / "native", "here", None, workers=1)
    write_shards(str(folder / "store"), str(folder / "shards"), 10)
    data = ManifestDataModule(str(manifest), size=32, val_fraction=1)
    data.setup("validate")
    evaluation.evaluate(["l2", "ssim"], data, str(folder / "results"))
    cached(folder / "cache")
    return folder


@functools.cache
def images_and_distance(bapps):
    data = BAPPSDataModule(bapps, ["val/cnn"], ["val/cnn"], size=16)
    data.setup("fit")
    return data, LPIPS("test_resnet-random")


def cached(folder):
    module = CachedDataModule(*images_and_distance(os.path.realpath(folder.parent / "bapps")), folder)
    module.setup()
    return [batch.means for batch in module.val_dataloader()]


def measure(distance):
    x, y = torch.rand(2, 2, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        return [distance(x, y)]


def stored(folder):
    check_pixels(folder)
    table = read_store(folder)
    return [table.fingerprint(), table.answer, table.items, table.split, table.made]


def population(folder):
    images = torch.rand(1, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    networks = load_population(folder).networks
    return [network(images, torch.Generator().manual_seed(0)) for network in networks.values()]


def boards(folder):
    (results,) = find(folder)
    board = make(results)
    return [board.entries, board.data, board.columns]


# what a folder of this kind gives
USES = {
    "checkpoint": lambda f: measure(PerceptualRanker.load_from_checkpoint(f / "last.ckpt").eval().distance),
    "of_timm": lambda f: measure(PerceptualRanker.load_from_checkpoint(f / "last.ckpt").eval().distance),
    "saved": lambda f: measure(LPIPS.from_pretrained(f)),
    "weights": lambda f: list(read_weights(f / "w.pth").values()),
    "store": stored,
    "native": stored,
    "shards": stored,
    "results": boards,
    "population": population,
    "cache": cached,
    "manifest": lambda f: [len(read_manifest(f / "triplets.csv"))],
}
SLOW = 1000


def mutated_bytes(content: bytes, rng: random.Random) -> bytes:
    changed, place = bytearray(content), rng.randrange(len(content))
    kind = rng.choice(["flip", "flip", "flip", "truncate", "zeros", "insert", "empty", "twice"])
    if kind == "flip":
        changed[place] ^= 1 << rng.randrange(8)
    elif kind == "truncate":
        del changed[place:]
    elif kind == "zeros":
        changed[place : place + 64] = bytes(len(changed[place : place + 64]))
    elif kind == "insert":
        changed[place:place] = rng.randbytes(rng.randrange(1, 40))
    return b"" if kind == "empty" else bytes(changed) * (2 if kind == "twice" else 1)


def mutated_tree(tree, rng: random.Random):
    """A copy with one value of another type, or one key less, anywhere in it."""
    tree = copy.deepcopy(tree)
    places = []

    def walk(node):
        items = node.items() if isinstance(node, dict) else enumerate(node) if isinstance(node, list) else []
        if len(items := list(items)) > 100:  # such as the state of a random generator
            items = items[:2]
        for key, value in items:
            places.append((node, key))
            walk(value)

    walk(tree)
    if not places or rng.random() < 0.02:
        return rng.choice(ODD)
    node, key = rng.choice(places)
    if rng.random() < 0.4:
        del node[key]
    else:
        node[key] = rng.choice(ODD)
    return tree


def mutated_array(content: bytes, rng: random.Random) -> bytes:
    array = np.load(io.BytesIO(content))
    change = rng.choice(
        [
            lambda a: a.astype(np.float64) if a.dtype.kind in "iufb" else a[:1],
            lambda a: a[..., None],
            lambda a: a[:-1],
            lambda a: np.roll(a, 1),
            lambda a: np.zeros_like(a),
            lambda a: a.ravel()[0],
            lambda a: a + a.dtype.type(1) if a.dtype.kind in "iuf" else a[::-1],
            lambda a: a.astype(">" + a.dtype.str[1:]) if a.dtype.itemsize > 1 else a[:0],
        ]
    )
    file = io.BytesIO()
    np.save(file, change(array))
    return file.getvalue()


def mutate(path: Path, rng: random.Random) -> None:
    content = path.read_bytes()
    by_structure = rng.random() < 0.6 and path.suffix != ".pth"  # other tensors are other weights
    if by_structure and path.suffix == ".json":
        path.write_text(json.dumps(mutated_tree(json.loads(content), rng)))
    elif by_structure and path.suffix == ".npy":
        path.write_bytes(mutated_array(content, rng))
    elif by_structure and path.suffix == ".ckpt":
        torch.save(mutated_tree(torch.load(path, weights_only=True), rng), path)
    else:
        path.write_bytes(mutated_bytes(content, rng))


def seal(path: Path) -> None:
    """Write the digests that a changed file needs, as whoever changes one on purpose can."""
    with suppress(Exception):  # it is no such file any more
        if path.suffix == ".ckpt":
            checkpoint = torch.load(path, weights_only=True)
            checkpoint[checkpoints.SHA256] = checkpoints.digest(checkpoint)
            torch.save(checkpoint, path)
        elif path.name == "config.json":
            path.write_text(json.dumps(folders.seal(json.loads(path.read_text()))))
        elif (about := path.with_name("row.json")).is_file():
            row = json.loads(about.read_text())
            row.pop("sha256", None)
            arrays = {file.stem: np.load(file) for file in path.parent.glob("*.npy")}
            shutil.rmtree(path.parent)
            publish(path.parent, row, arrays)
        elif (about := path.with_name("store.json")).is_file():
            columns = {name: path.with_name(f"{name}.npy") for name in ("split", "made")}
            read = {name: np.load(file) if file.exists() else None for name, file in columns.items()}
            about.write_text(
                json.dumps(json.loads(about.read_text()) | {"beside": stores.beside(Namespace(**read))})
            )


def same(one, other) -> bool:
    if isinstance(one, torch.Tensor | np.ndarray):
        return one.shape == other.shape and bool((one == other).all())
    if isinstance(one, list | tuple):
        return len(one) == len(other) and all(map(same, one, other))
    return one == other or one != one


def check(kind, count, intact, tmp_path, sealed=False):
    rng = random.Random(f"{kind} {not sealed}")
    expected = USES[kind](intact / kind)
    said = dict.fromkeys(("same", "refused"), 0)
    for number in range(count):
        folder = tmp_path / "x" / kind
        shutil.copytree(intact / kind, folder, symlinks=True)
        (folder.parent / "bapps").symlink_to(intact / "bapps")  # which the cache is of
        files = [path for path in sorted(folder.rglob("*")) if path.is_file() and path.suffix != ".lock"]
        # README.md of a saved folder, and pictures beside a manifest, are not read
        files = [path for path in files if path.suffix not in (".md", ".png")]
        path = rng.choice(files)
        if path.stat().st_size:
            mutate(path, rng)
        if sealed:
            seal(path)
        what = f"{kind} {number}: {path.name}"
        try:
            found = USES[kind](folder)
        except Exception as error:
            if not isinstance(error, ValueError | OSError) or not str(error):  # which become one line
                pytest.fail(f"{what} is a {type(error).__name__}: {error}")
            said["refused"] += 1
        else:
            # a manifest or a population of fewer items is another one, with another fingerprint
            free = sealed or kind in ("manifest", "population")
            assert free or same(found, expected), f"{what}: another number"
            if kind in ("checkpoint", "of_timm", "saved"):
                assert all((d >= 0).all() and d.isfinite().all() for d in found), f"{what}: no distance"
            said["same"] += 1
        shutil.rmtree(tmp_path / "x")
    return said


@pytest.mark.parametrize(
    "kind", [pytest.param(kind, marks=[pytest.mark.slow] if kind == "of_timm" else []) for kind in USES]
)
@pytest.mark.filterwarnings("ignore")  # of the libraries, on files that are damaged
def test_damaged_files_give_the_same_number_or_one_line(kind, intact, tmp_path):
    said = check(kind, 100, intact, tmp_path)
    assert said["refused"] > 25 or kind == "cache", said


@pytest.mark.slow
@pytest.mark.parametrize("kind", USES)
@pytest.mark.filterwarnings("ignore")
def test_many_damaged_files(kind, intact, tmp_path):
    check(kind, SLOW, intact, tmp_path)


@pytest.mark.parametrize(
    "kind", ["checkpoint", "saved", "store", "results", pytest.param("of_timm", marks=pytest.mark.slow)]
)
@pytest.mark.filterwarnings("ignore")
def test_changed_files_with_digests_that_fit_give_one_line_or_none(kind, intact, tmp_path):
    check(kind, 50, intact, tmp_path, sealed=True)
