import json
import shutil
import time
from dataclasses import asdict
from hashlib import sha256

import numpy as np
import pytest
import torch
from killing import run_and_kill_when, tree_bytes
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from perceptual.data.synthetic.distorters import population
from perceptual.data.synthetic.distorters.network import (
    CORRUPTIONS,
    NORMS,
    UPSAMPLINGS,
    Distorter,
    draw_recipe,
    train,
)
from perceptual.data.synthetic.distorters.population import (
    load_population,
    small_population,
    train_population,
)
from perceptual.data.synthetic.photographs import TRAIN_PHOTOS, VAL_PHOTOS, packaged, patches

PHOTOS = packaged(TRAIN_PHOTOS[:2])


def populate(dst, workers=1, count=3):
    train_population(PHOTOS, dst, count, seed=4, workers=workers, steps=2)


def test_recipes_use_every_choice():
    recipes = [draw_recipe(0, number, 10) for number in range(100)]
    for name, choices in (("corruption", CORRUPTIONS), ("upsampling", UPSAMPLINGS), ("norm", NORMS)):
        assert {getattr(recipe, name) for recipe in recipes} == set(choices)
    for name in ("depth", "width", "stride", "skips", "dropout", "adversarial", "convolutions"):
        assert len({getattr(recipe, name) for recipe in recipes}) > 1
    assert draw_recipe(0, 7, 10) == recipes[7] != draw_recipe(1, 7, 10)


@pytest.mark.parametrize("number", range(3))
def test_training_restores_better_than_none(number):
    seen = patches(PHOTOS, 24, 0)
    errors = []
    for steps in (0, 30):
        network = train(draw_recipe(0, number, steps), seen)
        errors.append((network(seen, torch.Generator().manual_seed(0)) - seen).abs().mean().item())
    assert errors[1] < errors[0]


@pytest.mark.parametrize("shape", [(1, 3, 64, 64), (2, 3, 45, 38)])
def test_any_size_and_range(shape):
    for number in range(12):
        torch.manual_seed(number)
        network = Distorter(draw_recipe(0, number, 0)).eval()
        output = network(torch.rand(shape), torch.Generator().manual_seed(0))
        assert output.shape == shape
        assert 0 <= output.min() <= output.max() <= 1


def test_a_population_is_the_same_for_any_number_of_workers_and_begins_alike(tmp_path, two_workers):
    populate(tmp_path / "one")
    populate(tmp_path / "two", workers=2)
    assert tree_bytes(tmp_path / "one") == tree_bytes(tmp_path / "two")
    populate(tmp_path / "more", count=4)
    one, more = (tree_bytes(tmp_path / name) for name in ("one", "more"))
    assert one.pop("distorters.json") != more.pop("distorters.json")
    assert one.items() < more.items()
    with safe_open(tmp_path / "one/001.safetensors", "pt") as file:
        assert json.loads(file.metadata()["recipe"])["corruption"] == draw_recipe(4, 1, 2).corruption
    assert len(load_population(tmp_path / "one").networks) == 3


@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")
def test_killed_in_the_middle_it_goes_on(tmp_path, monkeypatch):
    populate(tmp_path / "whole")
    partial = tmp_path / "killed.partial"
    run_and_kill_when(lambda: populate(tmp_path / "killed"), (partial / "000.safetensors").exists)
    assert not (tmp_path / "killed").exists()
    kept = (partial / "000.safetensors").stat().st_mtime_ns
    time.sleep(0.01)
    populate(tmp_path / "killed")
    assert (tmp_path / "killed/000.safetensors").stat().st_mtime_ns == kept
    assert tree_bytes(tmp_path / "killed") == tree_bytes(tmp_path / "whole")
    before = tree_bytes(tmp_path / "killed")
    populate(tmp_path / "killed")  # complete: nothing is done
    assert tree_bytes(tmp_path / "killed") == before
    with pytest.raises(ValueError, match="is another population of distorters"):
        populate(tmp_path / "killed", count=2)


def change_info(folder, **changes):
    path = folder / "distorters.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def not_finite(folder):
    state = load_file(folder / "000.safetensors")
    with safe_open(folder / "000.safetensors", "pt") as file:
        metadata = file.metadata()
    state["last.weight"][0] = float("nan")
    save_file(state, folder / "000.safetensors", metadata)


def with_recipe(folder, recipe):
    """Another recipe in the file of the first network, recorded as if it had always been there."""
    path = folder / "000.safetensors"
    save_file(load_file(path), path, {"recipe": recipe if isinstance(recipe, str) else json.dumps(recipe)})
    networks = json.loads((folder / "distorters.json").read_text())["networks"]
    change_info(folder, networks=networks | {"000": sha256(path.read_bytes()).hexdigest()})


ODD_RECIPES = {
    "depth": (-1, 0, 10**7, 10**30, 1.5, None),
    "width": (0, -8, 10**9),
    "convolutions": (0, 10**7),
    "stride": (0, 3, -2, 10**30),
    "dropout": (-0.1, 1.5, float("nan"), "0.1"),
    "upsampling": ("none", None, []),
    "norm": ("layer", 1),
    "corruption": ("blur", {}),
    "skips": (1, "yes"),
    "steps": (-1,),
}


