"""Many methods on the same items: scores, what is kept, what is skipped, what fails; and the command."""

import json
import os
import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import reference
import torch
from app import ROOT, run, write_manifest
from networks import write_weights
from PIL import Image
from safetensors.torch import load_file, save_file
from scipy.stats import kendalltau, spearmanr
from typer.testing import CliRunner

from perceptual.cli import app
from perceptual.cli.results import leaderboard as command
from perceptual.data import JNDDataModule, ManifestDataModule, OpinionDataModule, PhotosDataModule
from perceptual.distance import tiles
from perceptual.distance.baselines import BASELINES
from perceptual.distance.lpips import LPIPS
from perceptual.evaluation import evaluate as evaluation
from perceptual.evaluation import suite_tables, suites
from perceptual.evaluation.board import make
from perceptual.evaluation.leaderboard import leaderboard, protocol_rows
from perceptual.evaluation.results import FAILED, find
from perceptual.evaluation.scoring import score
from perceptual.evaluation.tables import markdown
from perceptual.features.backbone import Backbone
from perceptual.names import Method

METHODS = ["l2", "gmsd", "squeezenet1_1-uncalibrated", "squeezenet1_1"]


@pytest.fixture(autouse=True)
def _weights(tmp_path, monkeypatch):
    (tmp_path / "weights").mkdir()
    write_weights(tmp_path / "weights", "squeezenet1_1")
    monkeypatch.setenv("PERCEPTUAL_WEIGHTS", str(tmp_path / "weights"))
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def manifest(tmp_path):
    """Triplets of few images, so that pairs recur; all of them are scored."""
    path = write_manifest(tmp_path / "grain", rows=300, images=7)
    lines = [line.rpartition(",")[0] for line in path.read_text().splitlines()]
    path.write_text("\n".join(lines) + "\n")
    data = ManifestDataModule(str(path), val_fraction=1, size=32)
    data.setup("validate")
    return data


@pytest.fixture
def photos():
    data = PhotosDataModule(count_val=60, size=32)
    data.setup("validate")
    return data


def scored(place):
    return {result.method: result for result in place.all()}


@pytest.mark.parametrize("name", ["manifest", "photos"])
def test_scores_are_those_of_one_triplet_at_a_time(name, request):
    data = request.getfixturevalue(name)
    place, *_ = evaluation.evaluate(METHODS, data, "results")
    assert (len(data.val_set.pairs()) * 2 <= 2 * len(data.val_set)) == (name == "manifest")
    results, items = scored(place), place.items()
    distances = {
        "l2": BASELINES["l2"](),
        "gmsd": BASELINES["gmsd"](),
        "squeezenet1_1-uncalibrated": LPIPS("squeezenet1_1", None),
        "squeezenet1_1-v0.1": LPIPS("squeezenet1_1"),
    }
    for method, distance in distances.items():
        kept = results[method]
        for row in range(0, 60, 7):
            item = data.val_set[row]
            for part, column in ((item.role("p0"), "d0"), (item.role("p1"), "d1")):
                expected = distance(item.role("ref"), part).item()
                assert kept.arrays[column][row] == pytest.approx(expected, rel=1e-4, abs=1e-6)
        judgment = items.arrays["judgment"].astype(float)
        whole = reference.two_afc_score(kept.arrays["d0"], kept.arrays["d1"], judgment)
        assert kept.scores["micro"] == pytest.approx(whole, abs=1e-9)
        assert score({"it": distance}, data.val_dataloader())["it"]["mean"] == pytest.approx(
            kept.scores["mean"], abs=0.01
        )


