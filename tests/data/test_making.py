"""Synthetic triplets and pairs, made in memory, into a store and as files; killed at any moment."""

import re
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest
import torch
from judged import pixels
from killing import run_and_kill_when, tree_bytes
from PIL import Image

from perceptual.data import JND, TWO_AFC, pack, read_folder, read_manifest, read_store
from perceptual.data.decode import read_rgb
from perceptual.data.readers.stores import read_info
from perceptual.data.synthetic import making as makes
from perceptual.data.synthetic.distortions import GROUPS
from perceptual.data.synthetic.making import Making, make_files, make_items, make_store
from perceptual.data.synthetic.photographs import TRAIN_PHOTOS, VAL_PHOTOS, packaged
from perceptual.data.writers.stores import write_store


def test_photographs_are_on_one_side_only():
    assert not set(TRAIN_PHOTOS) & set(VAL_PHOTOS)
    assert {"motorcycle_left.png", "motorcycle_right.png"} <= set(VAL_PHOTOS)
    for path in packaged():
        assert min(read_rgb(path).size) >= 64


@pytest.mark.parametrize("kind", [TWO_AFC, JND])
def test_seed_decides_and_a_longer_set_begins_alike(kind):
    photos = packaged(TRAIN_PHOTOS)
    first, longer, other = (make_items(kind, photos, n, seed, 32) for n, seed in ((20, 0), (30, 0), (20, 1)))
    for ours, theirs in zip(first.items, longer.items, strict=True):
        assert torch.equal(pixels(first)[ours], pixels(longer)[theirs[:20]])
    np.testing.assert_array_equal(first.answer, longer.answer[:20])
    assert not torch.equal(pixels(first), pixels(other))


@pytest.mark.parametrize("kind", [TWO_AFC, JND])
def test_workers_give_the_same_bytes(kind, two_workers, tmp_path):
    one, two = (make_items(kind, packaged(), 20, 3, 32, workers) for workers in (1, 2))
    assert torch.equal(pixels(one), pixels(two))
    assert pixels(one).shape == (20 * len(kind.roles), 3, 32, 32)
    for name in ("items", "answer", "subset", "votes"):
        np.testing.assert_array_equal(getattr(one, name), getattr(two, name))
    make_store(Making(kind, packaged(), 20, 3, 32), tmp_path / "store", "photographs", workers=2)
    assert read_store(tmp_path / "store").fingerprint() == one.fingerprint()


def test_does_not_touch_the_threads_or_the_global_generators():
    threads, state = torch.get_num_threads(), torch.get_rng_state()
    make_items(TWO_AFC, packaged(TRAIN_PHOTOS[:1]), 3, 0)
    assert torch.get_num_threads() == threads
    assert torch.equal(torch.get_rng_state(), state)


def test_triplets_are_balanced():
    table = make_items(TWO_AFC, packaged(), 300, 0, 16, design="severity")
    assert pixels(table).shape == (900, 3, 16, 16)
    assert pixels(table).dtype == torch.uint8
    assert np.isin(table.answer, np.float32(np.arange(6) / 5)).all()
    assert 0.45 < table.answer.mean() < 0.55
    assert table.subsets == list(GROUPS)
    assert np.bincount(table.subset, minlength=5).min() > 40
    ceiling = np.maximum(table.answer, 1 - table.answer).mean()
    assert 0.75 < ceiling < 0.92  # judged neither by a coin nor by an oracle


def test_pairs_are_called_the_same_the_less_the_more_they_differ():
    table = make_items(JND, packaged(), 300, 0, 32, design="severity")
    p0, p1 = pixels(table)[table.items].float()
    difference = (p0 - p1).square().mean((1, 2, 3)).sqrt().numpy()
    order = np.argsort(difference)
    assert table.answer[order[:100]].mean() > 0.6
    assert table.answer[order[-100:]].mean() < 0.35
    assert np.isin(table.answer, np.float32(np.arange(4) / 3)).all()


