"""Sweeps: many settings by one command, compared; a run that fails ends no other."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import app
import numpy as np
import pytest
from hydra import compose, initialize_config_dir
from typer.testing import CliRunner

from perceptual.cli import app as cli
from perceptual.config import register
from perceptual.evaluation.board import make
from perceptual.evaluation.leaderboard import best_setting
from perceptual.evaluation.results import find
from perceptual.evaluation.runs import UNFINISHED, without_score

CONF = app.ROOT / "conf"
SMALL = (
    "data=manifest",
    "data.size=32",
    "data.batch_size=20",
    "data.views=0",
    "backbone.name=test_resnet",
    "backbone.weights=null",
    "trainer.max_epochs=1",
    "trainer.accelerator=cpu",
    "trainer.log_every_n_steps=1",
    *app.NO_PICTURES,
)


@pytest.fixture
def manifest(tmp_path, monkeypatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return app.write_manifest(tmp_path / "set", rows=120)


@pytest.fixture
def sweep(manifest, monkeypatch, capsys):
    """Runs a sweep; returns its folder, its exit status and what it printed."""

    def run(*words: str) -> tuple[Path, object, str]:
        code = 0
        try:
            app.run(
                "train.py", "--multirun", *SMALL, f"data.path={manifest}", *words, monkeypatch=monkeypatch
            )
        except SystemExit as stopped:
            code = stopped.code
        captured = capsys.readouterr()
        return max(Path("runs").glob("*/*")), code, captured.out + captured.err

    return run


def test_the_best_is_scored_on_rows_that_chose_no_run(sweep, manifest, capsys, monkeypatch):
    """As evaluate.py scores its checkpoint on the rows of the split "test"."""
    lines = manifest.read_text().splitlines()
    rows = [line.replace(",val", ",test") if row % 8 == 0 else line for row, line in enumerate(lines[1:])]
    manifest.write_text("\n".join([lines[0], *rows]) + "\n")
    folder, code, said = sweep("model.lr=0.001,0.3")
    assert code == 0
    assert re.search(r"validation.*\(15 test rows left out\)", " ".join(said.split()))
    (held_out,) = re.findall(r"Held out  ([\d.]+) % on 15 test triplets", said)
    (board,) = [make(found) for found in find(folder)]
    checkpoint = Path(board.entries[0].result.method, "checkpoints/last.ckpt")
    app.run(
        "evaluate.py",
        f"methods=[{checkpoint}]",
        "data=manifest",
        "data.size=32",
        f"data.path={manifest}",
        "data.val_split=test",
        monkeypatch=monkeypatch,
    )
    assert "test rows judge, 15 val rows left out" in " ".join(capsys.readouterr().out.split())
    rows = [json.loads(path.read_text()) for path in Path("results").glob("*/scored/*/row.json")]
    assert f"{100 * rows[0]['scores']['mean']:.1f}" == held_out


def test_a_sweep_says_which_setting_was_best_and_goes_on_after_a_failure(sweep, manifest):
    folder, code, said = sweep("model.lr=0.001,0.3", "model.dropout=0.5,2")
    assert "Traceback" not in said
    assert code == "error: 2 of the runs gave no score"
    assert said.count("dropout must be at least 0") == 4  # as it happens, and at the end
    (board,) = [make(found, without_score(folder)) for found in find(folder)]
    assert board.settings == ["model.lr"]
    assert {entry.result.settings["model.lr"] for entry in board.entries} == {0.001, 0.3}
    assert [Path(row.method).name for row in board.failed] == ["1", "3"]
    for entry in board.entries:
        kept = json.loads(Path(entry.result.method, "scores.json").read_text())
        assert entry.score[-2] == pytest.approx(kept["trained"]["mean"], abs=1e-12)
    best = best_setting(board)
    assert best in said
    # output of runs may be interleaved: every line says which run it is of
    for run, scored in enumerate((True, False, True, False)):
        lines = [line for line in said.splitlines() if line.startswith(f"#{run}  ")]
        kinds = ["Data", "Backbone", "Recipe", "epoch", "Score"] if scored else []
        assert [line.split()[1] for line in lines if "Report" not in line] == kinds
    assert not any(re.match(r"Data|Backbone|epoch|Score|Run ", line) for line in said.splitlines())
    assert said.count("2AFC in %") == 1  # the leaderboard
    assert f"model.lr={board.entries[0].result.settings['model.lr']:g}" in best
    assert "Traceback" in (folder / "1/failed/traceback.txt").read_text()
    assert "model.lr" in (folder / "leaderboard.md").read_text()

    result = CliRunner().invoke(cli, ["leaderboard", str(folder), "-o", "board.md", "--plots", "pictures"])
    assert result.exit_code == 0, result.output
    assert best in result.output
    assert "2 runs gave no score" in result.output
    text = Path("board.md").read_text()
    assert "| 1 | 0 | 0.001 |" in text or "| 1 | 2 | 0.3 |" in text
    assert "Not scored: 1 (dropout must be" in text
    assert list(Path("pictures").glob("scores-*.png"))


def test_the_paired_interval_is_that_of_the_items(sweep):
    folder, _, _ = sweep("model.lr=0.001,0.3")
    (board,) = [make(found) for found in find(folder)]
    agreement = []
    for entry in board.entries:
        (place,) = Path(entry.result.method).glob("results/*/scored/*")
        d0, d1 = np.load(place / "d0.npy"), np.load(place / "d1.npy")
        j = np.load(place.parents[1] / "items/judgment.npy")
        agreement.append(np.where(d0 < d1, 1 - j, np.where(d1 < d0, j, 0.5)))
    assert agreement[0].mean(dtype=float) - agreement[1].mean(dtype=float) == pytest.approx(
        board.entries[0].score[-2] - board.entries[1].score[-2]
    )
    low, high = board.entries[1].gap
    assert low <= agreement[0].mean() - agreement[1].mean() <= high


def test_conditions_left_out_of_training_are_one_table(sweep, manifest):
    """Its columns are the scores of the runs, and their mean."""
    lines = manifest.read_text().splitlines()
    rows = [
        f"{line.rpartition(',')[0]},{('day', 'dusk', 'lamp')[row % 3]}" for row, line in enumerate(lines[1:])
    ]
    manifest.write_text("\n".join([lines[0].replace("split", "condition"), *rows]) + "\n")
    left_out = ("day", "lamp")
    words = ",".join(f"[{name}]" for name in left_out)
    folder, code, said = sweep("data.split_by=condition", f"data.val_conditions={words}")
    assert code == 0
    assert "Conditions left out of training" in said
    kept = [json.loads((folder / f"{run}/scores.json").read_text())["trained"] for run in range(2)]
    scores = [row[name] for row, name in zip(kept, left_out, strict=True)]
    heading, row = re.search(
        r"\| run \|(.*)\n\|.*\n\| trained \|(.*)", (folder / "leaderboard.md").read_text()
    ).groups()
    assert [cell.strip() for cell in heading.split("|")][:3] == [*left_out, "mean 2afc"]
    found = [float(cell.split()[0]) for cell in row.split("|")[:3]]
    assert found == pytest.approx([100 * score for score in (*scores, np.mean(scores))], abs=0.06)


def test_a_killed_run_is_visible(sweep):
    folder, _, _ = sweep("model.lr=0.001,0.3")
    results = next((folder / "1/results").glob("*"))
    results.rename(folder / "elsewhere")
    (lost,) = without_score(folder)
    assert Path(lost.method).name == "1"
    assert lost.error == UNFINISHED
    assert lost.settings["model.lr"] == 0.3


def test_a_sweep_that_failed_as_a_whole_says_so(sweep):
    folder, code, _ = sweep("model.dropout=2,3")
    assert "2 of the runs" in code
    result = CliRunner().invoke(cli, ["leaderboard", str(folder)])
    assert "none of 2 runs" in str(result.exception)
    assert "dropout must be at least 0" in str(result.exception)


def test_optuna_goes_on_after_a_failure(sweep):
    search = ("hydra/sweeper=search", "hydra.sweeper.n_trials=4", "hydra.sweeper.sampler.seed=1")
    folder, code, said = sweep(*search, "model.dropout=choice(0.5,2)", "hydra.sweeper.n_jobs=1")
    assert "Traceback" not in said
    boards = [make(found) for found in find(folder)]
    lost = without_score(folder)
    assert len(boards[0].entries) + len(lost) == 4
    assert lost
    assert boards[0].entries
    assert "Best value: " in said
    value = float(said.split("Best value: ")[1].split()[0])
    assert value == pytest.approx(boards[0].entries[0].score[-2])
    assert code == f"error: {len(lost)} of the runs gave no score"


def test_a_search_in_which_all_fail_ends_as_other_sweeps(sweep):
    _, code, said = sweep("hydra/sweeper=search", "hydra.sweeper.n_trials=2", "model.dropout=2")
    assert "No trials" not in said
    assert code == "error: 2 of the runs gave no score"


@pytest.mark.slow
@pytest.mark.parametrize("launcher", ["parallel", "processes"])
def test_runs_side_by_side_give_what_one_after_the_other_gives(sweep, manifest, launcher):
    folder, _, _ = sweep("model.lr=0.001,0.3", "model.ranking=paper,antisymmetric")
    words = ["--multirun", *SMALL, f"data.path={manifest}", "model.lr=0.001,0.3", "runs=side"]
    words += ["model.ranking=paper,antisymmetric", f"hydra/launcher={launcher}"]
    done = train(words, PERCEPTUAL_CACHE=str(Path.cwd() / "cache"))
    assert done.returncode == 0, done.stderr
    side = next(Path("side").glob("*/*"))
    for number in range(4):
        alone, beside = (json.loads((f / f"{number}/scores.json").read_text()) for f in (folder, side))
        assert alone == beside
    assert (
        len(list(Path("cache").glob("*/means.npy"))) == 2
    )  # of training and validation triplets, for all four


@pytest.mark.slow
def test_two_processes_that_start_at_once_share_one_cache(manifest, monkeypatch):
    """Each says how many images its backbone saw: together no more than one alone would show it."""
    counting = Path("counting.py")
    counting.write_text(
        "import runpy, sys\n"
        "from perceptual.features.backbone import Backbone\n"
        "seen, forward = [0], Backbone.forward\n"
        "def counted(self, x):\n"
        "    seen[0] += len(x)\n"
        "    return forward(self, x)\n"
        "Backbone.forward = counted\n"
        "try:\n"
        "    runpy.run_path(sys.argv.pop(1), run_name='__main__')\n"
        "finally:\n"
        "    print('SEEN', seen[0])\n"
    )
    environment = os.environ | {"PYTHONPATH": str(app.ROOT), "OMP_NUM_THREADS": "1"}

    def start(cache: str, runs: str) -> subprocess.Popen:
        words = [*SMALL, f"data.path={manifest}", f"runs={runs}", "~callbacks.result"]
        return subprocess.Popen(
            [sys.executable, str(counting), str(app.ROOT / "train.py"), *words],
            env=environment | {"PERCEPTUAL_CACHE": str(Path.cwd() / cache)},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def seen(process: subprocess.Popen) -> int:
        out, err = process.communicate(timeout=200)
        assert process.returncode == 0, err
        return int(out.split("SEEN")[1])

    alone = seen(start("cache-alone", "alone"))
    together = [start("cache-together", name) for name in ("first", "second")]
    assert sum(map(seen, together)) == alone
    scores = [next(Path(name).glob("*/*/scores.json")).read_text() for name in ("alone", "first", "second")]
    assert len(set(scores)) == 1


def train(words: list[str], **environment: str) -> subprocess.CompletedProcess:
    return subprocess.run(
        [sys.executable, str(app.ROOT / "train.py"), *words],
        env=os.environ | {"PYTHONPATH": str(app.ROOT), "OMP_NUM_THREADS": "1"} | environment,
        capture_output=True,
        text=True,
        timeout=280,
    )


@pytest.mark.parametrize("path", sorted((CONF / "hydra").glob("*/*.yaml")), ids=lambda path: path.stem)
def test_launchers_and_sweepers_compose(path):
    from hydra.core.plugins import Plugins
    from hydra.utils import get_class

    if path.stem == "ray_cluster":
        pytest.importorskip("hydra_plugins.hydra_ray_launcher", reason="the extra ray is not installed")
    Plugins.instance()
    register()
    with initialize_config_dir(str(CONF), version_base="1.3"):
        cfg = compose("train", [f"hydra/{path.parent.name}={path.stem}"], return_hydra_config=True)
    node = cfg.hydra[path.parent.name]
    words = {key: value for key, value in node.items() if not key.startswith("_")}
    part = get_class(node._target_)
    if path.parent.name == "launcher":
        part(**words)  # makes it, launches nothing
    else:
        assert node.direction == "maximize"