@pytest.mark.parametrize("kind", ["2afc", "opinion"])
def test_where_images_recur_each_goes_through_the_backbone_once(manifest, tmp_path, monkeypatch, kind):
    data = manifest
    if kind == "opinion":
        # each pair one way round: d(a, b) = d(b, a) are ties, which rounding may break and so move a rank
        rows = [f"grain/{a}.png,grain/{b}.png,{a * b % 5}" for b in range(7) for a in range(b)]
        (tmp_path / "dmos.csv").write_text("\n".join(["ref,dist,dmos", *rows]) + "\n")
        data = OpinionDataModule(str(tmp_path / "dmos.csv"), size=32)
        data.setup("validate")
    lpips, passes = LPIPS("squeezenet1_1", None), []
    lpips.backbone.register_forward_pre_hook(lambda _, inputs: passes.append(len(inputs[0])))
    evaluation._measure({"it": lpips}, data.val_set, None)
    assert sum(passes) == 7

    methods = ["squeezenet1_1-uncalibrated", "squeezenet1_1-v0.1", "l2"]
    once = scored(evaluation.evaluate(methods, data, "once")[0])
    monkeypatch.setattr(evaluation, "RECURRING", 1000)
    again = scored(evaluation.evaluate(methods, data, "again")[0])
    for method, result in once.items():
        for name, column in result.arrays.items():
            np.testing.assert_allclose(column, again[method].arrays[name], rtol=1e-5, atol=1e-6)
        assert result.scores == pytest.approx(again[method].scores, abs=1e-6)
        assert result.images_per_second > 0


def test_images_that_would_not_fit_are_compared_in_tiles_by_itself(tmp_path, monkeypatch):
    rng = np.random.default_rng(0)
    for name in "abc":
        Image.fromarray(rng.integers(0, 256, (801, 70, 3), dtype=np.uint8)).save(tmp_path / f"{name}.png")
    (tmp_path / "native.csv").write_text("ref,p0,p1,judge\na.png,b.png,c.png,0\n")
    data = ManifestDataModule(str(tmp_path / "native.csv"), val_fraction=1, size=None)
    data.setup("validate")
    heights, forward = [], Backbone.forward

    def noted(self, images):
        heights.append(images.shape[2])
        return forward(self, images)

    monkeypatch.setattr(Backbone, "forward", noted)

    def distances(results):
        place, *_ = evaluation.evaluate(["squeezenet1_1-uncalibrated"], data, results)
        (kept,) = place.all()
        return np.stack([kept.arrays["d0"], kept.arrays["d1"]])

    whole = distances("whole")
    assert 801 in heights
    heights.clear()
    monkeypatch.setattr(tiles, "_free", lambda _: 4 * 2e7)
    np.testing.assert_allclose(distances("tiles"), whole, rtol=1e-5)
    assert heights
    assert max(heights) < 801


def test_a_row_says_what_made_it(photos):
    place, *_ = evaluation.evaluate(["squeezenet1_1-v0.1", "l2"], photos, "results")
    result = scored(place)["squeezenet1_1-v0.1"]
    assert result.weights.startswith("file:")
    assert len(result.weights_sha256) == 64
    assert (result.levels, result.size, result.value_range) == (list(range(7)), 32, [0, 1])
    assert result.family == "squeezenet"
    assert result.parameters == 722_496 + 2_240
    assert result.flops > 1e6
    assert sum(result.level_shares) == pytest.approx(1)
    assert torch.__version__.startswith(result.versions["torch"])
    assert result.images_per_second > 0
    assert scored(place)["l2"].family == "classic"
    assert place.items().fingerprint == photos.fingerprint()


def test_what_is_scored_is_skipped_and_failures_are_tried_again(photos, tmp_path, monkeypatch):
    place, *_ = evaluation.evaluate(["l2", "vgg16", "ms_ssim", "nonsense"], photos, "results")
    assert set(scored(place)) == {"l2"}
    reasons = {row.method: row.error for row in place.all(FAILED)}
    assert set(reasons) == {"vgg16-v0.1", "ms_ssim", "nonsense"}
    assert "no weights for vgg16" in reasons["vgg16-v0.1"]
    assert "at least 161×161" in reasons["ms_ssim"]
    assert "unknown method 'nonsense'" in reasons["nonsense"]
    row = place.folder / "scored/l2/row.json"
    before = row.stat().st_mtime_ns
    write_weights(tmp_path / "weights", "vgg16")
    again, names, *_ = evaluation.evaluate(["l2", "vgg16"], photos, "results")
    assert row.stat().st_mtime_ns == before
    assert names == ["l2", "vgg16-v0.1"]
    assert set(scored(again)) == {"l2", "vgg16-v0.1"}
    assert {row.method for row in again.all(FAILED)} == {"ms_ssim", "nonsense"}
    monkeypatch.setattr(photos, "fingerprint", lambda: "f" * 64)  # other items
    place.folder.rename(place.folder.with_name("f" * 12))
    with pytest.raises(ValueError, match=r"f{12} holds results on other items; remove it"):
        evaluation.evaluate(["l2"], photos, "results")


