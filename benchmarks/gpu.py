"""All that is to be seen on a machine with a GPU, by one command: `python -m benchmarks.gpu`.

Runs `tests/test_gpu.py` and the benchmarks that take `--device cuda`, and prints the tables that docs/gpu.md
has; all output and the JSON of each go to `build/gpu`. What fails is said, the others go on, and the exit
status is 1.
"""

import argparse
import json
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

FOLDER = Path("build/gpu")
TESTS = ["pytest", "-q", "tests/test_gpu.py"]
BENCHMARKS = {
    "distance": ("alexnet", "squeezenet1_1", "vgg16"),
    "loss": ("alexnet", "vgg16"),
    "pairwise": ("alexnet",),
    "native": ("alexnet", "squeezenet1_1"),
}


def succeeds(name: str, module: Sequence[str]) -> bool:
    """Run a module, its output to a file, and say how it went."""
    print(f"{name} …", flush=True)
    log = FOLDER / f"{name}.log"
    with log.open("w", encoding="utf-8") as file:
        done = subprocess.run([sys.executable, "-m", *module], stdout=file, stderr=file, check=False)
    last = "".join(log.read_text(encoding="utf-8").strip().splitlines()[-1:])
    print(f"{name}: {f'failed, see {log}' if done.returncode else 'done'} ({last[:90]})", flush=True)
    return done.returncode == 0


def table(rows: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    """Rows of a benchmark in Markdown."""
    heads = list(rows[0])
    yield f"| {' | '.join(heads)} |"
    yield f"|{'|'.join('---' if isinstance(rows[0][head], str) else '--:' for head in heads)}|"
    for row in rows:
        cells = (f"{row[head]:.3g}" if isinstance(row[head], float) else str(row[head]) for head in heads)
        yield f"| {' | '.join(cells)} |"


def main(device: str) -> int:
    """Run everything; the exit status."""
    if device == "cuda" and not torch.cuda.is_available():
        print("there is no GPU of CUDA; --device cpu tries the commands without one", file=sys.stderr)
        return 1
    FOLDER.mkdir(parents=True, exist_ok=True)
    failed = not succeeds("tests", TESTS)
    for name, nets in BENCHMARKS.items():
        output = FOLDER / f"{name}.json"
        output.unlink(missing_ok=True)
        words = [*nets, "--device", device, "--output", str(output)]
        failed |= not succeeds(name, [f"benchmarks.{name}", *words])
        if output.exists():
            found = json.loads(output.read_text(encoding="utf-8"))
            print(f"\n{name}, {found['machine']['card']}, PyTorch {found['machine']['torch']}\n")
            print("\n".join([*table(found["rows"]), ""]), flush=True)
    return int(failed)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--device", default="cuda", help="cuda (default), or cpu to try the commands")
    sys.exit(main(parser.parse_args().device))
