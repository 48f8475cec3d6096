"""Make the pictures and tables of README and docs/ again, by the commands that stand beside them.

    PERCEPTUAL_ASSETS=path/to/assets python -m benchmarks.figures [STEP ...]       # or: make figures

`PERCEPTUAL_ASSETS` names a folder with `weights/`, `material/triplets.csv` and `jpeg/manifest.csv`; a step
whose data are missing says so, and the others continue. Pictures are written to docs/. What a command prints,
its tables included, goes to build/figures/STEP/NUMBER.txt, to be compared with the page. A command whose file
is there is not run again, and results of methods are kept, so an interrupted run continues; remove a step's
folder to make it anew. All steps together take days on two cores: name those that you need.
"""

import argparse
import csv
import os
import shlex
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

from PIL import Image

from perceptual.data.synthetic.photographs import packaged
from perceptual.files.writing import save_picture

ROOT = Path(__file__).parents[1]
COMMAND = "from perceptual.cli import main; main()"
WIDEST = 1200  # pixels of a picture on a page
TRIPLETS = "path/to/material/triplets.csv"
MATERIAL = f"data=manifest data.path={TRIPLETS}"
JPEG = "data=manifest data.path=path/to/jpeg/manifest"
METHODS = (
    "l2,l2_lab,psnr,ssim,fsimc,gmsd,mdsi,haarpsi,alexnet-uncalibrated,alexnet-v0.1,alexnet-random,"
    "squeezenet1_1-uncalibrated,squeezenet1_1-v0.1,tf_efficientnet_lite0,vgg16.tv_in1k-uncalibrated,vgg16-v0.1"
)
NETS = ("alexnet", "squeezenet1_1", "vgg16", "tf_efficientnet_lite0")


class Step(NamedTuple):
    """Commands, and the page that shows what they make."""

    page: str
    commands: list[str]
    """As on the page; HERE is the step's own folder, `path/to/` that of the assets."""
    pictures: dict[str, str] = {}  # noqa: RUF012, nobody changes it
    """Pictures in docs/, and the files in the step's folder that they are."""


def _trained(words: str, seeds: int = 5) -> list[str]:
    return [f"python train.py {words} seed={seed} runs=HERE/runs" for seed in range(seeds)]