def test_a_method_that_gives_no_number_is_a_failure(photos, monkeypatch):
    monkeypatch.setitem(BASELINES, "nan", lambda: torch.nn.Module())
    monkeypatch.setattr(torch.nn.Module, "forward", lambda self, x, y: x.mean((1, 2, 3)) / 0 * 0)
    place, *_ = evaluation.evaluate(["nan", "l2"], photos, "results")
    assert set(scored(place)) == {"l2"}
    assert "must not be NaN" in place.all(FAILED)[0].error


def test_another_checkpoint_of_one_path_is_another_method(photos, tmp_path):
    for text in ("first", "second"):
        (tmp_path / "last.ckpt").write_text(text)
        place, names, *_ = evaluation.evaluate(["last.ckpt"], photos, "results")
        assert names[0].startswith("last.ckpt@")
    assert len(place.all(FAILED)) == 2


def test_deep_features_of_another_precision_are_another_method(photos):
    place, *_ = evaluation.evaluate(["squeezenet1_1", "l2"], photos, "results")
    place, names, *_ = evaluation.evaluate(["squeezenet1_1", "l2"], photos, "results", precision="bf16-mixed")
    assert names == ["squeezenet1_1-v0.1+bf16-mixed", "l2"]
    kept = scored(place)
    full, half = (kept[f"squeezenet1_1-v0.1{precision}"] for precision in ("", "+bf16-mixed"))
    assert len(kept) == 3
    assert (full.precision, half.precision) == ("32-true", "bf16-mixed")
    assert full.family == half.family == "squeezenet"
    expected = LPIPS(Backbone("squeezenet1_1", precision="bf16-mixed"), "v0.1")
    d0, _ = photos.val_set[3].distances(expected)
    assert half.arrays["d0"][3] == pytest.approx(d0.item(), rel=0.02)
    assert (full.arrays["d0"] != half.arrays["d0"]).any()
    with pytest.raises(ValueError, match="precision must be one of 32-true, bf16-mixed, got 'half'"):
        evaluation.evaluate(["l2"], photos, "results", precision="half")


@pytest.fixture
def pairs(tmp_path):
    rng = np.random.default_rng(0)
    lines = ["p0,p1,same,subset"]
    for number in range(80):
        image = rng.integers(0, 256, (24, 24, 3), dtype=np.uint8)
        Image.fromarray(image).save(tmp_path / f"{number}-0.png")
        Image.fromarray(image // 2 + rng.integers(0, 99, image.shape, np.uint8)).save(
            tmp_path / f"{number}-1.png"
        )
        lines.append(
            f"{number}-0.png,{number}-1.png,{number % 4 / 3},{'cnn' if number < 30 else 'traditional'}"
        )
    (tmp_path / "pairs.csv").write_text("\n".join(lines) + "\n")
    data = JNDDataModule(str(tmp_path / "pairs.csv"), size=24)
    data.setup("validate")
    return data


def test_jnd_pairs_are_scored_alike(pairs):
    place, *_ = evaluation.evaluate(["l2", "squeezenet1_1"], pairs, "results")
    same, subset = (place.items().arrays[name] for name in ("same", "subset"))
    for result in place.all():
        distance = result.arrays["distance"]
        for number, name in enumerate(place.items().subsets):
            expected = reference.jnd_average_precision(distance[subset == number], same[subset == number])
            assert result.scores[name] == pytest.approx(expected, abs=1e-9)
    board = make(place)
    assert board.entries[0].score[-1] == pytest.approx(board.entries[0].result.scores["micro"], abs=1e-9)


