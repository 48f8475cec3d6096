import errno
import io
import json
import os
import pickle
import random
import re
import shutil
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from judged import equal, make_table, ready
from killing import run_and_kill, tree_bytes
from PIL import Image
from trees import plain, write_manifest, write_subset

from perceptual.data import TWO_AFC, BAPPSDataModule, JudgedDataset, ManifestDataModule, read_folder
from perceptual.data import pack as pack_table
from perceptual.data.images import Pixels, UnusableImages
from perceptual.data.loading import loader
from perceptual.data.readers.folders import read_origin
from perceptual.data.readers.stores import check_pixels, read_info, read_store
from perceptual.data.synthetic.making import make_items
from perceptual.data.synthetic.photographs import packaged
from perceptual.data.writers import stores as packing
from perceptual.data.writers.partial import state_of, working_on
from perceptual.data.writers.stores import write_store

HEADER = "ref,p0,p1,judge,votes,subset,split"
SUBSETS = ["train/mix", "val/cnn", "val/color"]


def pack(src: Path, dst: Path, size: int = 16, **settings):
    settings.setdefault("workers", 1)
    (half, table), *others = read_origin(src).items()
    assert not others
    return pack_table(table, dst / half, str(src), size, **settings)


@pytest.fixture
def root(tmp_path) -> Path:
    for seed, subset in enumerate(SUBSETS):
        write_subset(tmp_path / "bapps/2afc" / subset, 5 + seed, seed)
    return tmp_path / "bapps"


@pytest.fixture
def manifest(tmp_path) -> Path:
    rng = np.random.default_rng(0)
    rows = [
        (*rng.permutation(10)[:3], rng.integers(5) / 4, 4, "ab"[i % 2], ("train", "val")[i % 3 == 0])
        for i in range(60)
    ]
    return write_manifest(tmp_path / "set/t.csv", 10, rows, HEADER)


def batches(data, side: str) -> list:
    data.setup("fit")
    return list(data.train_dataloader() if side == "train" else data.val_dataloader())


def same_batches(one, other) -> bool:
    for side in ("train", "val"):
        for ours, theirs in zip(batches(one, side), batches(other, side), strict=True):
            assert equal(ours, theirs)
        assert one.fingerprint(side) == other.fingerprint(side)
    return one.val_set.table.subsets == other.val_set.table.subsets


@pytest.mark.parametrize("workers", [1, 3])
def test_store_of_a_folder_gives_the_same(root, tmp_path, workers, monkeypatch):
    monkeypatch.setattr(packing, "_CHUNK", 7)
    info = pack(root, tmp_path / "store", workers=workers)
    assert (info.items, info.images, info.kind, info.size) == (18, 54, "triplets", 16)
    assert info.subsets == {"train/mix": 5, "val/cnn": 6, "val/color": 7}
    choice = {"train_subsets": ["train/mix"], "val_subsets": ["val/color", "val/cnn"], "size": 16}
    folder = BAPPSDataModule(str(root), **choice)
    for path in (tmp_path / "store", tmp_path / "store/2afc"):
        assert same_batches(folder, BAPPSDataModule(str(path), **choice))


def test_store_of_a_manifest_gives_the_same_and_shares_images(manifest, tmp_path):
    info = pack(manifest, tmp_path / "store")
    assert (info.items, info.images) == (60, 10)
    one, other = (ManifestDataModule(str(path), size=16) for path in (manifest, tmp_path / "store"))
    assert same_batches(one, other)
    assert other.train_set.table.votes is not None
    text = manifest.read_text().replace(",train\n", "\n").replace(",val\n", "\n").replace(",split", "")
    (manifest.parent / "u.csv").write_text(text)
    pack(manifest.parent / "u.csv", tmp_path / "unsplit")
    one, other = (
        ManifestDataModule(str(p), val_fraction=0.5, size=16)
        for p in (manifest.parent / "u.csv", tmp_path / "unsplit")
    )
    assert same_batches(one, other)


def test_images_on_disk_have_the_same_fingerprint(root, monkeypatch):
    def fingerprint(size=16):
        data = ready(BAPPSDataModule(str(root), ["train/mix"], ["val/cnn"], size=size), "validate")
        return data.fingerprint()

    first = fingerprint()
    monkeypatch.setattr("perceptual.data.images.MEMORY_BUDGET", 0)
    assert fingerprint() == first
    assert fingerprint(24) != first
    np.save(root / "2afc/val/cnn/judge/000001.npy", np.array([0.25]))
    changed = fingerprint()
    assert changed != first
    Image.new("RGB", (24, 24)).save(root / "2afc/val/cnn/p1/000001.png")
    assert fingerprint() not in (first, changed)