STEPS = {
    "heatmap": Step(
        "command.md",
        [
            "python -m benchmarks.figures --photograph HERE",
            "perceptual heatmap HERE/photo.png HERE/photo.jpg -o HERE/map.png",
        ],
        {"heatmap.png": "map.png"},
    ),
    "severity": Step(
        "results/severity.md",
        ["python -m benchmarks.severity --output HERE/severity"],
        {"results/severity.png": "severity.png"},
    ),
    "growth": Step(
        "benchmarks.md",
        ["python -m benchmarks.growth alexnet --output HERE/growth.json"],
        {"results/growth.png": "growth.png"},
    ),
    "study": Step(
        "benchmarks.md",
        ["python -m pytest tests/collect/test_browser.py -k whole_study"],
        {
            "collect/welcome.png": "welcome-desktop.png",
            "collect/trial.png": "2afc-desktop-trial4.png",
            "collect/phone.png": "2afc-phone-trial4.png",
            "collect/admin.png": "admin-2afc.png",
        },
    ),
    "material": Step(
        "results/material.md",
        [
            f"python evaluate.py {MATERIAL} data.val_fraction=1 methods=[{METHODS}] results=HERE/results",
            "perceptual leaderboard HERE/results -o HERE/leaderboard.md --plots HERE/pictures",
        ],
        {"results/material.png": "pictures/scores-*.png"},
    ),
    "trust": Step(
        "results/trust.md",
        [
            f"python evaluate.py robustness=true attacks=fast {MATERIAL} data.val_fraction=1 results=HERE/64 "
            "methods=[l2,ssim,alexnet,squeezenet1_1,tf_efficientnet_lite0,vgg16]",
            f"python evaluate.py robustness=true attacks=fast methods=[l2,ms_ssim] {MATERIAL} "
            "data.val_fraction=1 data.size=192 results=HERE/192",
        ],
        {"results/trust.png": "64/*/trust.png"},
    ),
    "jpeg": Step(
        "results.md",
        [
            f"python evaluate.py {JPEG}.csv data.val_fraction=1 data.size=null results=HERE/results methods="
            "[l2,ssim,alexnet-uncalibrated,fsimc,squeezenet1_1-v0.1,alexnet-v0.1,haarpsi,gmsd,l2_lab]",
            "perceptual leaderboard HERE/results -o HERE/leaderboard.md",
        ],
    ),
    "jpeg-lin": Step(
        "results.md",
        [
            "python -m benchmarks.figures --split path/to/jpeg/manifest.csv HERE/manifest_split.csv",
            *_trained(
                "experiment=paper_lin data=manifest data.path=HERE/manifest_split.csv data.size=null "
                "backbone=alexnet model.lin_init=v0.1 model.dropout=0 model.lr=3e-2 trainer.max_epochs=20"
            ),
        ],
    ),
    "recipes": Step(
        "results.md", [f"python -m benchmarks.recipes {TRIPLETS} --backbone {net}" for net in NETS]
    ),
    "tuning": Step(
        "results.md",
        [
            f"python -m benchmarks.tuning {TRIPLETS} --backbone alexnet --runs HERE/runs",
            f"python -m benchmarks.tuning {TRIPLETS} --backbone squeezenet1_1 --splits 5 --runs HERE/runs",
        ],
    ),
    "unseen-tune": Step(
        "results.md",
        [
            command
            for net in NETS
            for command in _trained(
                f"experiment=unseen_tune {MATERIAL} backbone={net}"
                + " model.backbone_lr_factor=0.003 trainer.max_epochs=6" * (net == "vgg16")
            )
        ],
    ),
    "seen": Step(
        "results.md",
        [
            command
            for net in NETS
            for recipe in (
                "model=lin model.ranking=antisymmetric model.lr=0.01 data.views=0",
                "experiment=unseen_tune" + " trainer.max_epochs=2" * (net == "vgg16"),
            )
            for command in _trained(f"{recipe} {MATERIAL} data.split_by=triplet backbone={net}", 1)
        ],
    ),
    "joint": Step(
        "networks.md",
        [
            command
            for net in (*NETS[:2], "alexnet+squeezenet1_1")
            for command in _trained(
                f"backbone={net} model=lin model.ranking=antisymmetric model.lr=0.01 data.views=0 {MATERIAL}"
            )
        ],
    ),
    "supervision": Step(
        "networks.md",
        [
            *(
                command
                for weights in ("default", "null", "kmeans")
                for command in _trained(
                    "model=lin model.ranking=antisymmetric model.lr=0.01 data.views=0 "
                    f"{MATERIAL} backbone=alexnet backbone.weights={weights}"
                )
            ),
            f"python evaluate.py {MATERIAL} data.val_fraction=1 results=HERE/results "
            "methods=[alexnet-random,alexnet-kmeans,alexnet-uncalibrated]",
            f"python evaluate.py {JPEG}.csv data.val_fraction=1 data.size=256 results=HERE/results "
            "methods=[alexnet-random,alexnet-kmeans,alexnet-uncalibrated]",
        ],
    ),
    "speed": Step(
        "benchmarks.md",
        [
            "python -m benchmarks.distance alexnet squeezenet1_1 vgg16 --output HERE/distance.json",
            "python -m benchmarks.loss vgg16 --output HERE/loss.json",
            "python -m benchmarks.pairwise alexnet --output HERE/pairwise.json",
            "python -m benchmarks.calibration alexnet vgg16 --output HERE/calibration.json",
            "python -m benchmarks.native alexnet squeezenet1_1 --output HERE/native.json",
            "python -m benchmarks.bapps_scale",
            "python -m benchmarks.command",
        ],
    ),
    "coverage": Step(
        "results/coverage.md",
        [
            "python -m benchmarks.coverage --out HERE/coverage.jsonl",
            "python -m benchmarks.coverage --out HERE/coverage.jsonl --memory 1.2",
        ],
    ),
}