def test_the_command_writes_tables_and_pictures(photos, pairs, tmp_path):
    for data in (photos, pairs):
        evaluation.evaluate(["l2", "gmsd", "squeezenet1_1", "nonsense"], data, "results")
    for suffix in ("md", "html"):
        outcome = CliRunner().invoke(
            app, ["leaderboard", "results", "-o", f"out/board.{suffix}", "--plots", "pictures"]
        )
        assert outcome.exit_code == 0, outcome.output
        text = (tmp_path / f"out/board.{suffix}").read_text()
        assert all(method in text for method in ("l2", "gmsd", "squeezenet1_1", "JND mAP", "nonsense"))
        assert "simulated observer" in text
    pictures = sorted(
        path.name.partition("-2afc")[0].partition("-jnd-")[0] for path in tmp_path.glob("pictures/*")
    )
    assert pictures == ["2afc-jnd.png", "cost", "cost", "levels", "levels", "scores", "scores"]
    with pytest.raises(ValueError, match="output must end in"):
        command(tmp_path / "results", tmp_path / "x.txt")


def test_published_rows_are_shown_for_bapps_only(photos):
    place, *_ = evaluation.evaluate(["l2"], photos, "results")
    board = make(place)
    assert "published" not in markdown(*leaderboard(board))
    from perceptual.evaluation.published import BAPPS_VAL

    bapps = replace(board.data, subsets=list(BAPPS_VAL), counts=list(BAPPS_VAL.values()))
    values = [0.5] * 8
    entries = [entry._replace(score=values, low=values, high=values) for entry in board.entries]
    columns = [*BAPPS_VAL, "mean", "micro"]
    shown = leaderboard(board._replace(data=bapps, columns=columns, entries=entries, references={}))
    text = markdown(*shown)
    row = "| published | AlexNet, lin | 73.9 | 83.4 | 71.5 | 61.2 | 65.3 | 63.2 | 69.8 |"
    assert row in text


def test_evaluate_py_scores_methods_and_refuses_when_none_can_be(capsys, monkeypatch, tmp_path):
    arguments = ["data=photos", "data.count_val=40", "data.size=32"]
    run("evaluate.py", *arguments, "methods=[l2,nonsense]", monkeypatch=monkeypatch)
    output = capsys.readouterr().out
    assert "l2" in output
    assert "Failed    nonsense: unknown method" in output
    (results,) = find("results")
    assert json.loads((results.folder / "scored/l2/row.json").read_text())["method"] == "l2"
    with pytest.raises(SystemExit, match="nonsense"):
        run("evaluate.py", *arguments, "methods=[nonsense]", monkeypatch=monkeypatch)


def test_ctrl_c_says_that_what_was_scored_is_kept(manifest, monkeypatch, capsys):
    def stop():
        raise KeyboardInterrupt

    monkeypatch.setitem(BASELINES, "ssim", stop)
    words = ["data=manifest", f"data.path={manifest.path}", "data.val_fraction=1", "data.size=32"]
    with pytest.raises(SystemExit) as stopped:
        run("evaluate.py", *words, "methods=[l2,ssim,gmsd]", monkeypatch=monkeypatch)
    assert stopped.value.code == 130
    said = capsys.readouterr().err
    assert (
        said == "Interrupted: what was scored is kept in results, and the same command goes on from there\n"
    )
    (place,) = find("results")
    assert set(scored(place)) == {"l2"}


@pytest.mark.slow
@pytest.mark.parametrize("launcher", ["basic", "parallel"])
def test_a_multirun_fills_one_folder_of_results_and_goes_on_after_a_failure(manifest, tmp_path, launcher):
    words = ["-m", "data=manifest", f"data.path={manifest.path}", "data.val_fraction=1", "data.size=32"]
    words += [f"hydra/launcher={launcher}", "methods=[nonsense],[squeezenet1_1-random],[l2,squeezenet1_1]"]
    done = subprocess.run(
        [sys.executable, str(ROOT / "evaluate.py"), *words],
        env=os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=280,
    )
    assert done.returncode == 1
    assert "unknown method 'nonsense'" in done.stderr
    assert "Traceback" not in done.stderr
    (place,) = find(tmp_path / "results")
    assert set(scored(place)) == {"l2", "squeezenet1_1-v0.1", "squeezenet1_1-random"}
    assert place.all(FAILED) == []  # that run was refused before it read the data
    assert all(len(result.arrays["d0"]) == 300 for result in place.all())
    assert {path.name for path in tmp_path.iterdir()} <= {"grain", "results", "weights", "evaluate.log"}