def test_mapping_is_pickled_by_its_path(root, tmp_path):
    pack(root, tmp_path / "store")
    images = Pixels.mapped(tmp_path / "store/2afc")
    pickled = pickle.dumps(images)
    assert len(pickled) < 1000
    index = torch.tensor([3, 0, 3])
    assert torch.equal(pickle.loads(pickled).batch(index), images.batch(index))


def own_memory() -> int:
    """Bytes of this process that are not pages of a file."""
    return 1024 * int(re.search(r"RssAnon:\s+(\d+) kB", Path("/proc/self/status").read_text())[1])


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="memory is read as Linux tells it")
def test_memory_does_not_grow_with_the_images(tmp_path):
    count = 4000
    np.lib.format.open_memmap(tmp_path / "images.npy", "w+", np.uint8, (3 * count, 3, 64, 64))  # 147 MB
    np.lib.format.open_memmap(tmp_path / "digests.npy", "w+", np.uint8, (3 * count, 32))
    roles = dict(zip(("ref", "p0", "p1"), np.arange(3 * count).reshape(3, -1), strict=True))
    table = make_table(
        TWO_AFC,
        images=Pixels.mapped(tmp_path),
        **roles,
        judgment=np.zeros(count, np.float32),
        subset=np.zeros(count, np.int64),
        subsets=["all"],
    )
    dataset = JudgedDataset(table)
    list(loader(dataset, 50, 0, seed=0).sampler)  # what the first use of a loader takes
    before = own_memory()
    grown = max(
        own_memory() - before
        for batch in loader(dataset, 50, 0, seed=0)
        if batch.role("ref")[0, 0, 0, 0] == 0
    )
    assert grown < 60e6


def test_workers_read_a_store(root, tmp_path):
    pack(root, tmp_path / "store")
    choice = {"train_subsets": ["train/mix"], "val_subsets": ["val/cnn"], "size": 16}
    one, other = (BAPPSDataModule(str(tmp_path / "store"), **choice, num_workers=n) for n in (0, 2))
    assert same_batches(one, other)


def test_store_of_images_in_memory(tmp_path):
    table = make_items(TWO_AFC, packaged(), 12, 0, 32)
    info = write_store(table, tmp_path / "store", "photographs")
    read = read_store(tmp_path / "store")
    assert info.fingerprint == read.fingerprint() == table.fingerprint()
    with pytest.raises(ValueError, match="exists already"):
        write_store(table, tmp_path / "store", "photographs")


def test_votes_of_a_store_are_of_people(tmp_path):
    table = make_items(TWO_AFC, packaged(), 20, 0, 32)
    votes, first = table.votes.copy(), int(np.flatnonzero((table.answer > 0) & (table.answer < 1))[0])
    votes[first] = 4  # of five
    write_store(replace(table, votes=votes), tmp_path / "store", "photographs")
    with pytest.raises(
        ValueError, match=rf"judgment · votes must be a whole number .* 1 of 20 are not, .* item {first}"
    ):
        read_store(tmp_path / "store")


def test_bad_images_are_listed_completely_or_left_out(root, tmp_path):
    (root / "2afc/train").rename(tmp_path / "gone")
    cnn = root / "2afc/val/cnn"
    (cnn / "p0/000001.png").write_bytes((cnn / "p0/000001.png").read_bytes()[:300])
    (cnn / "ref/000004.png").write_bytes(b"")
    with pytest.raises(UnusableImages, match="2 of 39 images cannot be used") as error:
        pack(root, tmp_path / "store")
    assert [
        str(cnn / name) in problem
        for name, problem in zip(("ref/000004.png", "p0/000001.png"), error.value.problems, strict=True)
    ] == [True, True]
    assert not (tmp_path / "store/2afc").exists()
    info = pack(root, tmp_path / "store", skip_unusable=True)
    assert (info.items, info.images, len(info.skipped)) == (11, 33, 2)
    expected = read_folder(root / "2afc", ["val/cnn", "val/color"]).take(np.array([0, 2, 3, *range(5, 13)]))
    store = JudgedDataset(read_store(tmp_path / "store/2afc"))
    for row, batch in enumerate(store.__getitems__([i]) for i in range(11)):
        for role in ("ref", "p0", "p1"):
            path = expected.paths[expected.role(role)[row]]
            np.testing.assert_array_equal(batch.role(role)[0], plain(path, 16))
        assert batch.answer.item() == expected.answer[row]
    info = pack(root, tmp_path / "native", None, skip_unusable=True)
    assert (info.items, info.images, len(info.skipped)) == (11, 33, 2)
    native = read_store(tmp_path / "native/2afc")
    for ours, theirs in zip(native.items.T.ravel(), expected.items.T.ravel(), strict=True):
        shown = Image.open(expected.paths[theirs])
        np.testing.assert_array_equal(native.images.one(ours).permute(1, 2, 0), np.asarray(shown))


