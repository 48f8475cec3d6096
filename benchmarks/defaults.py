"""The default recipe of train.py against the paper's, as train.py trains with both.

    python -m benchmarks.defaults photos path/to/material/triplets.csv path/to/jpeg/manifest_split.csv

A seed also chooses the split by image of a manifest that has none: the difference then has the 95 % interval
of Student's t over seeds. Where a manifest has a split, images keep their sizes, and the mean over seeds has
the percentile interval of 2,000 draws of references.
"""

import argparse
import io
import tempfile
from contextlib import redirect_stdout
from pathlib import Path

import numpy as np
from hydra import compose, initialize_config_dir

from benchmarks.recipes import interval
from perceptual.config import register
from train import train

CONF = Path(__file__).parents[1] / "conf"
# pictures of each run, which no score needs
WITHOUT = [f"~callbacks.{name}" for name in ("lin", "preference", "disagreements", "progress")]


def run(words: list[str]) -> tuple[list[float], dict[str, np.ndarray]]:
    """2AFC in %, the mean over subsets, uncalibrated and calibrated; and what that is made of, by item."""
    with tempfile.TemporaryDirectory() as folder, redirect_stdout(io.StringIO()):
        found = train(compose("train", [*words, *WITHOUT, f"run_dir={folder}"]))
        (place,) = Path(folder).glob("results/*/scored/*")
        items = {path.stem: np.load(path) for path in (place.parents[1] / "items").glob("*.npy")}
        d0, d1 = np.load(place / "d0.npy"), np.load(place / "d1.npy")
    j = items["judgment"]
    items["agreement"] = np.where(d0 < d1, 1 - j, np.where(d1 < d0, j, 0.5))
    return [100 * found[name]["mean"] for name in ("uncalibrated", "trained")], items


def over_references(difference: np.ndarray, ref: np.ndarray, subset: np.ndarray) -> str:
    """Mean over subsets of a difference of items, with its interval; in %."""
    _, ref = np.unique(ref, return_inverse=True)
    rng, count = np.random.default_rng(0), ref.max() + 1
    weights = [np.ones(len(ref)), *rng.multinomial(count, np.ones(count) / count, 2000)[:, ref]]
    parts = [subset == number for number in np.unique(subset)]
    means = [100 * np.mean([np.average(difference[p], weights=w[p]) for p in parts]) for w in weights]
    low, high = np.percentile(means[1:], [2.5, 97.5])
    return f"{means[0]:+.2f}, {low:+.2f} to {high:+.2f}"


def main() -> None:
    """Print a row for each set: uncalibrated, by default, by the paper's recipe, and the difference."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("sets", nargs="+", help="photos, or manifests")
    parser.add_argument("--backbone", default="alexnet")
    parser.add_argument("--seeds", type=int, default=5)
    given = parser.parse_args()
    register()
    with initialize_config_dir(str(CONF), version_base="1.3"):
        for name in given.sets:
            data, own = ["data=photos"], False
            if name != "photos":
                with Path(name).open(encoding="utf-8") as file:
                    own = "split" in file.readline()
                data = ["data=manifest", f"data.path={name}", *["data.size=null"] * own]
            table, differences = np.empty((given.seeds, 3)), []
            for seed in range(given.seeds):
                common = [*data, f"backbone.name={given.backbone}", f"seed={seed}"]
                table[seed, :2], ours = run(common)
                (_, table[seed, 2]), theirs = run([*common, "experiment=paper_lin"])
                differences.append(ours["agreement"] - theirs["agreement"])
            said = interval(table[:, 1] - table[:, 2])
            if own:
                said = over_references(np.mean(differences, 0), ours["cluster"], ours["subset"])
            means = " | ".join(f"{value:.1f}" for value in table.mean(0))
            print(f"| {name} | {means} | {said} |", flush=True)


if __name__ == "__main__":
    main()