def test_all_of_a_manifest_can_be_scored_but_not_trained_on(manifest):
    assert len(manifest.val_set) == 300
    assert "all of it" in manifest.describe()
    with pytest.raises(ValueError, match="nothing to train on"):
        manifest.setup("fit")


def test_people_are_shown_beside_methods(manifest):
    place, *_ = evaluation.evaluate(["l2"], manifest, "results")
    board = make(place)
    assert board.recurring
    judgment = place.items().arrays["judgment"]
    assert board.references["ceiling, raw"][-1] == pytest.approx(np.maximum(judgment, 1 - judgment).mean())
    assert "references recur" in markdown(*leaderboard(board))


@pytest.mark.parametrize("subsets", [1, 2])
def test_a_statistic_is_the_same_in_both_tables_of_opinions(tmp_path, monkeypatch, subsets):
    """Of a constant distance it is a dash in both."""
    rng, lines = np.random.default_rng(0), ["ref,dist,mos,subset"]
    for i in range(24):
        Image.fromarray(rng.integers(0, 256, (8, 8, 3), dtype=np.uint8)).save(tmp_path / f"{i}.png")
    lines += [f"{i // 3}.png,{i}.png,{i * i % 23},{'ab'[i % subsets]}" for i in range(24)]
    (tmp_path / "mos.csv").write_text("\n".join(lines))
    data = OpinionDataModule(str(tmp_path / "mos.csv"), size=None)
    data.setup("validate")
    monkeypatch.setitem(BASELINES, "constant", lambda: torch.nn.Module())
    monkeypatch.setattr(torch.nn.Module, "forward", lambda self, x, y: torch.ones(len(x)), raising=False)
    place, *_ = evaluation.evaluate(["l2", "constant"], data, "results")
    board = make(place)
    assert [entry.result.method for entry in board.entries] == ["l2", "constant"]
    assert [entry.group for entry in board.entries] == [1, 0]
    l2 = board.entries[0]
    below = {row[0]: row[1:] for row in protocol_rows(board)}
    assert below["method"][0] == "srcc, all"
    assert below["l2"][0] == f"{l2.score[-1]:.3f} ({l2.low[-1]:.3f} – {l2.high[-1]:.3f})"
    assert set(below["constant"]) == {"–"}
    (row,) = [
        line for line in markdown(*leaderboard(board)).splitlines() if line.startswith("| – | constant |")
    ]
    cells = [cell.strip() for cell in row.split("|")[3:-3]]
    assert set(cells) == {"–"}


@pytest.fixture
def opinions(tmp_path):
    """Three references, each blurred ever more; the score is how much, on another scale."""
    rng = np.random.default_rng(0)
    lines = ["ref,dist,dmos,subset"]
    for number in range(3):
        noise = rng.integers(0, 256, (64, 64, 3), dtype=np.uint8)
        for strength in range(8):
            image = Image.fromarray(noise).resize((64 - 4 * strength,) * 2).resize((64, 64))
            image.save(tmp_path / f"{number}-{strength}.png")
            lines.append(f"{number}-0.png,{number}-{strength}.png,{40 * strength - 70},{'ab'[strength % 2]}")
    (tmp_path / "dmos.csv").write_text("\n".join(lines) + "\n")
    return tmp_path / "dmos.csv"


def test_opinion_scores_are_correlated_by_the_same_command(opinions, monkeypatch, capsys):
    methods = "methods=[l2,ssim,squeezenet1_1]"
    run(
        "evaluate.py",
        "data=opinions",
        f"data.path={opinions}",
        "data.size=64",
        methods,
        monkeypatch=monkeypatch,
    )
    assert "SRCC × 100" in capsys.readouterr().out
    (place,) = find("results")
    items = place.items()
    assert items.kind == "opinion"
    for result in place.all():
        distance, score = result.arrays["distance"], items.arrays["score"]
        assert result.scores["micro"] == pytest.approx(spearmanr(distance, score).statistic, abs=1e-9)
        assert result.krcc["micro"] == pytest.approx(kendalltau(distance, score).statistic, abs=1e-9)
        assert 0 < result.plcc["mean"] <= 1
        assert set(result.scores) == {"a", "b", "mean", "micro"}
    board = make(place)
    assert board.recurring
    assert board.entries[0].score[2] == pytest.approx(board.entries[0].result.scores["mean"], abs=1e-9)
    assert "SRCC" in markdown(*leaderboard(board))


