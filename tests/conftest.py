"""What every test runs under: no network, no weights of this machine, and one thread."""

import atexit
import os
import signal
import tempfile
from pathlib import Path

import pytest

_EMPTY = tempfile.TemporaryDirectory(prefix="perceptual-tests-")
atexit.register(_EMPTY.cleanup)
# before any import: huggingface_hub reads these once
os.environ.update(HF_HUB_OFFLINE="1", HF_HOME=f"{_EMPTY.name}/hf", TORCH_HOME=f"{_EMPTY.name}/torch")
# urllib, which torch.hub downloads with, finds nobody at this proxy
os.environ.update(
    https_proxy="http://127.0.0.1:9", http_proxy="http://127.0.0.1:9", no_proxy="localhost,127.0.0.1"
)
os.environ.pop("PERCEPTUAL_WEIGHTS", None)
os.environ["PERCEPTUAL_CACHE"] = f"{_EMPTY.name}/cache"
# what a shell starts with `&` ignores Ctrl-C, and so would the tests of it
signal.signal(signal.SIGINT, signal.default_int_handler)

import torch  # noqa: E402


@pytest.fixture(autouse=True, scope="session")
def _one_thread():
    # several wait for each other longer than they compute, on images as small as those of the tests
    torch.set_num_threads(1)


@pytest.fixture(scope="session")
def assets() -> Path:
    """The folder of real weights and measured numbers, which is not part of the repository."""
    if not (folder := os.environ.get("PERCEPTUAL_ASSETS")):
        pytest.skip("PERCEPTUAL_ASSETS is not set")
    return Path(folder).absolute()


@pytest.fixture
def alexnet(tmp_path, monkeypatch):
    """PERCEPTUAL_WEIGHTS with random weights of AlexNet; the folder."""
    from networks import write_weights  # imports the lpips package

    folder = tmp_path / "weights"
    folder.mkdir()
    write_weights(folder, "alexnet")
    monkeypatch.setenv("PERCEPTUAL_WEIGHTS", str(folder))
    return folder
