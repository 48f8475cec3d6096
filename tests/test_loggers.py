"""Loggers: each has scores, pictures and the configuration; one that is not there is a line, and no more."""

import sqlite3
import sys
from pathlib import Path

import app
import pytest
from pytorch_lightning.loggers import CSVLogger

from callbacks.loggers import make
from callbacks.weights_and_biases import Wandb

WORDS = ("data=manifest", "data.size=32", "backbone=test_resnet", "backbone.weights=null", "trainer=smoke")
PICTURES = {"disagreements", "lin", "preference"}


@pytest.fixture
def train(tmp_path, monkeypatch):
    """Train with some loggers; the folder of the run."""
    monkeypatch.chdir(tmp_path)
    manifest = app.write_manifest(tmp_path / "set")

    def run(*words: str) -> Path:
        app.run("train.py", *WORDS, f"data.path={manifest}", *words, monkeypatch=monkeypatch)
        (folder,) = Path("runs").glob("*/*")
        assert (folder / "logs/metrics.csv").is_file()
        return folder

    return run


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_tensorboard_has_scores_pictures_and_the_configuration(train):
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    folder = train("logger=[csv,tensorboard]", "model.lr=0.03")
    events = EventAccumulator(str(folder / "tensorboard"))
    events.Reload()
    tags = events.Tags()
    assert {"train/loss", "val/2afc/mean", "preference_error"} <= {*tags["scalars"]}
    assert {*tags["images"]} == PICTURES
    (text,) = events.Tensors("configuration/text_summary")
    assert b'"model.lr": 0.03' in text.tensor_proto.string_val[0]


@pytest.mark.filterwarnings("ignore")  # of its many parts
def test_mlflow_has_scores_pictures_the_configuration_and_a_registered_model(train):
    pytest.importorskip("mlflow")
    pytest.importorskip("alembic")  # mlflow-skinny has no databases
    train("logger=mlflow", "model.lr=0.03", "logger.registry=mine")
    with sqlite3.connect("mlflow.db") as database:
        assert ("0.03",) in database.execute("select value from params where key = 'model.lr'").fetchall()
        scores = {name for (name,) in database.execute("select key from metrics")}
        ((name, place),) = database.execute("select name, source from model_versions")
        ((status,),) = database.execute("select status from runs")
    assert {"train/loss", "val/2afc/mean", "preference_error"} <= scores
    assert (name, Path(place).name, status) == ("mine", "best.ckpt", "FINISHED")
    assert Path(place).is_file()
    assert {path.stem for path in Path("mlruns").rglob("reports/*.png")} == PICTURES


@pytest.mark.parametrize("package", ["tensorboard", "mlflow", "wandb"])
def test_without_the_package_a_line_says_what_to_install(package, tmp_path, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, package, None)
    (logger,) = make(str(tmp_path), **{package: True})
    assert isinstance(logger, CSVLogger)
    line = f"{package:9} needs {package} (pip install {package}); the run goes on without it.\n"
    assert capsys.readouterr().out == line


@pytest.mark.filterwarnings("ignore")
def test_without_its_server_mlflow_is_left_out(tmp_path, capsys):
    pytest.importorskip("mlflow")
    (logger,) = make(str(tmp_path), mlflow=True, uri="http://127.0.0.1:9")
    assert isinstance(logger, CSVLogger)
    assert "mlflow    cannot log this run: " in capsys.readouterr().out


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ({"watch": "weights", "wandb": True}, "must be gradients, parameters, all or null, got 'weights'"),
        ({"watch": "all"}, "logger.watch needs logger=wandb"),
        ({"registry": "mine"}, "logger.registry needs logger=wandb or logger=mlflow"),
    ],
)
def test_what_does_not_fit_is_refused(words, said, tmp_path):
    with pytest.raises(ValueError, match=said):
        make(str(tmp_path), **words)


def test_the_best_checkpoint_is_linked_at_wandb(tmp_path):
    """As there is no account here, to a run that notes what is asked of it."""

    class Run:
        id, offline, linked = "abc", False, []

        def log_artifact(self, artifact):
            return artifact

        def link_artifact(self, artifact, place):
            self.linked.append((sorted(artifact.manifest.entries), place))

    for name in ("best.ckpt", "last.ckpt"):
        (tmp_path / name).write_bytes(b"x")
    board = Wandb.__new__(Wandb)
    board._experiment, board.registry, run = Run(), "mine", Run
    board.keep([tmp_path / "best.ckpt", tmp_path / "last.ckpt"], {})
    assert run.linked == [(["best.ckpt"], "wandb-registry-model/mine")]
