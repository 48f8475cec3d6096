"""Cached means: the numbers that the images give, computed once, never taken from a foreign cache."""

import errno
import json
import os
import shutil
import signal
import socket
import traceback
import warnings
from pathlib import Path

import app
import numpy as np
import pytest
import pytorch_lightning as pl
import torch

from perceptual.data import ManifestDataModule
from perceptual.data import batch as batches_of_items
from perceptual.data.augmentation import view
from perceptual.distance import differences
from perceptual.distance.differences import weigh
from perceptual.distance.lpips import LPIPS
from perceptual.features.backbone import Backbone
from perceptual.files.places import cache_folder
from perceptual.training import cache
from perceptual.training.cache import CachedDataModule, CachedDataset, cached
from perceptual.training.module import PerceptualRanker

NETWORK = {"name": "test_resnet", "weights": None}


@pytest.fixture
def data(tmp_path) -> ManifestDataModule:
    module = ManifestDataModule(app.write_manifest(tmp_path / "set", rows=60), size=32, batch_size=8)
    module.setup("fit")
    return module


@pytest.fixture
def lpips() -> LPIPS:
    torch.manual_seed(0)
    metric = LPIPS(Backbone(**NETWORK), lin=None)
    for vector in metric.lin:
        vector.uniform_()
    return metric


def forwards(lpips: LPIPS) -> list[int]:
    """Number of images of each pass of the backbone from now on."""
    seen: list[int] = []
    lpips.backbone.register_forward_pre_hook(lambda _, inputs: seen.append(len(inputs[0])))
    return seen


@pytest.mark.parametrize("form", ["per_position", "pooled"])
def test_the_means_give_the_distances_of_the_images(data, lpips, tmp_path, form):
    lpips.form = form
    batches = CachedDataModule(data, lpips, tmp_path / "cache")
    batches.setup("fit")
    for images, means in zip(data.val_dataloader(), batches.val_dataloader(), strict=True):
        assert torch.equal(means.answer, images.answer)
        assert torch.equal(means.subset, images.subset)
        for ours, theirs in zip(means.distances(lpips), images.distances(lpips), strict=True):
            torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-6)