def test_a_manifest_of_opinions_needs_finite_scores(opinions):
    opinions.write_text(opinions.read_text().replace(",210,", ",inf,"))
    data = OpinionDataModule(str(opinions))
    with pytest.raises(ValueError, match=r"dmos must be a number that is finite; 3 of 24 are not"):
        data.setup()


def test_results_of_other_weights_of_the_same_name_are_apart(manifest, tmp_path, monkeypatch):
    method = ["squeezenet1_1-uncalibrated"]
    place, (name,), *_ = evaluation.evaluate(method, manifest, "results")
    first = scored(place)[name]
    assert len(first.weights_file) == 64
    # the same weights in another place and file
    (tmp_path / "more").mkdir()
    state = load_file(tmp_path / "weights/squeezenet1_1.safetensors")
    save_file(state, tmp_path / "more/squeezenet1_1.safetensors", {"from": "elsewhere"})
    monkeypatch.setenv("PERCEPTUAL_WEIGHTS", str(tmp_path / "more"))
    assert evaluation.evaluate(method, manifest, "results")[1] == [name]
    # others of that name
    state["features.0.weight"] += 0.1
    save_file(state, tmp_path / "more/squeezenet1_1.safetensors")
    place, (other,), *_ = evaluation.evaluate(method, manifest, "results")
    assert re.fullmatch(rf"{name}@[0-9a-f]{{8}}", other)
    second = scored(place)[other]
    assert second.weights_sha256 != first.weights_sha256
    assert not np.array_equal(second.arrays["d0"], first.arrays["d0"])
    # each again, without computing it
    for folder, expected in (("weights", name), ("more", other)):
        monkeypatch.setenv("PERCEPTUAL_WEIGHTS", str(tmp_path / folder))
        place, names, *_ = evaluation.evaluate(method, manifest, "results", build=None)
        assert names == [expected]
    assert len(scored(place)) == 2
    board = markdown(*leaderboard(make(place)))
    assert f"| {other} |" in board
    assert f"| {name} |" in board


def test_a_method_without_an_identity_does_not_stop_the_others(manifest, monkeypatch):
    def failing(method, precision="32-true"):
        if method.text == "gmsd":
            raise RuntimeError("no identity")
        return str(method)

    monkeypatch.setattr("perceptual.evaluation.methods.identity", failing)
    place, names, *_ = evaluation.evaluate(["gmsd", "l2"], manifest, "results")
    assert names == ["gmsd", "l2"]
    assert "l2" in scored(place)


def test_a_name_is_read_once_and_no_network_is_built_to_name_a_result(manifest, tmp_path, monkeypatch):
    said = ["l2", "squeezenet1_1[]", "squeeze", "squeezenet1_1-uncalibrated", "test_resnet-random", "no.ckpt"]
    read, built = [], []
    parse, build = Method.parse.__func__, Backbone.__init__

    def parsing(cls, name):
        read.extend([name] if isinstance(name, str) else [])
        return parse(cls, name)

    def building(self, *arguments, **options):
        built.append(arguments)
        build(self, *arguments, **options)

    monkeypatch.setattr(Method, "parse", classmethod(parsing))
    monkeypatch.setattr(Backbone, "__init__", building)
    words = [
        "data=manifest",
        f"data.path={tmp_path}/grain/triplets.csv",
        "data.val_fraction=1",
        "data.size=32",
    ]
    words.append(f"methods={json.dumps(said)}")
    run("evaluate.py", *words, monkeypatch=monkeypatch)
    assert sorted(read) == sorted(said)
    assert len(built) == 3
    (place,) = find("results")
    names = ["l2", "squeezenet1_1-uncalibrated", "squeezenet1_1-v0.1", "test_resnet-random"]
    assert sorted(scored(place)) == names
    assert sorted(row.method for row in place.all(FAILED)) == ["no.ckpt", "squeezenet1_1[]"]
    read.clear(), built.clear()
    run("evaluate.py", *words, monkeypatch=monkeypatch)  # what the results have is found by its name
    assert sorted(read) == sorted(said)
    assert built == []


