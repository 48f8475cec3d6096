"""Survey: does every architecture of the installed timm give a distance for 64×64 images?

    python -m benchmarks.coverage --out coverage.jsonl

Each architecture, with random weights, goes through `Backbone` and `LPIPS`: a pair of random images must have
a finite distance, equal images none (to rounding: they go through as one batch, and some kernels round its
first and its last image differently; where a network amplifies that, none at all if they go through apart).
Small networks come first, and a row is written as soon as it is known: the same command goes on where it was
interrupted, and tries again what failed. Networks larger than the memory limit as float32 are built in
bfloat16, and those larger even then on the meta device, which knows shapes only; their rows say so. Random
weights repeat after a million numbers, which takes a fraction of the time.
"""

import argparse
import json
import time
import warnings
from collections import Counter
from contextlib import suppress
from pathlib import Path
from typing import Any

import timm
import torch
from rich.progress import track
from torch.overrides import TorchFunctionMode

from perceptual.distance.lpips import LPIPS
from perceptual.features.backbone import PATCH, Backbone
from perceptual.features.info import Level

Row = dict[str, Any]
MILLION = 2**20
ROUNDINGS = 32  # of the unit-normalised features of a level, that count as equal


def main() -> None:
    """Survey what is not in the file yet, and count what is."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", type=Path, default=Path("coverage.jsonl"), help="rows, one JSON a line")
    parser.add_argument("--filter", default="*", help="only architectures that fit this pattern")
    parser.add_argument("--levels", nargs="+", help="levels in place of the default: cls, embedding, patches")
    parser.add_argument("--memory", type=float, default=1, help="limit of a network's weights in GiB")
    given = parser.parse_args()
    warnings.simplefilter("ignore")
    names = timm.list_models(given.filter)
    done = {row["name"] for row in read(given.out) if row["ok"]}
    sizes = count_parameters([name for name in names if name not in done], given.out.with_suffix(".sizes"))
    for name in track(sorted(sizes, key=lambda name: sizes[name]), "Surveying"):
        append(given.out, survey(name, sizes[name], given.memory * 2**30, given.levels))
    rows = list({row["name"]: row for row in read(given.out)}.values())  # the last of each
    print(f"{sum(row['ok'] for row in rows)} of {len(rows)} architectures of timm {timm.__version__} pass")
    print(f"{sum(row.get('distance_of_equal') == 0 for row in rows)} with exactly 0 for equal images")
    for (rule, device, dtype), count in Counter(
        (r.get("rule"), r["device"], r["dtype"]) for r in rows
    ).items():
        print(f"{count:5} {rule}, {dtype} on {device}")
    for row in rows:
        if not row["ok"]:
            print(f"{row['name']}: {row['reason']}")


def survey(name: str, parameters: int, memory: float = 2**30, levels: list[Level] | None = None) -> Row:
    """The row of an architecture: levels, channels, input size, the rule applied, and whether it passes."""
    dtype = torch.float32 if 4 * parameters <= memory else torch.bfloat16
    device = "cpu" if dtype.itemsize * parameters <= memory else "meta"
    row: Row = {"name": name, "parameters": parameters, "dtype": str(dtype).removeprefix("torch.")}
    row["device"] = device
    start = time.perf_counter()
    try:
        row |= _distances(name, dtype, device, levels)
    except Exception as error:  # the survey is after these
        row |= {"ok": False, "reason": f"{type(error).__name__}: {error}".splitlines()[0]}
    return row | {"seconds": round(time.perf_counter() - start, 2)}


def _distances(name: str, dtype: torch.dtype, device: str, levels: list[Level] | None) -> Row:
    torch.manual_seed(0)
    x, y = torch.rand(2, 1, 3, PATCH, PATCH)
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        with torch.device(device), RepeatedRandomness():
            distance = LPIPS(Backbone(name, weights=None, out_indices=levels), lin=None)
    finally:
        torch.set_default_dtype(before)
    backbone = distance.backbone
    row: Row = {
        "levels": list(backbone.out_indices),
        "channels": list(backbone.channels),
        "input_size": list(backbone.input_size or (PATCH, PATCH)),
        "rule": _rule(backbone),
    }
    if device == "meta":
        maps = backbone(x.to(device, dtype))
        fits = [m.shape[1] for m in maps] == backbone.channels
        return row | {"ok": fits, "reason": "shapes only" if fits else f"maps of {[m.shape for m in maps]}"}
    with torch.no_grad():
        different, equal = distance(x, y).item(), distance(x, x).item()
    row |= {"distance": different, "distance_of_equal": equal}
    rounding = len(backbone.out_indices) * (ROUNDINGS * torch.finfo(dtype).eps) ** 2
    if equal > rounding:
        with torch.no_grad():
            row["distance_of_equal_apart"] = equal = distance.reference(x)(x).item()
    if not (0 <= equal <= rounding and equal < different < float("inf")):
        return row | {"ok": False, "reason": f"distance {different}, of equal images {equal}"}
    return row | {"ok": True}


class RepeatedRandomness(TorchFunctionMode):
    """Fill large tensors with copies of their first million random numbers.

    So too when timm makes truncated normal numbers of uniform ones, which is slow in bfloat16.
    """

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        """Draw, or transform, the beginning of the tensor, then repeat it."""
        kwargs = kwargs or {}
        if func not in (torch.Tensor.uniform_, torch.Tensor.normal_, torch.Tensor.erfinv_):
            return func(*args, **kwargs)
        flat = args[0].detach().view(-1)
        func(flat[:MILLION], *args[1:], **kwargs)
        for start in range(MILLION, len(flat), MILLION):
            flat[start : start + MILLION] = flat[: min(MILLION, len(flat) - start)]
        return args[0]


def _rule(backbone: Backbone) -> str:
    """Which of the rules on input sizes in the docstring of `Backbone` held."""
    known = timm.get_pretrained_cfg(backbone.name)
    if known is not None and known.fixed_input_size:
        return "fixed size: resized" if backbone.input_size else "fixed size: built for any"
    return "refuses 64×64: resized" if backbone.input_size else "as it is"


def count_parameters(names: list[str], cache: Path) -> dict[str, int]:
    """Parameters of each architecture's feature network, counted on the meta device and kept in a file."""
    known = {row["name"]: row["parameters"] for row in read(cache)}
    for name in track([name for name in names if name not in known], "Counting parameters"):
        with torch.device("meta"):
            net = timm.create_model(name, features_only=True)
        known[name] = sum(parameter.numel() for parameter in net.parameters())
        append(cache, {"name": name, "parameters": known[name]})
    return {name: known[name] for name in names}


def read(path: Path) -> list[Row]:
    """Rows of a file; what a killed run left of one is none."""
    rows = []
    for line in path.read_text("utf-8").splitlines() if path.is_file() else []:
        with suppress(json.JSONDecodeError):
            rows.append(json.loads(line))
    return rows


def append(path: Path, row: Row) -> None:
    """Add a row, on a line of its own whatever the last one ended with."""
    with path.open("a", encoding="utf-8") as file:
        file.write("\n" + json.dumps(row, ensure_ascii=False))


if __name__ == "__main__":
    main()
