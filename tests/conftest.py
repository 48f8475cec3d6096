"""What every test runs under: no network, no weights of this machine, and one thread."""

import atexit
import multiprocessing
import os
import signal
import tempfile
from concurrent.futures import ProcessPoolExecutor
from contextlib import nullcontext
from pathlib import Path

import pytest

# Processes come from a server without threads: one forked beside those of other tests may wait for ever.
multiprocessing.set_forkserver_preload(["perceptual.data", "perceptual.metrics"])
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

if not torch.cuda.is_available():
    os.environ["TRITON_INTERPRET"] = "1"  # before Triton is imported: kernel="triton" runs in its interpreter


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


def _untrained_population(folder: Path) -> None:
    """Distorters as a first run trains them, but untrained: tests that do not look at images need no more."""
    from perceptual.data.synthetic.distorters import population
    from perceptual.data.synthetic.photographs import TRAIN_PHOTOS, packaged

    population.train_population(packaged(TRAIN_PHOTOS[:1]), folder, population.SMALL_COUNT, seed=0, steps=0)


@pytest.fixture(autouse=True, scope="session")
def distorters() -> Path:
    """A folder of distorters, where the cache has the small population: started processes find it too."""
    from perceptual.data.synthetic.distorters import population

    name = f"distorters-{population.VERSION}-{population.SMALL_COUNT}-{population.SMALL_STEPS}"
    folder = Path(os.environ["PERCEPTUAL_CACHE"]) / name
    folder.parent.mkdir(parents=True, exist_ok=True)
    _untrained_population(folder)
    return folder


@pytest.fixture
def averaging():
    """The class of the callback that averages weights."""
    from pytorch_lightning import callbacks

    if not hasattr(callbacks, "WeightAveraging"):
        pytest.skip("pytorch-lightning before 2.6 averages no weights")
    from callbacks.ema import EMA

    return EMA


@pytest.fixture(scope="session")
def pool():
    """Two processes that are there for all tests."""
    from perceptual.data import workers

    context = multiprocessing.get_context("forkserver")
    with ProcessPoolExecutor(2, context, workers._end_with_parent) as pool:
        yield pool


@pytest.fixture
def two_workers(pool, monkeypatch):
    """One pool for all calls: each process that is spawned imports torch, for seconds."""
    from perceptual.data import workers

    asked = []
    monkeypatch.setattr(workers, "worker_pool", lambda count: asked.append(count) or nullcontext(pool))
    yield
    assert set(asked) == {2}
