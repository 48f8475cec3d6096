"""A population of distorters: a folder with a safetensors file for each network.

`distorters.json`, written last, says what it is and holds the SHA-256 of each file; the recipe of a network
is in the metadata of its file. Training that was interrupted continues with the networks that are missing.
"""

import json
import os
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import lru_cache
from hashlib import sha256
from pathlib import Path
from typing import Annotated

import numpy as np
import torch
from annotated_types import Len, Predicate
from safetensors import SafetensorError, safe_open
from torch import nn

from perceptual.data.synthetic.distorters.network import Distorter, Recipe, draw_recipe, train_file
from perceptual.data.synthetic.photographs import TRAIN_PHOTOS, packaged, patches
from perceptual.data.workers import all_done
from perceptual.data.writers.partial import goes_on, settle, state_of, working_on
from perceptual.files.places import ELSEWHERE, cache_folder
from perceptual.files.records import check_record, read_record, to_json

VERSION, INFO = 1, "distorters.json"
STEPS = 600  # of training, per network
SMALL_COUNT, SMALL_STEPS = 6, 80  # of the population that a first run trains
_PATCHES = 512
REMEDY = "train the distorters again"


@dataclass(frozen=True)
class PopulationInfo:
    """Content of `distorters.json`."""

    version: int  # of this format
    request: str  # SHA-256 of what the population was made of
    seed: int
    # SHA-256 of the file of each network; its name is a number
    networks: Annotated[
        dict[Annotated[str, Predicate(str.isdecimal)], Annotated[str, Len(64, 64)]], Len(2, 10_000)
    ]


@dataclass(frozen=True)
class Population:
    """Networks by name, and what identifies them."""

    networks: dict[str, nn.Module]
    digest: str  # SHA-256 of all weights and recipes


def train_population(
    photos: Sequence[str], dst: str | Path, count: int, seed: int, workers: int = 1, steps: int | None = None
) -> None:
    """Train networks on patches of photographs, into a new folder.

    Network i depends on the photographs, the seed, the steps and i only. A complete folder is left unchanged.

    Args:
        photos: image files, at least 64 pixels on the smaller side.
        dst: the folder.
        count: number of networks, at least 2.
        seed: chooses the recipes.
        workers: processes to train in; more than one need a main module that can be imported.
        steps: of training, per network; None: 600.

    Raises:
        ValueError: `dst` is something else already, another process is writing it, or a photograph is too
            small.
        OSError: a photograph cannot be read, or the folder cannot be written.
    """
    if count < 2:
        raise ValueError(f"count must be at least 2, got {count}")
    dst, steps = Path(dst), STEPS if steps is None else steps
    photos = list(photos)[:_PATCHES]  # no more are looked at
    request = f"{VERSION} {count} {seed} {steps} {' '.join(os.path.basename(path) for path in photos)}"
    request = sha256(request.encode(errors="surrogateescape")).hexdigest()
    if dst.exists():
        if _read_info(dst).request != request:
            raise ValueError(f"{dst} is another population of distorters; remove it or choose another place")
        return
    with working_on(dst) as partial:
        plan, seen = f"{request} {state_of(photos)}", partial / "patches.npy"
        if not goes_on(partial, plan):
            np.save(seen, patches(photos, _PATCHES, seed).mul(255).round().byte().numpy())
            (partial / "plan").write_text(plan)
        files = {f"{number:03}": partial / f"{number:03}.safetensors" for number in range(count)}
        tasks = [
            (draw_recipe(seed, number, steps), str(seen), str(file))
            for number, file in enumerate(files.values())
            if not file.exists()
        ]
        all_done(train_file, tasks, workers, "Training distorters")
        digests = {name: sha256(file.read_bytes()).hexdigest() for name, file in files.items()}
        for left in (seen, partial / "plan", *partial.glob("*.partial")):
            left.unlink()
        info = PopulationInfo(VERSION, request, seed, digests)
        (partial / INFO).write_text(to_json(asdict(info)))
        settle(partial, dst)


def small_population() -> Path:
    """Return the folder of the small population of packaged photographs; train it if it is missing.

    Raises:
        OSError: the cache folder cannot be written, or the disk is full.
    """
    cache = cache_folder()
    folder = cache / f"distorters-{VERSION}-{SMALL_COUNT}-{SMALL_STEPS}"
    if not folder.exists():
        try:
            cache.mkdir(parents=True, exist_ok=True)
            train_population(packaged(TRAIN_PHOTOS), folder, SMALL_COUNT, seed=0, steps=SMALL_STEPS)
        except OSError as error:
            raise OSError(
                f"cannot keep the distorting networks in the cache folder {str(cache)!r}: "
                f"{error.strerror or error}; {ELSEWHERE}"
            ) from error
    return folder


def load_population(folder: str | Path | None) -> Population:
    """Load the networks of a folder, on the CPU.

    Raises:
        ValueError: it is no such folder, of another version, or a file is missing, damaged or not finite.
    """
    path = Path(str(folder))
    return _load(path, sha256(json.dumps(_read_info(path).networks).encode()).hexdigest())


@lru_cache(2)
def _load(folder: Path, digest: str) -> Population:
    networks = {
        name: _load_network(folder / f"{name}.safetensors", expected)
        for name, expected in _read_info(folder).networks.items()
    }
    return Population(networks, digest)


def _load_network(path: Path, digest: str) -> nn.Module:
    try:
        damaged = sha256(path.read_bytes()).hexdigest() != digest
    except OSError:
        raise ValueError(f"{path} is missing: {REMEDY}") from None
    try:
        with safe_open(path, "pt") as file:
            state = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118  # no mapping
            recipe = file.metadata()["recipe"]
        network = Distorter(check_record(recipe, Recipe, path, REMEDY))
        if not all(bool(torch.isfinite(value).all()) for value in state.values()):
            raise ValueError(f"{path} has weights that are not finite")
        network.load_state_dict(state)
    except (SafetensorError, KeyError, TypeError, RuntimeError):
        raise ValueError(f"{path} holds no distorter of this version: {REMEDY}") from None
    if damaged:
        raise ValueError(f"{path} is not the file that {INFO} records: {REMEDY}")
    return network.eval().requires_grad_(False)


def _read_info(folder: Path) -> PopulationInfo:
    try:
        info = read_record(folder / INFO, PopulationInfo, REMEDY)
    except OSError:
        raise ValueError(f"{folder} is no folder of distorters: it has no {INFO}") from None
    if info.version != VERSION:
        raise ValueError(f"{folder} is of version {info.version}, this is for {VERSION}: {REMEDY}")
    return info
