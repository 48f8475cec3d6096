import sys

import numpy as np
import pytest
from networks import write_weights
from PIL import Image

from perceptual.cli import main


@pytest.fixture
def shell(monkeypatch, capsys):
    """Run the command; (exit status, stdout, stderr)."""

    def call(*arguments: object) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["perceptual", *map(str, arguments)])
        with pytest.raises(SystemExit) as end:
            main()
        captured = capsys.readouterr()
        assert "Traceback" not in captured.out + captured.err
        if isinstance(end.value.code, str):  # the interpreter prints it and exits with 1
            return 1, captured.out, captured.err + end.value.code
        return end.value.code, captured.out, captured.err

    return call


@pytest.fixture(scope="session")
def _random_weights(tmp_path_factory):
    folder = tmp_path_factory.mktemp("weights")
    write_weights(folder, "alexnet")
    return folder


@pytest.fixture
def weights(_random_weights, monkeypatch):
    """Random weights of alexnet, always the same ones."""
    monkeypatch.setenv("PERCEPTUAL_WEIGHTS", str(_random_weights))


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A folder to work in."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def draw(folder):
    """Write images of noise and return their pixels (H, W, 3)."""

    def write(name: str, seed: int, height: int = 40, width: int = 48, **options: object) -> np.ndarray:
        pixels = np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels).save(folder / name, **options)
        return pixels

    return write
