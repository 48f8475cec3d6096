"""Numbers and bytes that no rebuilding may change, taken through the doors that users have.

What is pinned was computed by the code as it stood before the rooms were rebuilt. Fingerprints, names of
caches and stores are compared exactly; scores to the rounding that processors differ by.
"""

import hashlib
import json
import os
from pathlib import Path

import numpy as np
import pytest
from app import run
from PIL import Image
from typer.testing import CliRunner

from perceptual.cli import app
from perceptual.data import (
    BAPPSDataModule,
    JNDDataModule,
    ManifestDataModule,
    OpinionDataModule,
    PhotosDataModule,
)

IMAGES = 12
SIDES = [(24, 20), (24, 20), (16, 28), (16, 28)]  # of images in their own sizes: those of an item are alike


@pytest.fixture(autouse=True)
def _place(tmp_path, monkeypatch):
    monkeypatch.setenv("PERCEPTUAL_CACHE", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)


def write_png(path: Path, rng: np.random.Generator, size: tuple[int, int] = (24, 24)) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(rng.integers(0, 256, (*size, 3), dtype=np.uint8)).save(path)


@pytest.fixture
def triplets(tmp_path):
    """A manifest with votes, subsets and splits; its images are of two kinds of texture."""
    rng = np.random.default_rng(3)
    for i in range(IMAGES):
        write_png(tmp_path / f"set/{i}.png", rng)
    lines = ["ref,p0,p1,judge,votes,subset,split"]
    for row in range(64):
        ref, p0, p1 = rng.permutation(IMAGES)[:3]
        votes = int(rng.integers(1, 6))
        judge = int(rng.integers(votes + 1)) / votes
        split = "train" if row % 4 else "val"
        lines.append(f"{ref}.png,{p0}.png,{p1}.png,{judge},{votes},{'ab'[row % 3 > 0]},{split}")
    (tmp_path / "set/triplets.csv").write_text("\n".join(lines) + "\n")
    return tmp_path / "set/triplets.csv"


@pytest.fixture
def native(tmp_path):
    """A manifest of images in two sizes, without a split."""
    rng = np.random.default_rng(4)
    for i in range(4 * IMAGES):
        write_png(tmp_path / f"native/{i}.png", rng, SIDES[i // 3 % 4])
    lines = ["ref,p0,p1,judge"]
    for row in range(64):
        ref, p0, p1 = row // 4 * 3 + rng.permutation(
            3
        )  # groups of three images, which a split can keep whole
        lines.append(f"{ref}.png,{p0}.png,{p1}.png,{int(rng.integers(3)) / 2}")
    (tmp_path / "native/triplets.csv").write_text("\n".join(lines) + "\n")
    return tmp_path / "native/triplets.csv"


@pytest.fixture
def pairs(tmp_path):
    rng = np.random.default_rng(5)
    for i in range(IMAGES):
        write_png(tmp_path / f"pairs/{i}.png", rng)
    lines = ["p0,p1,same,subset"]
    for row in range(40):
        p0, p1 = rng.permutation(IMAGES)[:2]
        lines.append(f"{p0}.png,{p1}.png,{int(rng.integers(4)) / 3:.6f},{'cd'[row % 2]}")
    (tmp_path / "pairs/pairs.csv").write_text("\n".join(lines) + "\n")
    return tmp_path / "pairs/pairs.csv"


@pytest.fixture
def opinions(tmp_path):
    rng = np.random.default_rng(6)
    for i in range(30):
        write_png(tmp_path / f"rated/{i}.png", rng, SIDES[0])
    lines = ["ref,dist,mos,subset"]
    lines += [f"{i % 6}.png,{i}.png,{rng.normal(50, 12):.3f},{'ef'[i % 2]}" for i in range(6, 30)]
    (tmp_path / "rated/mos.csv").write_text("\n".join(lines) + "\n")
    return tmp_path / "rated/mos.csv"


@pytest.fixture
def bapps(tmp_path):
    rng = np.random.default_rng(7)
    for place, roles, answer in (
        ("2afc/train/mix", ("ref", "p0", "p1"), "judge"),
        ("2afc/val/cnn", ("ref", "p0", "p1"), "judge"),
        ("jnd/val/cnn", ("p0", "p1"), "same"),
    ):
        for i in range(6):
            for role in roles:
                write_png(tmp_path / "bapps" / place / role / f"{i:06}.png", rng)
            (tmp_path / "bapps" / place / answer).mkdir(exist_ok=True)
            np.save(tmp_path / "bapps" / place / answer / f"{i:06}.npy", np.array([i % 3 / 2], np.float32))
    return tmp_path / "bapps"


def check(name: str, found: object) -> None:
    """Compare with what `pinned.json` says under this name; numbers to 1e-6."""
    pinned = json.loads(Path(__file__).with_name("pinned.json").read_text())
    if name not in pinned:
        pytest.fail(f"nothing is pinned as {json.dumps({name: found})}")
    numbers = isinstance(found, dict) and any(isinstance(value, float) for value in found.values())
    assert found == (pytest.approx(pinned[name], abs=1e-6, nan_ok=True) if numbers else pinned[name])


def ready(data):
    data.setup("fit")
    return data


def digest(*arrays: np.ndarray) -> str:
    return hashlib.sha256(b"".join(np.ascontiguousarray(a).tobytes() for a in arrays)).hexdigest()[:16]


def digest_of_tree(folder: Path) -> dict[str, str]:
    """The first digits of the SHA-256 of every file."""
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()[:16] for path in files
    }


