"""Runs of train.py as rows of a leaderboard: the settings of a run's folder, and why a run gave no score.

<run>/.hydra/config.yaml        the settings, before interpolation; Hydra writes it
<run>/results/<data>/…          what `keep` of `evaluate.py` here wrote, see `results.py`
<run>/failed/row.json           the reason of a run that gave no score
"""

import os
import shlex
import shutil
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from perceptual.evaluation.results import FAILED, SCORED, Result, publish, read
from perceptual.files.records import read_yaml

RESULTS = "results"
ELSEWHERE = ("ckpt", "runs", "run_dir", "logger")  # where a run reads and writes, not what it trains
UNFINISHED = "not finished: still running, stopped or killed"


def settings(run: str | os.PathLike[str]) -> dict[str, Any]:
    """What a run was asked to do, as plain values by their dotted keys; empty if the folder does not say."""
    path = Path(run, ".hydra/config.yaml")
    if not path.is_file():
        return {}
    # interpolations stay: a value that only follows another is no setting of its own
    chosen = read_yaml(path)
    if not isinstance(chosen, dict):
        raise ValueError(f"{path} must hold settings by name, got {chosen!r:.60}")
    return dict(_flat({key: value for key, value in chosen.items() if key not in ELSEWHERE}))


def choices(run: str | os.PathLike[str]) -> dict[str, Any]:
    """The choice of each group of `conf/` that a run made; empty if the folder does not say."""
    path = Path(run, ".hydra/hydra.yaml")
    if not path.is_file():
        return {}
    made = read_yaml(path)["hydra"]["runtime"]["choices"]
    return {key: one for key, one in made.items() if one and "/" not in key and key not in ELSEWHERE}


def command(run: str | os.PathLike[str]) -> str | None:
    """The command line that repeats a run, if the folder says."""
    path = Path(run, ".hydra/overrides.yaml")
    if not path.is_file():
        return None
    return shlex.join(["python", "train.py", *map(str, read_yaml(path))])


def keep_failure(run: str | os.PathLike[str], reason: str) -> None:
    """Keep why a run gave no score."""
    folder = Path(run, FAILED)
    shutil.rmtree(folder, ignore_errors=True)
    publish(folder, Result(str(run), reason, settings=settings(run)).row(), {})


def without_score(folder: str | os.PathLike[str]) -> list[Result]:
    """The runs in a folder and below that gave no score, each with its `error`."""
    found = []
    for path in sorted(Path(folder).rglob(".hydra/config.yaml")):
        run = path.parents[1]
        if (run / FAILED / "row.json").is_file():
            found.append(read(run / FAILED, Result))
        elif not any(run.glob(f"{RESULTS}/*/{SCORED}/*/row.json")):
            found.append(Result(str(run), UNFINISHED, settings=settings(run)))
    return found


def varied(results: Iterable[Result]) -> list[str]:
    """Keys of the settings that differ between runs, in the order of the configuration."""
    chosen = [result.settings for result in results if result.settings]
    keys = dict.fromkeys(key for one in chosen for key in one)
    return [key for key in keys if len({repr(one.get(key)) for one in chosen}) > 1]


def common_folder(results: Iterable[Result]) -> Path | None:
    """The folder that holds all runs among the results; None if there are none."""
    runs = [result.method for result in results if result.settings is not None]
    if not runs:
        return None
    return Path(os.path.commonpath(runs) if len(runs) > 1 else os.path.dirname(runs[0]))


def _flat(node: Mapping[Any, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in node.items():
        if isinstance(value, Mapping):
            yield from _flat(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value
