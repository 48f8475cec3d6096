"""Weights & Biases: offline runs hold everything, no key does not matter, its agent runs our sweeps."""

import json
import os
import shutil
import signal
import struct
import subprocess
import sys
import threading
import time
from contextlib import suppress
from pathlib import Path

import app
import pytest
import yaml
from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf
from sweep_service import SweepService

from perceptual.cli.errors import with_arguments
from perceptual.cli.words import as_typed
from perceptual.config import register
from perceptual.training.module import Diverged, PerceptualRanker
from perceptual.training.run import recorded

SWEEPS = sorted((app.ROOT / "conf/sweep").glob("*.yaml"))
SMALL = (
    "data=manifest",
    "data.size=32",
    "data.batch_size=20",
    "backbone.name=test_resnet",
    "backbone.weights=null",
    "trainer.max_epochs=1",
    "trainer.accelerator=cpu",
)
KEY = "0" * 40


@pytest.fixture
def manifest(tmp_path, monkeypatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return app.write_manifest(tmp_path / "set", rows=120)


def start(*command: str, **environment: str) -> subprocess.CompletedProcess:
    """A command without a key of the user's, whose home is here."""
    theirs = {k: v for k, v in os.environ.items() if not k.startswith("WANDB_")}
    ours = {"PYTHONPATH": str(app.ROOT), "OMP_NUM_THREADS": "1", "HOME": str(Path.cwd())}
    return subprocess.run(
        command, env=theirs | ours | environment, capture_output=True, text=True, timeout=250
    )


def records(folder: Path) -> list:
    """What the log of the offline run below a folder holds, which `wandb sync` sends: LevelDB's format."""
    from wandb.proto.wandb_internal_pb2 import Record

    (path,) = folder.glob("**/offline-run-*/run-*.wandb")
    content, place, found, whole = path.read_bytes(), 7, [], b""
    while place + 7 <= len(content):
        if (left := 32768 - place % 32768) < 7:
            place += left
            continue
        _, length, kind = struct.unpack("<IHB", content[place : place + 7])
        whole += content[place + 7 : place + 7 + length]
        place += 7 + length
        if kind in (1, 4):  # whole, or its last part
            found.append(Record.FromString(whole))
            whole = b""
    return found


def exit_codes(folder: Path) -> list[int]:
    deadline = time.monotonic() + 30  # another process writes the log
    while not (codes := [one.exit.exit_code for one in records(folder) if one.HasField("exit")]):
        assert time.monotonic() < deadline, "the run has not ended"
        time.sleep(0.05)
    return codes


@pytest.mark.parametrize(
    ("stop", "code"),
    [
        (None, 0),
        (Diverged("the loss is nan"), 1),
        (OSError(28, "No space left on device"), 1),
        (KeyboardInterrupt(), 255),
        (SystemExit(128 + signal.SIGINT), 255),
        (SystemExit(128 + signal.SIGTERM), 255),
        (SystemExit("error: no data"), 1),
    ],
    ids=repr,
)
def test_a_run_ends_at_wandb_as_it_ended(stop, code, tmp_path, monkeypatch):
    """0 is finished, 255 is killed, anything else is failed."""
    import wandb

    monkeypatch.chdir(tmp_path)
    with suppress(BaseException), recorded():
        wandb.init(mode="offline", dir=str(tmp_path), settings=wandb.Settings(silent=True))
        if stop is not None:
            raise stop
    assert wandb.run is None
    assert exit_codes(tmp_path) == [code]


def test_a_run_that_diverges_has_failed_at_wandb_and_can_be_started_again_by_its_configuration(
    manifest, monkeypatch, capsys
):
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_SILENT", "true")
    monkeypatch.setattr(PerceptualRanker, "training_step", lambda *_: diverge())
    words = (*SMALL, f"data.path={manifest}", "logger=wandb", "stopping=early", "callbacks.early.patience=5")
    chosen = ("backbone.options.aa_layer=blurpc", "model.augmentation=[swap]", "optimizer=adamw")
    said = (*words, *chosen, "trainer.gradient_clip_val=null")
    assert "the loss is nan" in app.refusal("train.py", *said, monkeypatch=monkeypatch, capsys=capsys)
    (run,) = Path("runs").glob("*/*")
    assert exit_codes(run) == [1]

    logged = {}
    for record in records(run):
        for item in record.config.update:
            key = item.key or ".".join(item.nested_key)
            logged[key] = json.loads(item.value_json)
    # as `wandb agent` passes them: str() of each value
    back = [f"{key}={value}" for key, value in logged.items() if key != "_wandb"]
    assert "backbone.out_indices=None" in back
    register()
    with initialize_config_dir(str(app.ROOT / "conf"), version_base="1.3"):
        cfg = compose("train", with_arguments(as_typed(["logger=wandb", *back])))
    was = OmegaConf.load(run / ".hydra/config.yaml")
    assert OmegaConf.to_container(cfg, enum_to_str=True) == OmegaConf.to_container(was)


def diverge():
    raise Diverged("the loss is nan")


@pytest.mark.slow
def test_without_a_key_a_run_goes_on_offline_and_holds_everything(manifest):
    words = [*SMALL, f"data.path={manifest}", "logger=[csv,wandb]", "trainer.log_every_n_steps=1"]
    words += ["logger.watch=gradients", "logger.registry=mine"]
    done = start(sys.executable, str(app.ROOT / "train.py"), *words)
    assert done.returncode == 0, done.stderr
    assert "W&B       has no key" in done.stdout
    assert "Report" not in done.stdout
    assert "offline, no checkpoint is linked to logger.registry=mine" in done.stdout
    (run,) = Path("runs").glob("*/*")
    assert (run / "scores.json").is_file()
    assert (run / "logs/metrics.csv").is_file()
    (offline,) = run.glob("wandb/offline-run-*")
    media = offline / "files/media"
    assert list(media.glob("images/lin_*.png"))
    assert list(media.glob("images/preference_*.png"))
    (table,) = media.glob("table/disagreements_*.table.json")
    table = json.loads(table.read_text())
    assert table["columns"][:3] == ["p0", "ref", "p1"]
    assert all(row[:3] == ["Image"] * 3 for row in table["data"])
    # the artifact and its metadata are in the log that `wandb sync` sends
    (log,) = offline.glob("run-*.wandb")
    content = log.read_bytes()
    for part in (
        b"data_sha256",
        b"weights_sha256",
        b"last.ckpt",
        b"val/2afc/mean",
        b"model.dropout",
        b"gradients/",
        b"torch",
    ):
        assert part in content, part


@pytest.mark.slow
@pytest.mark.parametrize("path", SWEEPS, ids=lambda path: path.stem)
def test_the_real_agent_starts_each_run_of_a_sweep(path, manifest):
    sweep = yaml.safe_load(path.read_text())
    place = sweep["command"].index("${args_no_hyphens}")
    sweep["command"][place:place] = [*SMALL, f"data.path={manifest}", "logger.offline=true"]
    runs = [
        {"model.lr": 0.001, "model.dropout": 0.0, "backbone.out_indices": "[0,1,2]"},
        {"model.lr": 0.01, "model.dropout": 0.25, "backbone.out_indices": "[1,2]"},
        {"model.lr": 0.02, "model.dropout": 0.5, "backbone.out_indices": "[0,1,2,3,4]"},
    ]
    service = SweepService(yaml.safe_dump(sweep), runs)
    threading.Thread(target=service.serve_forever, daemon=True).start()
    for name in ("conf", "callbacks", "train.py"):
        Path(name).symlink_to(app.ROOT / name)
    environment = {
        "WANDB_BASE_URL": f"http://127.0.0.1:{service.server_port}",
        "WANDB_API_KEY": KEY,
        "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
    }
    wandb = shutil.which("wandb", path=environment["PATH"])
    assert wandb
    done = start(wandb, "agent", "me/perceptual/s1", **environment)
    service.shutdown()
    service.server_close()
    assert not service.waiting, done.stdout + done.stderr
    folders = sorted(Path("runs/wandb-s1").glob("*/*"))
    assert len(folders) == 3, done.stdout + done.stderr
    for number, (folder, parameters) in enumerate(zip(folders, runs, strict=True)):
        overrides = yaml.safe_load((folder / ".hydra/overrides.yaml").read_text())
        assert {f"{name}={value}" for name, value in parameters.items()} <= set(overrides)
        assert "logger=wandb" in overrides
        assert (folder / "scores.json").is_file(), done.stderr
        assert list(folder.glob(f"wandb/offline-run-*-run{number}/run-*.wandb"))


@pytest.mark.parametrize("path", SWEEPS, ids=lambda path: path.stem)
def test_every_value_of_a_sweep_composes(path):
    sweep = yaml.safe_load(path.read_text())
    assert sweep["metric"] == {"name": "val/2afc/mean", "goal": "maximize"}
    assert f"wandb sweep conf/sweep/{path.name}" in path.read_text()
    register()
    for name, values in sweep["parameters"].items():
        for value in values.get("values") or (values["min"], values["max"]):
            with initialize_config_dir(str(app.ROOT / "conf"), version_base="1.3"):
                cfg = compose("train", ["logger=wandb", f"{name}={value}"])
            if "." in name:
                group, key = name.split(".")
                assert str(getattr(cfg[group][key], "name", cfg[group][key])).replace(" ", "") == str(value)