def test_patches_show_something_and_differ():
    table = make_items(TWO_AFC, packaged(), 60, 0)
    ref, p0, p1 = pixels(table)[table.items].float()
    assert ref.flatten(1).std(dim=1).min() > 5
    assert all(not torch.equal(a, b) for a, b in zip(p0, p1, strict=True))


def test_photographs_that_cannot_be_used(tmp_path):
    with pytest.raises(ValueError, match="no photographs"):
        make_items(TWO_AFC, [], 3, 0)
    Image.new("RGB", (200, 40)).save(tmp_path / "small.png")
    with pytest.raises(ValueError, match=r"small.png is 200×40, patches need 64 on the smaller side"):
        make_items(TWO_AFC, [str(tmp_path / "small.png")], 3, 0, 32)
    (tmp_path / "text.png").write_text("an essay")
    with pytest.raises(OSError, match=r"cannot read the photograph .*text.png"):
        make_items(TWO_AFC, [str(tmp_path / "text.png")], 3, 0)


def test_a_small_photograph_is_refused_before_any_is_read(tmp_path, monkeypatch):
    Image.new("RGB", (200, 40)).save(tmp_path / "small.png")
    monkeypatch.setattr(makes, "read_photo", lambda *_: pytest.fail("read a photograph"))
    with pytest.raises(ValueError, match=r"small.png is 200×40, patches need 64 on the smaller side"):
        make_items(TWO_AFC, [*packaged(), str(tmp_path / "small.png")], 100, seed=0)


def triplets(count: int = 30, seed: int = 3, size: int = 16) -> Making:
    return Making(TWO_AFC, packaged(), count, seed, size)


def test_a_store_holds_what_is_made_in_memory(tmp_path, monkeypatch):
    monkeypatch.setattr(makes, "_CHUNK", 4)
    info = make_store(triplets(), tmp_path / "store", "photographs")
    write_store(make_items(TWO_AFC, packaged(), 30, 3, 16), tmp_path / "expected", "photographs")
    ours, theirs = tree_bytes(tmp_path / "store"), tree_bytes(tmp_path / "expected")
    assert ours.pop("store.json") != theirs.pop("store.json")  # which records the request
    assert ours == theirs
    expected = read_info(tmp_path / "expected")
    assert (info.fingerprint, info.subsets) == (expected.fingerprint, expected.subsets)
    assert (info.items, info.images, info.kind, info.source) == (30, 90, "triplets", "photographs")


