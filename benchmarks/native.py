"""Triplets per second of evaluation at native resolution, beside the bare loop over the same decoded images.

    python -m benchmarks.native [NET …] [--device cuda] [--output native.json]

Photographs are cropped to 12 sizes from 64×96 to 512×512 and compressed as JPEG twice each. The bare loops
hold all images as tensors on the device already: `plain` calls our distance twice for each triplet, `lpips`
the package's. Ours is all of `perceptual.evaluation.evaluate`, from the packed store with `--native` to the
result that it writes: it sorts triplets by size, compares batches and scores them. Before that the distances
of all are compared.
"""

import itertools
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from benchmarks.timing import arguments, full_precision, medians, report, same_weights
from perceptual.data import ManifestDataModule, pack
from perceptual.data.readers.folders import read_origin
from perceptual.data.synthetic.photographs import packaged
from perceptual.evaluation.evaluate import evaluate

SIZES = [(64, 96), (96, 128), (128, 128), (160, 120), (192, 256), (200, 300), (240, 320), (256, 256)]
SIZES += [(256, 384), (300, 400), (384, 256), (512, 512)]
COUNT = 96
Triplet = tuple[Tensor, Tensor, Tensor]


def prepare(folder: Path) -> None:
    """`COUNT` triplets of crops of photographs and two JPEGs of each, and their packed store."""
    rng = np.random.default_rng(0)
    rows = ["ref,p0,p1,judge"]
    photographs = itertools.cycle(packaged())
    sizes = itertools.cycle(SIZES)
    for item in range(COUNT):
        (height, width), image = next(sizes), Image.open(next(photographs)).convert("RGB")
        if image.height < height or image.width < width:
            image = image.resize((width, height))
        top, left = (int(rng.integers(room + 1)) for room in (image.height - height, image.width - width))
        image = image.crop((left, top, left + width, top + height))
        names = [f"{item}.png", f"{item}-0.jpg", f"{item}-1.jpg"]
        image.save(folder / names[0])
        for name, quality in zip(names[1:], rng.integers(20, 90, 2), strict=True):
            image.save(folder / name, quality=int(quality))
        rows.append(",".join([*names, str(rng.integers(2))]))
    (folder / "triplets.csv").write_text("\n".join(rows) + "\n")
    pack(read_origin(folder / "triplets.csv")[""], folder / "store", "benchmark", size=None, workers=1)


def decoded(data: ManifestDataModule, device: str) -> list[Triplet]:
    """All triplets as tensors (1, 3, H, W) in [0, 1] on the device."""
    assert data.val_set is not None
    items = (data.val_set[row].to(device) for row in range(COUNT))
    return [(item.role("ref"), item.role("p0"), item.role("p1")) for item in items]


@torch.no_grad()
def loop(distance: Callable[[Tensor, Tensor], Tensor], triplets: list[Triplet]) -> np.ndarray:
    """(2, N): d0 and d1, one triplet at a time."""
    found = [[distance(ref, p).cpu().item() for p in (p0, p1)] for ref, p0, p1 in triplets]
    return np.array(found).T


def run(name: str, data: ManifestDataModule, device: str) -> dict[str, Any]:
    """Triplets per second of one network, after the check."""
    theirs, ours = same_weights(name, device)
    triplets = decoded(data, device)

    def evaluation() -> np.ndarray:
        with tempfile.TemporaryDirectory() as results:
            place, *_ = evaluate([name], data, results, device, build=lambda _: ours)
            (result,) = place.all()
            return np.stack([result.arrays["d0"], result.arrays["d1"]])

    calls: dict[str, Callable[[], np.ndarray]] = {
        "evaluate": evaluation,
        "plain": lambda: loop(ours, triplets),
        "lpips": lambda: loop(lambda x, y: theirs(x, y, normalize=True), triplets),
    }
    with full_precision():
        found = {what: call() for what, call in calls.items()}
    for what in ("evaluate", "plain"):
        np.testing.assert_allclose(found[what], found["lpips"], rtol=1e-4, atol=1e-6)
    seconds = medians(calls)
    rates = {f"{what}, triplets/s": COUNT / taken for what, taken in seconds.items()}
    of_loop = {f"evaluate, of {what}": seconds[what] / seconds["evaluate"] for what in ("plain", "lpips")}
    return {"network": name, **rates, **of_loop}


def main() -> None:
    """The table of all networks."""
    options = arguments(__doc__, "native.json")
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        prepare(Path(folder))
        data = ManifestDataModule(str(Path(folder, "store")), val_fraction=1, size=None)
        data.setup("validate")
        rows = [run(name, data, options.device) for name in options.nets]
    report(rows, options.output, triplets=COUNT, sizes=SIZES)


if __name__ == "__main__":
    main()