def written(folder, header, rows):
    rng = np.random.default_rng(0)
    folder.mkdir()
    for i in range(24):
        Image.fromarray(rng.integers(0, 256, (32, 32, 3), dtype=np.uint8)).save(folder / f"{i}.png")
    lines = [",".join(map(str, row)) for row in rows]
    (folder / "t.csv").write_text("\n".join([header, *lines]))
    return str(folder / "t.csv")


def large(kind, answers):
    """Twenty items of subset a."""
    return [
        (*(f"{(i + j) % 24}.png" for j in range(kind)), answers[i % len(answers)], "a") for i in range(20)
    ]


ODD = {
    "2afc, a subset of one": (
        lambda folder: ManifestDataModule(
            written(
                folder, "ref,p0,p1,judge,subset", [*large(3, [0, 1, 1]), ("0.png", "1.png", "2.png", 1, "b")]
            ),
            val_fraction=1,
            size=32,
        ),
        ("b", "mean"),
    ),
    "2afc, one reference": (
        lambda folder: ManifestDataModule(
            written(
                folder, "ref,p0,p1,judge", [("0.png", f"{i}.png", f"{i + 1}.png", i % 2) for i in range(9)]
            ),
            val_fraction=1,
            size=32,
        ),
        ("t", "mean", "micro"),
    ),
    "jnd, nobody said same": (
        lambda folder: JNDDataModule(
            written(
                folder, "p0,p1,same,subset", [*large(2, [0, 1]), *[(*r[:2], 0, "b") for r in large(2, [0])]]
            ),
            size=32,
        ),
        ("b", "mean"),
    ),
    "opinions, four": (
        lambda folder: OpinionDataModule(
            written(
                folder,
                "ref,dist,mos,subset",
                [*large(2, [1, 5, 2]), *[(*r[:3], "b") for r in large(2, [3, 1])[:4]]],
            )
        ),
        ("b", "mean"),
    ),
    "opinions, constant": (
        lambda folder: OpinionDataModule(
            written(
                folder, "ref,dist,mos,subset", [*large(2, [1, 5, 2]), *[(*r[:3], "b") for r in large(2, [3])]]
            )
        ),
        ("b", "mean"),
    ),
}


@pytest.mark.parametrize(
    "odd", [pytest.param(odd, marks=[pytest.mark.slow] if "constant" in odd else []) for odd in ODD]
)
def test_of_odd_judgments_what_can_be_said_is_said(odd, tmp_path, capsys):
    data, silent = ODD[odd]
    data = data(tmp_path / "set")
    data.setup("validate")
    place, names, *_ = evaluation.evaluate(["l2", "ssim"], data, "results")
    assert place.all(FAILED) == []
    for path in place.folder.rglob("row.json"):
        json.loads(path.read_text(), parse_constant=pytest.fail)
    board = make(place)
    unsaid = {name for name, low in zip(board.columns, board.entries[0].low, strict=True) if np.isnan(low)}
    assert unsaid == set(silent)
    assert {entry.group for entry in board.entries} == {0}
    page = markdown(*leaderboard(board))
    assert "too few" in page
    assert "Too few references to say" in page
    assert "nan" not in page
    (Path("pictures")).mkdir()
    assert (
        CliRunner().invoke(app, ["leaderboard", "results", "-o", "b.html", "--plots", "pictures"]).exit_code
        == 0
    )
    assert "nan" not in Path("b.html").read_text()
    result = CliRunner().invoke(app, ["compare", names[0], names[1], "results"])
    assert "Nothing can be said" in result.output
    suite = suites.tabulate({"x": place}, {}, names)
    assert "nan" not in markdown(suite_tables.table(suite))
