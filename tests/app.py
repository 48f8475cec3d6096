"""Runs of train.py and evaluate.py inside the test process, as the shell would start them."""

import csv
import logging
import runpy
import sys
from pathlib import Path

import numpy as np
import pytest
from hydra._internal.hydra import Hydra
from PIL import Image

ROOT = Path(__file__).parents[1]
# settings of train.py for tests that look at no picture
NO_PICTURES = tuple(f"~callbacks.{name}" for name in ("lin", "preference", "disagreements"))


def run(script: str, *arguments: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Run a script of the repository with arguments, from the folder the test is in."""
    monkeypatch.setattr(sys, "argv", [str(ROOT / script), *arguments])
    monkeypatch.syspath_prepend(str(ROOT))
    # else Hydra composes all of it once more, in search of a `hydra.mode`, which conf/ never gives
    monkeypatch.setattr(Hydra, "get_mode", lambda *_, **__: None)
    before = logging.root.handlers[:]
    try:
        runpy.run_path(str(ROOT / script), run_name="__main__")
    finally:
        # Hydra's write to a file of this test, and to streams that pytest closes after it
        for handler in [handler for handler in logging.root.handlers if handler not in before]:
            logging.root.removeHandler(handler)
            if isinstance(handler, logging.FileHandler):
                handler.close()


def refusal(
    script: str, *arguments: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> str:
    """What a script says as it refuses its arguments: one line, exit status not zero, no traceback."""
    with pytest.raises(SystemExit) as stopped:
        run(script, *arguments, monkeypatch=monkeypatch)
    assert stopped.value.code not in (0, None)
    captured = capsys.readouterr()
    message = stopped.value.code if isinstance(stopped.value.code, str) else captured.err
    assert "Traceback" not in captured.err + captured.out
    return message


def write_manifest(folder: Path, rows: int = 40, images: int = 12, size: int = 32, seed: int = 0) -> Path:
    """A manifest of noise images: the grainier p is, the fewer people prefer it."""
    rng = np.random.default_rng(seed)
    folder.mkdir(parents=True, exist_ok=True)
    grain = np.linspace(0, 90, images)
    base = rng.integers(90, 160, (size, size, 3))
    for i in range(images):
        pixels = np.clip(base + rng.normal(0, grain[i], base.shape), 0, 255).astype(np.uint8)
        Image.fromarray(pixels).save(folder / f"{i}.png")
    with (folder / "triplets.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["ref", "p0", "p1", "judge", "votes", "split"])
        for row in range(rows):
            ref, p0, p1 = rng.choice(images, 3, replace=False)
            judge = float(abs(grain[ref] - grain[p1]) < abs(grain[ref] - grain[p0]))
            split = "val" if row % 4 == 0 else "train"
            writer.writerow([f"{ref}.png", f"{p0}.png", f"{p1}.png", judge, 4, split])
    return folder / "triplets.csv"
