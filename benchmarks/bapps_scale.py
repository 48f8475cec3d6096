"""BAPPS on one machine: a stand-in of its size and layout, from making to scores.

    PERCEPTUAL_WEIGHTS=path/to/weights python -m benchmarks.bapps_scale [--share 1] [--workers 2]

Trains distorters; makes 151,400 training and 36,344 validation triplets and 9,600 JND pairs as BAPPS's
folders; packs them; trains `lin` on AlexNet for ten epochs; scores three methods on the triplets and on the
pairs. Each step is the command that a person would type. Of each: the time, the largest memory beyond mapped
pages (anonymous memory of all its processes, looked up twice per second), and the disk taken in the end.
Training and validation are made of different photographs; the judgments are a simulated observer's. Folders
are removed once they are packed.
"""

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from benchmarks.timing import report
from perceptual.data import bapps_subsets
from perceptual.data.synthetic.photographs import TRAIN_PHOTOS, VAL_PHOTOS, packaged

ROOT = Path(__file__).parents[1]
COMMAND = (sys.executable, "-c", "from perceptual.cli import main; main()")
TRAIN = {"traditional": (56_600, "paper"), "cnn": (38_200, "cnn"), "mix": (56_600, "mix")}
# what BAPPS has of real algorithms is stood in for by a design
VAL = dict.fromkeys(bapps_subsets.VAL, "paper") | {"cnn": "cnn", "superres": "cnn", "frameinterp": "mix"}
JND = {"traditional": (4_800, "paper"), "cnn": (4_800, "cnn")}
METHODS = "[alexnet-uncalibrated,ssim,l2]"


def anonymous(pid: int) -> int:
    """Bytes of memory beyond mapped files, of a process and those it started."""
    total, left = 0, [pid]
    while left:
        one = left.pop()
        try:
            status = Path(f"/proc/{one}/status").read_text(encoding="utf-8")
            total += 1024 * next(
                int(line.split()[1]) for line in status.splitlines() if line.startswith("RssAnon")
            )
            for task in Path(f"/proc/{one}/task").iterdir():
                left += map(int, (task / "children").read_text().split())
        except (OSError, StopIteration):  # it ended meanwhile
            continue
    return total


def disk(folder: Path) -> int:
    """Bytes that files take below a folder."""
    return sum(path.stat().st_blocks * 512 for path in folder.rglob("*") if path.is_file())


def step(name: str, place: Path, *commands: list[str]) -> dict[str, Any]:
    """Run commands one after the other; what they took together."""
    start, most = time.perf_counter(), 0
    for words in commands:
        with (place / "log.txt").open("a") as log:
            process = subprocess.Popen(words, cwd=place, stdout=log, stderr=log)
            while process.poll() is None:
                most = max(most, anonymous(process.pid))
                time.sleep(0.5)
        if process.returncode:
            sys.exit(f"{name} failed: {(place / 'log.txt').read_text()[-2000:]}")
    taken = time.perf_counter() - start
    row = {"step": name, "seconds": taken, "memory GB": most / 1e9, "disk GB": disk(place) / 1e9}
    print(f"{name}: {taken:,.0f} s, {most / 1e9:.2f} GB, {row['disk GB']:.1f} GB on disk", flush=True)
    return row


def making(place: Path, share: float, workers: int) -> list[tuple[list[str], Path, Path]]:
    """For each subset the command that makes it, the folder that it writes, and where that belongs."""
    wanted = [(f"2afc/train/{name}", *how, "train", "make-triplets") for name, how in TRAIN.items()]
    wanted += [
        (f"2afc/val/{name}", count, VAL[name], "val", "make-triplets")
        for name, count in bapps_subsets.VAL.items()
    ]
    wanted += [(f"jnd/val/{name}", *how, "val", "make-pairs") for name, how in JND.items()]
    found = []
    for number, (home, count, design, photos, command) in enumerate(wanted):
        words = [command, str(place / photos), str(place / f"made{number}"), "--seed", str(number)]
        words += ["--count", str(max(4, round(share * count))), "--design", design, "--workers", str(workers)]
        if design != "paper":
            words += ["--distorters", str(place / "distorters")]
        subset = "traditional" if design == "paper" else design
        found.append(([*COMMAND, "data", *words], place / f"made{number}" / subset, place / "bapps" / home))
    return found


def main(share: float, workers: int, output: Path) -> None:
    """Run all steps and write what they took."""
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder)
        os.environ["PERCEPTUAL_CACHE"] = str(place / "cache")
        os.environ["PYTHONPATH"] = os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])
        for side, photos in (("train", TRAIN_PHOTOS), ("val", VAL_PHOTOS)):
            (place / side).mkdir()
            for path in packaged(photos):
                shutil.copy(path, place / side)
        data = [*COMMAND, "data"]
        training = [*data, "train-distorters", str(place / "train"), str(place / "distorters")]
        count = ["--count", "12", "--workers", str(workers)]
        rows.append(step("train 12 distorters", place, [*training, *count]))
        made = making(place, share, workers)
        rows.append(step("make", place, *(words for words, _, _ in made)))
        for _, source, home in made:
            home.parent.mkdir(parents=True, exist_ok=True)
            source.replace(home)
        packing = [*data, "pack", str(place / "bapps"), str(place / "store"), "--workers", str(workers)]
        rows.append(step("pack", place, packing))
        shutil.rmtree(place / "bapps")
        fit = ["data=bapps", f"data.root={place}/store", "data.jnd=null", "backbone=alexnet", "model=lin"]
        rows.append(step("train lin", place, [sys.executable, str(ROOT / "train.py"), *fit]))
        scoring = [sys.executable, str(ROOT / "evaluate.py"), f"methods={METHODS}"]
        rows.append(
            step(
                "score triplets", place, [*scoring, "data=bapps", f"data.root={place}/store", "data.jnd=null"]
            )
        )
        rows.append(step("score pairs", place, [*scoring, "data=jnd", f"data.root={place}/store"]))
        print((place / "log.txt").read_text()[-3000:])
    whole = sum(row["seconds"] for row in rows)
    most = max(row["memory GB"] for row in rows)
    rows.append({"step": "all", "seconds": whole, "memory GB": most, "disk GB": "—"})
    report(rows, output, share=share, workers=workers)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--share", type=float, default=1, help="of the number of items, for a trial")
    parser.add_argument("--workers", type=int, default=os.cpu_count(), help="processes that make and pack")
    parser.add_argument("--output", type=Path, default=Path("bapps_scale.json"), help="where the JSON goes")
    options = parser.parse_args()
    main(options.share, options.workers, options.output)