@pytest.mark.parametrize("field", ODD_RECIPES)
def test_a_recipe_out_of_range_is_refused_by_its_field(field, distorters, tmp_path):
    folder = tmp_path / "theirs"
    shutil.copytree(distorters, folder)
    for odd in ODD_RECIPES[field]:
        with_recipe(folder, asdict(draw_recipe(0, 0, 0)) | {field: odd})
        with pytest.raises(ValueError, match=rf"000\.safetensors: {field}: .*train the distorters again"):
            load_population(folder)
    for odd in ("[" * 10**5, "[]", "{}", "text"):
        with_recipe(folder, odd)
        with pytest.raises(ValueError, match=r"000\.safetensors: .*train the distorters again"):
            load_population(folder)


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (
            lambda folder: change_info(folder, version=0),
            r"is of version 0, this is for 1: train the distorters again",
        ),
        *(
            (
                lambda folder, odd=odd: change_info(folder, networks=odd),
                r"distorters\.json: networks: .*again$",
            )
            for odd in ({}, ["000", "001"], "000", None, {"000": "0" * 64})
        ),
        (
            lambda folder: change_info(folder, networks={"../000": "0" * 64, "001": "0" * 64}),
            r"distorters\.json: networks\.\.\./000",
        ),
        (
            lambda folder: change_info(folder, networks={"000": 1, "001": 2}),
            r"distorters\.json: networks\.000",
        ),
        (lambda folder: change_info(folder, version="1"), r"distorters\.json: version: "),
        (
            lambda folder: (folder / "distorters.json").write_text("an essay"),
            r"distorters\.json: Invalid JSON",
        ),
        (
            lambda folder: (folder / "distorters.json").write_text("[" * 10**5),
            r"distorters\.json: Invalid JSON",
        ),
        (lambda folder: (folder / "distorters.json").unlink(), "is no folder of distorters"),
        (lambda folder: (folder / "001.safetensors").unlink(), r"001.safetensors is missing"),
        (lambda folder: (folder / "001.safetensors").write_bytes(b"x" * 99), "holds no distorter of this"),
        (
            lambda folder: shutil.copy(folder / "001.safetensors", folder / "000.safetensors"),
            "is not the file",
        ),
        (not_finite, r"000.safetensors has weights that are not finite"),
    ],
)
def test_folders_that_cannot_be_used(distorters, tmp_path, damage, message):
    folder = tmp_path / "damaged"
    shutil.copytree(distorters, folder)
    damage(folder)
    with pytest.raises(ValueError, match=message):
        load_population(folder)


def test_a_cache_that_cannot_be_written_is_one_line_that_says_what_to_do(tmp_path, monkeypatch):
    monkeypatch.setenv("PERCEPTUAL_CACHE", "/proc/x")
    with pytest.raises(OSError, match=r"^cannot keep .* cache folder '/proc/x': .*PERCEPTUAL_CACHE=… names"):
        small_population()
    monkeypatch.delenv("PERCEPTUAL_CACHE")
    monkeypatch.setattr("os.path.expanduser", lambda path: path)  # without HOME, as a user who is not listed
    with pytest.raises(OSError, match=r"^there is no home folder for the cache: PERCEPTUAL_CACHE=… names"):
        small_population()


def test_the_small_population_is_trained_once(tmp_path, monkeypatch):
    monkeypatch.setenv("PERCEPTUAL_CACHE", str(tmp_path))
    monkeypatch.setattr(population, "SMALL_COUNT", 2)
    monkeypatch.setattr(population, "SMALL_STEPS", 1)
    folder = small_population()
    before = {path: path.stat().st_mtime_ns for path in folder.iterdir()}
    assert small_population() == folder
    assert {path: path.stat().st_mtime_ns for path in folder.iterdir()} == before


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_a_population_gives_distortions_that_differ(assets, monkeypatch):
    """What the acceptance of a population of 24 asks of sizes and differences."""
    monkeypatch.setenv("PERCEPTUAL_WEIGHTS", str(assets / "weights"))
    from perceptual import LPIPS

    seen, held_out = patches(packaged(TRAIN_PHOTOS), 256, 0), patches(packaged(VAL_PHOTOS), 12, 1)
    lpips, generator = LPIPS("alexnet"), torch.Generator()
    outputs = [
        train(draw_recipe(0, number, population.SMALL_STEPS), seen)(held_out, generator.manual_seed(0))
        for number in range(24)
    ]
    difference = np.array([(output - held_out).abs().mean().item() for output in outputs])
    assert ((difference > 3 / 255) & (difference < 0.25)).mean() >= 0.9
    with torch.no_grad():
        between = [lpips(a, b).mean().item() for i, a in enumerate(outputs) for b in outputs[:i]]
    assert np.mean(between) > 0.05