def test_bad_images_are_listed_in_order_by_any_number_of_workers(root, tmp_path, monkeypatch):
    monkeypatch.setattr(packing, "_CHUNK", 2)
    for path in root.rglob("p1/*.png"):
        path.write_text("an essay") if path.stem != "000003" else None
    stores = [tmp_path / f"store{workers}" for workers in (1, 4)]
    infos = [
        pack(root, store, skip_unusable=True, workers=n) for store, n in zip(stores, (1, 4), strict=True)
    ]
    assert (infos[0].items, len(infos[0].skipped)) == (3, 15)
    assert tree_bytes(stores[0]) == tree_bytes(stores[1])


def test_bad_images_are_tried_again(root, tmp_path):
    path = root / "2afc/val/cnn/p0/000001.png"
    good = path.read_bytes()
    path.write_bytes(good[:300])
    with pytest.raises(UnusableImages):
        pack(root, tmp_path / "store")
    path.write_bytes(good)
    pack(root, tmp_path / "store")
    pack(root, tmp_path / "direct")
    assert tree_bytes(tmp_path / "store") == tree_bytes(tmp_path / "direct")
    assert [entry.name for entry in (tmp_path / "store").iterdir()] == ["2afc"]


def test_all_items_bad(tmp_path):
    write_subset(tmp_path / "set/cnn", 1)
    (tmp_path / "set/cnn/p0/000000.png").write_text("an essay")
    with pytest.raises(ValueError, match="every item shows one of the 1 images that cannot be used"):
        pack(tmp_path / "set", tmp_path / "store", skip_unusable=True)


def test_packing_again(root, tmp_path):
    first = pack(root, tmp_path / "store")
    before = tree_bytes(tmp_path / "store")
    assert pack(root, tmp_path / "store") == first
    assert tree_bytes(tmp_path / "store") == before
    with pytest.raises(ValueError, match=r"is another store \(18 triplets at size 16, source: "):
        pack(root, tmp_path / "store", size=24)
    (tmp_path / "other/2afc").mkdir(parents=True)
    with pytest.raises(ValueError, match="exists already and is no store"):
        pack(root, tmp_path / "other")


def test_one_process_at_a_time(root, tmp_path):
    with (
        working_on(tmp_path / "store/2afc"),
        pytest.raises(ValueError, match="another process is writing"),
    ):
        pack(root, tmp_path / "store")


def test_size_of_a_store_is_fixed(root, tmp_path):
    pack(root, tmp_path / "store")
    with pytest.raises(ValueError, match=r"size=64, but the images are already open at 16 \(a store has"):
        BAPPSDataModule(str(tmp_path / "store"), ["train/mix"], ["val/cnn"]).setup()
    with pytest.raises(ValueError, match="no subset val/cnm; there are train/mix, val/cnn, val/color"):
        BAPPSDataModule(str(tmp_path / "store"), ["train/mix"], ["val/cnm"], size=16).setup()