def test_fingerprints_of_data(triplets, native, pairs, opinions, bapps):
    own = ready(ManifestDataModule(str(triplets), size=16))
    held = ready(ManifestDataModule(str(native), size=None, split_seed=1))
    by_triplet = ready(ManifestDataModule(str(native), size=16, split_by="triplet"))
    small = ready(ManifestDataModule(str(native), size=None, shorter_side=12, split_seed=2))
    folder = ready(BAPPSDataModule(str(bapps), ["train/mix"], ["val/cnn"], size=16))
    found = {
        "manifest": [own.fingerprint("train"), own.fingerprint()],
        "native": [held.fingerprint("train"), held.fingerprint()],
        "by triplet": [by_triplet.fingerprint("train"), by_triplet.fingerprint()],
        "shorter side": [small.fingerprint()],
        "bapps": [folder.fingerprint("train"), folder.fingerprint()],
        "bapps jnd": [ready(JNDDataModule(str(bapps), size=16)).fingerprint()],
        "pairs": [ready(JNDDataModule(str(pairs), size=16)).fingerprint()],
        "opinions": [ready(OpinionDataModule(str(opinions))).fingerprint()],
        "photos": [ready(PhotosDataModule(20, 10, size=32, designs=["paper", "severity"])).fingerprint()],
    }
    check("fingerprints", {name: [text[:16] for text in texts] for name, texts in found.items()})


def test_batches_come_in_the_same_order(triplets, native):
    """Two epochs of training batches: the pixels and the answers, whatever a batch is made of."""
    found = {}
    for name, data in {
        "shared": ManifestDataModule(str(triplets), size=16, batch_size=20, seed=5),
        "native": ManifestDataModule(str(native), size=None, batch_size=4, seed=5),
        "cropped": ManifestDataModule(str(native), size=None, batch_size=4, seed=5, crop=12),
    }.items():
        loader, parts = ready(data).train_dataloader(), []
        for epoch in range(2):
            loader.batch_sampler.set_epoch(epoch)
            for batch in loader:
                d0, d1 = batch.distances(lambda x, y: (x - y).square().mean((1, 2, 3)))
                parts += [d0.numpy().round(4), d1.numpy().round(4), batch.answer.numpy()]
        found[name] = digest(*parts)
    check("order", found)


def test_bytes_of_stores(triplets, native, pairs, tmp_path):
    found = {}
    for path, options in ((triplets, ["--size", "16"]), (native, ["--native"]), (pairs, ["--size", "16"])):
        target = tmp_path / "stores" / path.parent.name
        result = CliRunner().invoke(app, ["data", "pack", str(path), str(target), *options])
        assert result.exit_code == 0, result.output
        found |= {
            f"{path.parent.name}/{name}": sha
            for name, sha in digest_of_tree(target).items()
            if not name.endswith("store.json")  # says where it was packed from
        }
        (record,) = target.rglob("store.json")
        info = json.loads(record.read_text())
        found[f"{path.parent.name} is"] = info["fingerprint"][:16]
    check("stores", found)


def test_scores_and_names_of_results(triplets, native, pairs, opinions, monkeypatch):
    methods = "methods=[l2,ssim,psnr,tf_efficientnet_lite0]"
    for arguments in (
        ["data=manifest", f"data.path={triplets}", "data.size=32"],
        ["data=manifest", f"data.path={native}", "data.size=null", "data.val_fraction=1"],
        ["data=jnd", f"data.root={pairs}", "data.size=32"],
        ["data=opinions", f"data.path={opinions}"],
    ):
        run("evaluate.py", methods, *arguments, monkeypatch=monkeypatch)
    found = {}
    for row in sorted(Path("results").glob("*/scored/*/row.json")):
        content = json.loads(row.read_text())
        place = f"{row.parts[1]} {content['method']}"
        for table in ("scores", "majority", "krcc", "plcc"):
            for name, value in content.get(table, {}).items():
                found[f"{place} {table} {name}"] = value
    pytest.importorskip("numpy", "2")  # with older ones the logistic fit of opinions stops up to 2e-4 away
    check("scores", found)


def test_a_calibration_and_its_cache(triplets, monkeypatch):
    run(
        "train.py",
        *("data=manifest", f"data.path={triplets}", "data.size=32", "data.batch_size=16"),
        *("experiment=paper_lin", "backbone=tf_efficientnet_lite0", "model.lr=0.01"),
        *("trainer.max_epochs=2", "hydra.run.dir=out"),
        monkeypatch=monkeypatch,
    )
    caches = sorted(path.name for path in Path(os.environ["PERCEPTUAL_CACHE"]).iterdir() if path.is_dir())
    check("caches", [name for name in caches if not name.startswith("distorters")])
    pytest.importorskip("torch", "2.14")  # the dropout of older ones draws other numbers from a seed
    scores = json.loads(Path("out/scores.json").read_text())
    flat = {f"{who} {name}": value for who, of in scores.items() for name, value in of.items()}
    check("trained", flat)