def test_triplets_swap_as_those_of_images_do(data, lpips, tmp_path):
    batches = CachedDataModule(data, lpips, tmp_path / "cache")
    batches.setup("fit")
    images, means = (next(iter(each.train_dataloader())) for each in (data, batches))
    draws = torch.arange(len(images.answer))[:, None] % 3 / 2
    ours, theirs = means.swap(draws), images.swap(draws)
    assert torch.equal(ours.answer, theirs.answer)
    assert not torch.equal(ours.answer, means.answer)
    for a, b in zip(ours.distances(lpips), theirs.distances(lpips), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("weight_by_votes", [False, True])
def test_training_on_means_is_training_on_images(data, tmp_path, weight_by_votes):
    data = ManifestDataModule(data.path, size=32, batch_size=8, weight_by_votes=weight_by_votes)
    data.setup("fit")
    lins = []
    for use_cache in (False, True):
        pl.seed_everything(3, verbose=False)
        model = PerceptualRanker(NETWORK, lr=1e-2, dropout=0.0)
        before = torch.cat(list(model.distance.lin)).detach().clone()
        batches = CachedDataModule(data, model.distance, tmp_path / "cache") if use_cache else data
        trainer = pl.Trainer(
            max_epochs=1,
            logger=False,
            enable_checkpointing=False,
            enable_progress_bar=False,
            accelerator="cpu",
        )
        trainer.fit(model, datamodule=batches)
        lins.append(torch.cat(list(model.distance.lin)).detach())
        assert (lins[-1] - before).abs().max() > 1e-3
    torch.testing.assert_close(lins[0], lins[1], rtol=0, atol=1e-5)


def test_each_image_goes_through_the_backbone_once_and_never_again(data, lpips, tmp_path):
    seen = forwards(lpips)
    cached(lpips, data.train_set, tmp_path)
    items = data.train_set.table.items
    assert sum(seen) == len(np.unique(items))
    seen.clear()
    cached(lpips, data.train_set, tmp_path)
    assert seen == []


def test_a_small_budget_changes_no_number(data, lpips, tmp_path, monkeypatch):
    monkeypatch.setattr(batches_of_items, "CHUNK", 4)
    plenty = cached(lpips, data.train_set, tmp_path / "plenty")
    monkeypatch.setattr(differences, "FEATURE_BUDGET", 1)
    little = cached(lpips, data.train_set, tmp_path / "little")
    rows = list(range(len(plenty)))
    torch.testing.assert_close(
        plenty.__getitems__(rows).means, little.__getitems__(rows).means, rtol=1e-5, atol=1e-7
    )


def test_an_ambient_autocast_changes_no_number(data, lpips, tmp_path):
    plain = cached(lpips, data.train_set, tmp_path / "plain")
    with torch.autocast("cpu", torch.bfloat16):
        ambient = cached(lpips, data.train_set, tmp_path / "ambient")
    assert torch.equal(means_of(plain), means_of(ambient))


def means_of(dataset: CachedDataset) -> torch.Tensor:
    return dataset.__getitems__(list(range(len(dataset)))).means.clone()


def test_an_interrupted_computation_goes_on_where_it_was(data, lpips, tmp_path, monkeypatch):
    monkeypatch.setattr(cache, "PART", 12)
    whole = cached(lpips, data.train_set, tmp_path / "whole")
    real = cache.chunks_of_pairs
    starts = []

    def interrupted(pairs, start, stop):
        starts.append(start)
        if len(starts) == 3:
            raise KeyboardInterrupt
        return real(pairs, start, stop)

    monkeypatch.setattr(cache, "chunks_of_pairs", interrupted)
    with pytest.raises(KeyboardInterrupt):
        cached(lpips, data.train_set, tmp_path / "cache")
    again = cached(lpips, data.train_set, tmp_path / "cache")
    assert starts[:5] == [0, 12, 24, 24, 36]
    assert torch.equal(means_of(again), means_of(whole))


def flip_a_bit(folder: Path) -> None:
    means = np.load(folder / "means.npy", mmap_mode="r+")
    means.view(np.uint8)[3, 5] ^= 1
    means.flush()


@pytest.mark.parametrize(
    "spoil",
    [
        lambda folder: (folder / "means.npy").write_bytes((folder / "means.npy").read_bytes()[:-4]),
        lambda folder: (folder / "means.npy").write_bytes(b""),
        lambda folder: np.save(folder / "means.npy", np.zeros((3, 3), np.float32)),
        lambda folder: (folder / "about.json").write_text("{}"),
        lambda folder: (folder / "0.crc32").write_text("?"),
        flip_a_bit,
    ],
    ids=["truncated", "empty", "another shape", "of something else", "unreadable record", "a flipped bit"],
)
def test_a_broken_cache_is_made_again(data, lpips, tmp_path, spoil):
    good = means_of(cached(lpips, data.train_set, tmp_path))
    (folder,) = (path for path in tmp_path.iterdir() if path.is_dir() and path.name.startswith("test_resnet"))
    spoil(folder)
    seen = forwards(lpips)
    assert torch.equal(means_of(cached(lpips, data.train_set, tmp_path)), good)
    assert seen
    seen.clear()
    cached(lpips, data.train_set, tmp_path)
    assert not seen


def test_the_means_of_another_cache_are_not_taken(data, lpips, tmp_path):
    """They have the right shape, and checksums that fit them."""
    torch.manual_seed(1)
    cached(LPIPS(Backbone(**NETWORK), lin=None), data.train_set, tmp_path / "other")
    good = means_of(cached(lpips, data.train_set, tmp_path / "cache"))
    (other,), (folder,) = (list((tmp_path / name).glob("test_resnet*[!k]")) for name in ("other", "cache"))
    assert len(list(other.glob("*.crc32"))) > 0
    for file in (other / "means.npy", *other.glob("*.crc32")):
        shutil.copy(file, folder)
    assert torch.equal(means_of(cached(lpips, data.train_set, tmp_path / "cache")), good)


def test_a_full_disk_is_one_line(data, lpips, tmp_path, monkeypatch):
    def full(*_):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "posix_fallocate", full)
    with pytest.raises(
        OSError, match=r"cannot keep .* MB of features of test_resnet .*No space left on device"
    ):
        cached(lpips, data.train_set, tmp_path / "cache")
    assert not [path for path in tmp_path.glob("cache/*") if path.is_dir()]


@pytest.mark.parametrize("variable", ["PERCEPTUAL_CACHE", "HOME"])
@pytest.mark.parametrize("parent", ["/proc", "file"])
def test_a_folder_that_cannot_be_written_is_one_line_that_says_what_to_do(
    data, lpips, tmp_path, monkeypatch, variable, parent
):
    (tmp_path / "file").touch()
    monkeypatch.delenv("PERCEPTUAL_CACHE")
    monkeypatch.setenv(variable, str(tmp_path / parent / "x"))
    batches = CachedDataModule(data, lpips)
    with pytest.raises(OSError, match=r"^cannot keep .* MB of features of test_resnet") as raised:
        batches.setup("fit")
    message = str(raised.value)
    assert f"the cache folder {str(cache_folder())!r}: " in message
    assert message.endswith("PERCEPTUAL_CACHE=… names another folder, data.cache=off does without")
    assert len(message.splitlines()) == 1