def test_damaged_stores_are_refused(root, tmp_path):
    pack(root, tmp_path / "store")
    store = tmp_path / "store/2afc"

    def saved(array):
        return lambda data: _npy(array(np.load(io.BytesIO(data))))

    for name, spoil, message in [
        ("images.npy", lambda data: data[:-100], "is damaged, pack it again"),
        ("items.npy", lambda data: b"", "is damaged"),
        ("judgment.npy", lambda data: data[:60], "is damaged"),
        ("store.json", lambda data: b"{}", r"store\.json: version: Field required; pack it again"),
        ("store.json", lambda data: data.replace(b'"items": 18', b'"items": "18"'), r"items: .*got '18'"),
        ("store.json", lambda data: data.replace(b'"triplets"', b'"pears"'), r"kind: .*got 'pears'"),
        ("store.json", lambda data: data.replace(b'"val/cnn": 6', b'"val/cnn": {}'), r"subsets\.val/cnn: "),
        ("store.json", lambda data: b"[" * 100_000, "recursion|EOF|expected"),
        (
            "store.json",
            lambda data: data.replace(b'"version": 1', b'"version": 9'),
            "of format 9, this is for format 1",
        ),
        (
            "store.json",
            lambda data: data.replace(b'"items": 18', b'"items": 19'),
            r"items is \(3, 18\), not \(3, 19\)",
        ),
        ("images.npy", saved(lambda a: a.astype(np.float32)), "images is of type"),
        ("items.npy", saved(lambda a: a.astype(np.int32)), "items is of type int32"),
        *(
            (f"{name}.npy", saved(lambda a: a.astype(a.dtype.newbyteorder(">"))), f"{name} is of type >")
            for name in ("items", "judgment", "subset")
        ),
        ("items.npy", saved(lambda a: a + 54), "items has values out of their range"),
        ("items.npy", saved(lambda a: a[[0, 2, 1]]), "has not the fingerprint that is recorded"),
        ("judgment.npy", saved(lambda a: 1 - a), "has not the fingerprint"),
        ("judgment.npy", saved(lambda a: a + 1), "judgment has values out of their range"),
        ("judgment.npy", saved(lambda a: a * np.nan), "judgment has values out of their range"),
        ("subset.npy", saved(lambda a: a + 1), "subset has values out of their range"),
        ("digests.npy", saved(np.zeros_like), "has not the fingerprint"),
        ("digests.npy", saved(lambda a: a[:, :16]), r"digests is \(54, 16\)"),
        ("judgment.npy", lambda data: data.replace(b"(18,), ", b"(9999999999999,), "), "is damaged"),
        ("judgment.npy", lambda data: (store / "items.npy").read_bytes(), r"judgment is \(3, 18\)"),
    ]:
        good = (store / name).read_bytes()
        (store / name).write_bytes(spoil(good))
        with pytest.raises(ValueError, match=message):
            read_store(store)
        (store / name).write_bytes(good)
    assert len(read_store(store)) == read_info(store).items == 18


def _npy(array):
    file = io.BytesIO()
    np.save(file, array)
    return file.getvalue()


def test_what_the_fingerprint_leaves_out_is_checked(manifest, tmp_path):
    pack(manifest, tmp_path / "store")
    write_store(make_items(TWO_AFC, packaged(), 4, 3, 16), tmp_path / "made", "photographs")
    split = np.load(tmp_path / "store/split.npy")
    for other, message in [
        (split[::-1], "has not the beside that is recorded"),
        (np.full_like(split, "none"), "split has values out of their range"),
    ]:
        np.save(tmp_path / "store/split.npy", other)
        with pytest.raises(ValueError, match=message):
            read_store(tmp_path / "store")
    for store, name in ((tmp_path / "store", "split"), (tmp_path / "made", "made")):
        (store / f"{name}.npy").unlink()
        with pytest.raises(ValueError, match="has not the beside that is recorded"):
            read_store(store)
        record = json.loads((store / "store.json").read_text())
        del record["beside"]
        (store / "store.json").write_text(json.dumps(record))
        with pytest.raises(ValueError, match=r"store\.json.*beside"):
            read_store(store)


@pytest.mark.parametrize("size", [16, None], ids=["squares", "own sizes"])
def test_flipped_pixels_of_a_store_are_found(size, root, tmp_path):
    pack(root, tmp_path / "store", size)
    assert check_pixels(tmp_path / "store/2afc").images == 54
    table = read_store(tmp_path / "store/2afc")
    path = tmp_path / "store/2afc" / ("images.npy" if size else "pixels.npy")
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    with pytest.raises(ValueError, match=r"1 of 54 images in .* are not what was packed: 53"):
        check_pixels(tmp_path / "store/2afc")
    with pytest.raises(ValueError, match="are not what was packed: 53"):
        read_store(tmp_path / "store/2afc").images.checked(torch.tensor([2, 53]))
    table.images.checked(torch.tensor([2]))


def test_images_that_change_while_they_are_packed_are_noticed(root, tmp_path, monkeypatch):
    def lossy(partial, *rest):
        problems = decode(partial, *rest)
        np.lib.format.open_memmap(partial / "images.npy", mode="r+")[7, 0, 0, 0] ^= 1
        return problems

    decode = packing._decode
    monkeypatch.setattr(packing, "_decode", lossy)
    with pytest.raises(ValueError, match=r"1 of 54 images in .* are not what was packed: 7"):
        pack(root, tmp_path / "store")
    assert not (tmp_path / "store/2afc").exists()