def make(name: str, step: Step, assets: Path | None, build: Path) -> str | None:
    """Run the commands of a step that were not run yet, and copy its pictures.

    Returns:
        why there is nothing new to see, in a few words; None if all went well.
    """
    here = (build / name).resolve()
    here.mkdir(parents=True, exist_ok=True)
    weights = {"PERCEPTUAL_WEIGHTS": str(assets / "weights")} if assets else {}
    surroundings = os.environ | weights | {"PERCEPTUAL_SCREENSHOTS": str(here)}
    for number, command in enumerate(step.commands):
        done = here / f"{number:02}.txt"
        if done.exists():
            continue
        words = [word.replace("HERE", str(here)) for word in shlex.split(command)]
        if any("path/to/" in word for word in words):
            missing = "PERCEPTUAL_ASSETS is not set"
            if assets:
                words = [word.replace("path/to", str(assets)) for word in words]
                used = [Path(word.rpartition("=")[2]) for word in words if f"{assets}{os.sep}" in word]
                missing = next((f"no {path}" for path in used if not path.exists()), "")
            if missing:
                return f"data are absent: {missing}"
        program = {"python": [sys.executable], "perceptual": [sys.executable, "-c", COMMAND]}
        with done.with_suffix(".running").open("w") as log:
            log.write(f"$ {command}\n")
            log.flush()
            ran = subprocess.run(
                [*program[words[0]], *words[1:]], cwd=ROOT, env=surroundings, stdout=log, stderr=log
            )
        if ran.returncode:
            return f"failed, see {log.name}: {command}"
        Path(log.name).replace(done)
    for place, pattern in step.pictures.items():
        found = sorted(here.glob(pattern))
        if not found:
            return f"made no {pattern}"
        publish(found[-1], ROOT / "docs" / place)
    return None


def publish(source: Path, target: Path) -> None:
    """Copy a picture, no wider than a page needs and in 256 colours."""
    with Image.open(source) as picture:
        picture.thumbnail((WIDEST, 10 * WIDEST))
        save_picture(picture.convert("RGB").quantize(dither=Image.Dither.NONE), target)


def photograph(folder: Path) -> None:
    """Write a packaged photograph as `photo.png`, and as `photo.jpg` of quality 5."""
    with Image.open(packaged(["astronaut.png"])[0]) as image:
        image.save(folder / "photo.png")
        image.convert("RGB").save(folder / "photo.jpg", quality=5)


def split(source: Path, target: Path) -> None:
    """Add a column `split` to a manifest: every third reference, in the order of names, is `val`."""
    with source.open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    held_out = sorted({row["ref"] for row in rows})[::3]
    with target.open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, [*rows[0], "split"])
        writer.writeheader()
        for row in rows:
            paths = {role: str(source.resolve().parent / row[role]) for role in ("ref", "p0", "p1")}
            writer.writerow(row | paths | {"split": "val" if row["ref"] in held_out else "train"})


def main() -> None:
    """Make the steps that were named, or all; the exit status is 1 if one failed."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("steps", nargs="*", metavar="STEP", help=f"of {', '.join(STEPS)} (default: all)")
    parser.add_argument("--build", type=Path, default=ROOT / "build/figures", help="where steps work")
    parser.add_argument("--photograph", type=Path, help="only write the two images of the heat map here")
    parser.add_argument("--split", type=Path, nargs=2, help="only add a split to a manifest: FROM TO")
    given = parser.parse_args()
    if unknown := set(given.steps) - set(STEPS):
        parser.error(f"STEP must be of {', '.join(STEPS)}, got {', '.join(sorted(unknown))}")
    if given.photograph:
        return photograph(given.photograph)
    if given.split:
        return split(*given.split)
    assets = os.environ.get("PERCEPTUAL_ASSETS")
    failed = False
    for name in given.steps or STEPS:
        print(f"{name:12} …", flush=True)
        problem = make(name, STEPS[name], Path(assets).resolve() if assets else None, given.build)
        print(f"{name:12} {problem or f'done: docs/{STEPS[name].page}'}", flush=True)
        failed |= problem is not None and "absent" not in problem
    sys.exit(int(failed))


if __name__ == "__main__":
    main()