def test_train_py_says_it_in_one_line(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    path = app.write_manifest(tmp_path / "set")
    monkeypatch.setenv("PERCEPTUAL_CACHE", "/proc/x")
    small = ("data=manifest", f"data.path={path}", "data.size=32", "backbone.name=test_resnet")
    small = (*small, "backbone.weights=null", "trainer=smoke", "data.views=0")
    message = app.refusal("train.py", *small, monkeypatch=monkeypatch, capsys=capsys)
    assert "the cache folder '/proc/x': " in message
    assert len(message.splitlines()) == 1


def test_the_key_tells_apart_all_that_matters(data, lpips, tmp_path):
    def key(metric: LPIPS, triplets=data.train_set) -> str:
        return json.dumps(cache.describe(metric, triplets))

    torch.manual_seed(1)
    others = [
        LPIPS(Backbone(**NETWORK), lin=None),
        LPIPS(Backbone(**NETWORK, out_indices=[0, 1]), lin=None),
        LPIPS(Backbone(**NETWORK, mean=(0.1, 0.2, 0.3)), lin=None),
        LPIPS(Backbone(**NETWORK, input_size=48), lin=None),
        LPIPS(Backbone(**NETWORK, precision="bf16-mixed"), lin=None),
    ]
    others.append(LPIPS(Backbone(**NETWORK), lin=None, form="pooled"))
    for metric in others[2:]:
        metric.backbone.net.load_state_dict(lpips.backbone.net.state_dict())
    keys = [key(lpips), key(lpips, data.val_set), *map(key, others)]
    assert len(set(keys)) == len(keys)
    for vector in lpips.lin:
        vector.mul_(2)
    assert key(lpips) == keys[0]


def test_a_backbone_in_training_is_not_cached(data, tmp_path):
    with pytest.raises(ValueError, match="test_resnet cannot be cached"):
        CachedDataModule(data, LPIPS(Backbone(**NETWORK, trainable=True), lin=None), tmp_path)


def test_dropout_drops_channels_for_the_whole_batch_and_keeps_the_mean(lpips):
    metric = LPIPS(lpips.backbone, lin=None, dropout=0.5).train()
    means = torch.eye(sum(lpips.backbone.channels)).unsqueeze(1)  # each pair differs in a channel of its own
    torch.manual_seed(0)
    drawn = torch.stack([weigh(metric, means) for _ in range(400)])
    assert set(drawn.unique().tolist()) == {0, 2}
    assert drawn.mean() == pytest.approx(1, abs=0.02)
    assert torch.equal(weigh(metric, means.expand(-1, 2, -1)).diff(dim=1), torch.zeros(len(means), 1))


def test_train_py_uses_the_cache_and_can_do_without(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    path = app.write_manifest(tmp_path / "set")
    monkeypatch.setenv("PERCEPTUAL_CACHE", str(tmp_path / "cache"))
    small = ("data=manifest", f"data.path={path}", "data.size=32", "backbone.name=test_resnet")
    small = (*small, "backbone.weights=null", "trainer=smoke", "data.views=0")
    app.run("train.py", *small, "data.cache=off", monkeypatch=monkeypatch)
    assert not Path("cache").exists()
    app.run("train.py", *small, monkeypatch=monkeypatch)
    assert len(list(Path("cache").glob("*/means.npy"))) == 2


def free_port() -> int:
    with socket.socket() as place:
        place.bind(("localhost", 0))
        port: int = place.getsockname()[1]
        return port


def test_the_processes_of_a_run_share_the_work(data, tmp_path, monkeypatch):
    """No part is computed twice and none is left out, by two processes on gloo."""
    monkeypatch.setattr(cache, "PART", 4)
    port, log, real = free_port(), tmp_path / "computed", cache.chunks_of_pairs

    def told(pairs, start, stop):
        with log.open("a") as file:  # one write, which appends whole lines
            file.write(f"{len(pairs)} {start}\n")
        return real(pairs, start, stop)

    def train(rank: int) -> None:
        environment = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "LOCAL_RANK": rank}
        os.environ.update({key: str(value) for key, value in environment.items()})
        cache.chunks_of_pairs = told
        warnings.filterwarnings("ignore", message=".*recommended to use .*sync_dist=True.*")
        torch.manual_seed(0)
        model = PerceptualRanker(NETWORK)
        quiet = {"logger": False, "enable_checkpointing": False, "enable_progress_bar": False}
        trainer = pl.Trainer(max_epochs=1, accelerator="cpu", devices=2, strategy="ddp", **quiet)
        trainer.fit(model, datamodule=CachedDataModule(data, model.distance, tmp_path / "cache"))

    def process(rank: int) -> int:
        if pid := os.fork():
            return pid
        status = 1
        try:
            train(rank)
            status = 0
        except BaseException:
            (tmp_path / f"failed{rank}").write_text(traceback.format_exc())
        finally:
            os._exit(status)

    statuses = [os.waitpid(pid, 0)[1] for pid in [process(0), process(1)]]
    assert statuses == [0, 0], "".join(path.read_text() for path in tmp_path.glob("failed*"))
    parts = sorted(tuple(map(int, line.split())) for line in log.read_text().splitlines())
    sizes = {size for size, _ in parts}
    assert len(sizes) == 2
    assert parts == sorted((size, start) for size in sizes for start in range(0, size, 4))
    torch.manual_seed(0)
    metric = PerceptualRanker(NETWORK).distance  # with the backbone of the run
    seen = forwards(metric)
    together = cached(metric, data.train_set, tmp_path / "cache")
    assert not seen
    alone = cached(metric, data.train_set, tmp_path / "alone")
    torch.testing.assert_close(means_of(together), means_of(alone), rtol=1e-5, atol=1e-7)


@pytest.mark.slow
def test_train_py_killed_while_it_extracts_goes_on_part_by_part(tmp_path, monkeypatch):
    """By SIGKILL with a part written but not yet on record: the next run begins with that part."""
    monkeypatch.chdir(tmp_path)
    path = app.write_manifest(tmp_path / "set")
    monkeypatch.setattr(cache, "PART", 8)
    real = cache.chunks_of_pairs

    def run(place: str, kill_in: int = 0) -> list[str]:
        log = Path(f"{place}{kill_in}.log")

        def told(pairs, start, stop):
            with log.open("a") as file:
                file.write(f"{start} of {len(pairs)}\n")
            yield from real(pairs, start, stop)
            if len(log.read_text().splitlines()) == kill_in:
                os.kill(os.getpid(), signal.SIGKILL)

        if pid := os.fork():
            os.waitpid(pid, 0)
            return log.read_text().splitlines()
        try:
            monkeypatch.setenv("PERCEPTUAL_CACHE", str(tmp_path / place))
            monkeypatch.setattr(cache, "chunks_of_pairs", told)
            small = ("data.size=32", "backbone.name=test_resnet", "backbone.weights=null", "trainer=smoke")
            small = (*small, "data.views=0")
            app.run("train.py", "data=manifest", f"data.path={path}", *small, monkeypatch=monkeypatch)
        finally:
            os._exit(0)

    alone = run("alone")
    before, after = run("cache", kill_in=5), run("cache")
    assert len(before) == 5
    assert [*before, *after[1:]] == alone
    assert after[0] == before[-1]
    for whole in Path("alone").glob("*/means.npy"):
        np.testing.assert_allclose(
            np.load("cache" / whole.relative_to("alone")), np.load(whole), rtol=1e-5, atol=1e-7
        )


def test_batches_are_of_the_views_of_images(data, lpips, tmp_path):
    """Each batch is of one view, which follows from its items; its means are those of changed images."""
    plain = cached(lpips, data.train_set, tmp_path)
    views = cached(lpips, data.train_set, tmp_path, views=2)
    with torch.no_grad():
        for rows in ([3, 4, 8], [4, 8, 4], [8, 3, 3]):  # sums of 15, 16, 14
            batch = views.__getitems__(rows)
            ref, p0, p1 = view(data.train_set.__getitems__(rows).images, sum(rows) % 3).chunk(3)
            expected = torch.stack(lpips.triplet(ref, p0, p1), dim=1)
            torch.testing.assert_close(weigh(lpips, batch.means), expected, rtol=1e-4, atol=1e-6)
            same = torch.equal(batch.means, plain.__getitems__(rows).means)
            assert same == (sum(rows) % 3 == 0)


def test_validation_sees_images_as_they_are(data, lpips, tmp_path):
    module = CachedDataModule(data, lpips, tmp_path, views=3)
    module.setup("fit")
    assert torch.equal(means_of(module.val_sets[0]), means_of(cached(lpips, data.val_set, tmp_path)))
    drawn = {int(torch.as_tensor(rows).sum()) % 4 for rows in torch.randperm(len(data.train_set)).split(5)}
    assert len(drawn) > 1