@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")
def test_killed_in_the_middle_it_goes_on(tmp_path, monkeypatch):
    monkeypatch.setattr(makes, "_CHUNK", 3)
    make_store(triplets(60), tmp_path / "whole", "photographs")
    store, partial = tmp_path / "store", tmp_path / "store.partial"

    def done() -> int:
        with suppress(OSError, ValueError, EOFError):  # not there, or not whole, yet
            return int(np.load(partial / "done.npy").sum())
        return 0

    tasks = len(triplets(60).tasks())
    for point in (2, tasks // 2):
        run_and_kill_when(lambda: make_store(triplets(60), store, "photographs"), lambda p=point: done() >= p)
        assert not store.exists()
        assert point <= done() < tasks
    kept, made, make = done(), [], Making.make
    monkeypatch.setattr(Making, "make", lambda self, *task: made.append(task) or make(self, *task))
    make_store(triplets(60), store, "photographs")
    assert len(made) == tasks - kept  # what was made is not made again
    assert tree_bytes(store) == tree_bytes(tmp_path / "whole")
    assert not partial.exists()


@pytest.mark.parametrize("form", ["folder", "unjudged"])
@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")
def test_files_killed_in_the_middle_go_on(tmp_path, form):
    making, dst = triplets(40), tmp_path / "files"
    make_files(making, tmp_path / "whole", "photographs", form)
    written = f"files.partial/{form}/{'traditional/' if form == 'folder' else ''}p0/000009.png"
    run_and_kill_when(lambda: make_files(making, dst, "photographs", form), (tmp_path / written).exists)
    assert not dst.exists()
    kept = (tmp_path / written).stat().st_mtime_ns
    make_files(making, dst, "photographs", form)
    assert tree_bytes(dst) == tree_bytes(tmp_path / "whole")
    moved = dst / Path(written).relative_to(f"files.partial/{form}")
    assert moved.stat().st_mtime_ns == kept  # not written again
    assert [path.name for path in tmp_path.iterdir() if "partial" in path.name] == []


def test_files_record_what_was_made(tmp_path):
    for form in ("folder", "unjudged"):
        make_files(triplets(6), tmp_path / form, "photographs", form)
    made = make_items(TWO_AFC, packaged(), 6, 3, 16).made.tolist()
    assert read_folder(tmp_path / "folder", ["traditional"]).made.tolist() == made
    text = (tmp_path / "unjudged/manifest.csv").read_text().replace(",,", ",0.5,")
    (tmp_path / "unjudged/judged.csv").write_text(text)
    assert read_manifest(tmp_path / "unjudged/judged.csv").made.tolist() == made
    pack(read_folder(tmp_path / "folder", ["traditional"]), tmp_path / "packed", "a", 16, workers=1)
    assert read_store(tmp_path / "packed").made.tolist() == made


def test_other_photographs_start_over(tmp_path, monkeypatch):
    monkeypatch.setattr(makes, "_CHUNK", 2)
    rng = np.random.default_rng(0)
    photo, bad = tmp_path / "photos/a.png", tmp_path / "photos/b.png"
    photo.parent.mkdir()
    Image.fromarray(rng.integers(0, 256, (80, 80, 3), dtype=np.uint8)).save(photo)
    bad.write_text("an essay")
    making = Making(TWO_AFC, [str(photo), str(bad)], 8, 0, 16)
    with pytest.raises(OSError, match=r"cannot read the photograph .*b.png"):
        make_store(making, tmp_path / "store", "photographs")
    assert np.load(tmp_path / "store.partial/done.npy").any()
    for path in (photo, bad):
        Image.fromarray(rng.integers(0, 256, (80, 80, 3), dtype=np.uint8)).save(path)
    for store in ("store", "whole"):
        make_store(making, tmp_path / store, "photographs")
    assert tree_bytes(tmp_path / "store") == tree_bytes(tmp_path / "whole")


def test_a_complete_store_is_left_and_others_are_refused(tmp_path):
    first = make_store(triplets(4), tmp_path / "store", "photographs")
    before = tree_bytes(tmp_path)
    assert make_store(triplets(4), tmp_path / "store", "photographs") == first
    for other in (triplets(5), triplets(4, seed=4), Making(JND, packaged(), 4, 3, 16)):
        with pytest.raises(
            ValueError, match=r"is another store \(4 triplets at size 16, source: photographs"
        ):
            make_store(other, tmp_path / "store", "photographs")
    (tmp_path / "folder").mkdir()
    with pytest.raises(ValueError, match="exists already and is no store"):
        make_store(triplets(4), tmp_path / "folder", "photographs")
    (tmp_path / "folder").rmdir()
    assert tree_bytes(tmp_path) == before


def memory() -> int:
    """Bytes that this process has in memory, mapped files included."""
    return 1024 * int(re.search(r"VmRSS:\s+(\d+) kB", Path("/proc/self/status").read_text())[1])


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="memory is read as Linux reports it")
def test_memory_does_not_grow_with_the_count(tmp_path, monkeypatch):
    patches = torch.zeros(3, 3, 64, 64, dtype=torch.uint8)
    monkeypatch.setattr(makes, "_make_item", lambda *_: (patches.clone(), 0.5, 0, b"[]"))
    make_store(triplets(300, size=64), tmp_path / "warm", "photographs")
    before, grown, make = memory(), [], Making.make

    def watched(self, *task):
        items = make(self, *task)
        grown.append(memory() - before)
        return items

    monkeypatch.setattr(Making, "make", watched)
    making = Making(TWO_AFC, packaged()[:1], 4000, 0, 64)
    make_store(making, tmp_path / "store", "photographs")
    assert (tmp_path / "store/images.npy").stat().st_size > 147e6
    assert max(grown) < 60e6