def test_files_that_change_are_not_taken_for_what_they_were(root, monkeypatch):
    monkeypatch.setattr("perceptual.data.images.MEMORY_BUDGET", 0)
    for size in (16, None):
        data = ready(BAPPSDataModule(str(root), ["train/mix"], ["val/cnn"], size=size, num_workers=0))
        path = root / "2afc/train/mix/ref/000001.png"
        good = path.read_bytes()
        Image.new("RGB", (24, 24)).save(path)
        with pytest.raises(ValueError, match=r"ref/000001\.png \(changed since it was read first\)"):
            list(data.train_dataloader())
        path.write_bytes(good)
        list(data.train_dataloader())


def test_a_full_disk_is_an_error_before_anything_is_written(root, tmp_path, monkeypatch):
    def full(file, start, size):
        if size > 20_000:
            raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "posix_fallocate", full)
    with pytest.raises(OSError, match=r"No space left on device \(41,600 bytes are needed\).*images\.npy"):
        pack(root, tmp_path / "store")
    assert [path.name for path in (tmp_path / "store/2afc.partial").iterdir()] == [".perceptual"]


def test_origins_that_are_none(root, tmp_path):
    pack(root, tmp_path / "store")
    with pytest.raises(ValueError, match="is a store already"):
        read_origin(tmp_path / "store/2afc")
    with pytest.raises(FileNotFoundError, match="no file or folder"):
        read_origin(tmp_path / "nowhere")
    (tmp_path / "empty").mkdir()
    with pytest.raises(
        FileNotFoundError, match=r"no folder with ref, p0, p1, judge in .*empty holds nothing"
    ):
        read_origin(tmp_path / "empty")


@pytest.mark.parametrize("kills", [3, pytest.param(20, marks=pytest.mark.slow)])
@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")
def test_killed_at_any_moment(tmp_path, monkeypatch, kills):
    monkeypatch.setattr(packing, "_CHUNK", 8)
    for seed in range(2):
        write_subset(tmp_path / f"bapps/2afc/val/{'ab'[seed]}", 60, seed)
    source, store = tmp_path / "bapps", tmp_path / "store"
    (source / "2afc/val/a/p1/000010.png").write_text("an essay")  # so that the images kept move together

    def work():
        pack(source, store, 48, skip_unusable=True)

    start = time.perf_counter()
    pack(source, tmp_path / "whole", 48, skip_unusable=True)
    duration = time.perf_counter() - start
    expected, chance = tree_bytes(tmp_path / "whole"), random.Random(0)
    half_done = 0
    for _ in range(kills):
        run_and_kill(work, chance.uniform(0, duration))
        half_done += not (store / "2afc").exists()
        if (store / "2afc").exists():
            assert tree_bytes(store / "2afc") == {k.removeprefix("2afc/"): v for k, v in expected.items()}
            shutil.rmtree(store)
    assert half_done
    work()
    assert tree_bytes(store) == expected


def test_a_partial_store_of_changed_files_is_not_gone_on_with(root, tmp_path, monkeypatch):
    bad = root / "2afc/val/color/p1/000006.png"
    good = bad.read_bytes()
    monkeypatch.setattr(packing, "_CHUNK", 5)
    bad.write_text("an essay")
    with pytest.raises(UnusableImages):
        pack(root, tmp_path / "store")
    bad.write_bytes(good)
    Image.new("RGB", (24, 24), "red").save(root / "2afc/train/mix/ref/000000.png")
    pack(root, tmp_path / "store")
    table = read_store(tmp_path / "store/2afc")
    assert (table.images.batch(torch.tensor([0]))[0, 0] == 255).all()


def test_a_partial_store_with_damaged_images_is_mended(root, tmp_path, monkeypatch):
    bad = root / "2afc/val/color/p1/000006.png"
    good = bad.read_bytes()
    monkeypatch.setattr(packing, "_CHUNK", 5)
    bad.write_text("an essay")
    with pytest.raises(UnusableImages):
        pack(root, tmp_path / "store")
    partial = tmp_path / "store/2afc.partial"
    np.lib.format.open_memmap(partial / "images.npy", mode="r+")[2] = 0
    bad.write_bytes(good)
    plan = (partial / "plan").read_text().split()[0]
    (partial / "plan").write_text(f"{plan} {state_of(read_origin(root)['2afc'].paths)}")
    pack(root, tmp_path / "store")
    pack(root, tmp_path / "whole")
    assert tree_bytes(tmp_path / "store") == tree_bytes(tmp_path / "whole")
