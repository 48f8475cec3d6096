"""The command against the bare distance: pace and memory of `perceptual dirs`, and starts from nothing.

    PERCEPTUAL_WEIGHTS=… python -m benchmarks.command

Makes two folders of 1,000 crops of photographs, 256×256, as PNG, one of them once compressed. In turns and in
one process, the distances of `dirs`, decoding included, and the bare distance loop on images in memory; the
median of the rounds counts. Then the command itself, started afresh: seconds, and peak memory on 250 and on
1,000 pairs. AlexNet with the published calibration.
"""

import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from io import BytesIO
from pathlib import Path

import numpy as np
from PIL import Image

from perceptual.cli.batches import Pair, measure_all, stack
from perceptual.cli.images import list_images, read_pair
from perceptual.cli.method import choose
from perceptual.data.decode import read_rgb
from perceptual.data.synthetic.photographs import packaged

COUNT, SIDE, ROUNDS = 1000, 256, 3
BATCH = 16  # of the bare loop, which larger ones make no faster
COMMAND = "from perceptual.cli import main; main()"
# the kernel's own count, for what getrusage counts begins with the process that started this one
PEAK = r"""import atexit, re, sys
def peak(): return re.search(r"VmHWM:\s+(\d+)", open("/proc/self/status").read())[1]
atexit.register(lambda: print(peak(), file=sys.stderr))"""


def prepare(folder: Path, count: int) -> list[str]:
    """Two folders of images of the same names, `original` and `compressed`."""
    photos = [image for path in packaged() if min((image := read_rgb(path)).size) > SIDE]
    rng = np.random.default_rng(0)
    folders = [folder / "original", folder / "compressed"]
    for place in folders:
        place.mkdir(parents=True)
    for number in range(count):
        photo = photos[number % len(photos)]
        left, top = (int(rng.integers(0, length - SIDE)) for length in photo.size)
        crop = photo.crop((left, top, left + SIDE, top + SIDE))
        crop.save(folders[0] / f"{number:04}.png")
        jpeg = BytesIO()
        crop.save(jpeg, "JPEG", quality=30)
        Image.open(jpeg).save(folders[1] / f"{number:04}.png")
    return [str(place) for place in folders]


def paces(folders: list[str]) -> tuple[float, float]:
    """Pairs per second: of the bare distance loop, and of `dirs`."""
    chosen = choose("alexnet")
    pairs = list(zip(*(list_images(folder).values() for folder in folders), strict=True))
    first = [_read(pair) for pair in pairs[:BATCH]]
    x, y = stack([pair.x for pair in first]), stack([pair.y for pair in first])

    def bare() -> list[float]:
        return [value for _ in range(len(pairs) // BATCH) for value in chosen.measure(x, y)]

    def dirs() -> list[float]:
        found = measure_all(chosen.measure, pairs, _read)
        return [value for _, value in found if isinstance(value, float)]

    np.testing.assert_allclose(dirs()[:BATCH], bare()[:BATCH], rtol=1e-5)  # and both are warm
    rounds = [(_pace(bare), _pace(dirs)) for _ in range(ROUNDS)]
    a, b = (statistics.median(times) for times in zip(*rounds, strict=True))
    return a, b


def started(code: str, arguments: list[str], rounds: int) -> tuple[float, int]:
    """Median seconds of Python on some code with arguments, and its peak memory in MB."""
    seconds, peaks = [], []
    for _ in range(rounds):
        start = time.perf_counter()
        run = subprocess.run(
            [sys.executable, "-c", f"{PEAK}\n{code}", *arguments], capture_output=True, text=True, check=True
        )
        seconds.append(time.perf_counter() - start)
        peaks.append(int(run.stderr.split()[-1]) // 1024)
    return statistics.median(seconds), max(peaks)


def main() -> None:
    """Print all of it."""
    with tempfile.TemporaryDirectory() as folder:
        few, many = (prepare(Path(folder, str(count)), count) for count in (COUNT // 4, COUNT))
        bare, dirs = paces(many)
        print(f"bare distance        {bare:6.1f} pairs/s")
        print(f"dirs                 {dirs:6.1f} pairs/s, {100 * dirs / bare:.0f} % of it")
        pair = [f"{place}/0000.png" for place in many]
        for name, code, arguments in (
            ("--help", COMMAND, ["--help"]),
            ("distance", COMMAND, ["distance", *pair, "--method", "alexnet"]),
            ("import torch, timm", "import torch, timm", []),
            ("import LPIPS", "from perceptual import LPIPS", []),
            (f"dirs, {COUNT // 4} pairs", COMMAND, ["dirs", *few, "--csv"]),
            (f"dirs, {COUNT} pairs", COMMAND, ["dirs", *many, "--csv"]),
        ):
            seconds, peak = started(code, arguments, 1 if name.startswith("dirs") else ROUNDS)
            print(f"{name:20} {seconds:6.2f} s, {peak} MB")


def _read(pair: tuple[str, str]) -> Pair:
    return read_pair(*pair, False)


def _pace(loop: Callable[[], list[float]]) -> float:
    start = time.perf_counter()
    return len(loop()) / (time.perf_counter() - start)


if __name__ == "__main__":
    main()
