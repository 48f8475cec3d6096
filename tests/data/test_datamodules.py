import os
from dataclasses import replace
from pathlib import Path

import app
import numpy as np
import pytest
import pytorch_lightning as pl
import torch
from judged import ready
from pytorch_lightning.demos.boring_classes import BoringModel
from trees import write_manifest, write_pair_subset, write_subset

from perceptual.data import (
    JND,
    BAPPSDataModule,
    JNDDataModule,
    ManifestDataModule,
    PhotosDataModule,
    decode,
    images,
    pack,
    read_folder,
)
from perceptual.data.readers.folders import read_origin

HEADER = "ref,p0,p1,judge,votes"


@pytest.fixture
def root(tmp_path) -> Path:
    for seed, (subset, count) in enumerate(
        [("train/traditional", 6), ("train/mix", 5), ("val/cnn", 7), ("val/color", 4)]
    ):
        write_subset(tmp_path / "2afc" / subset, count, seed)
    return tmp_path


@pytest.fixture
def manifest(tmp_path) -> Path:
    rng = np.random.default_rng(0)
    rows = [(*rng.permutation(10)[:3], rng.integers(5) / 4, 4) for _ in range(200)]
    return write_manifest(tmp_path / "t.csv", 10, rows, HEADER)


def bapps(root: Path, **settings) -> BAPPSDataModule:
    return BAPPSDataModule(
        str(root),
        ["train/traditional", "train/mix"],
        ["val/cnn", "val/color"],
        size=16,
        batch_size=4,
        **settings,
    )


def order(loader) -> list[float]:
    return [value for batch in loader for value in batch.role("ref")[:, 0, 0, 0].tolist()]


def test_bapps(root):
    data = ready(bapps(root))
    assert data.val_set.table.subsets == ["cnn", "color"]
    val = list(data.val_dataloader())
    assert torch.cat([batch.subset for batch in val]).tolist() == [0] * 7 + [1] * 4
    train = list(data.train_dataloader())
    assert torch.cat([batch.subset for batch in train]).tolist() == [-1] * 11
    assert [len(batch.role("ref")) for batch in train] == [4, 4, 3]
    assert data.describe() == (
        f"{root}: 11 training and 11 validation triplets, "
        "split by folder (train/traditional, train/mix; val/cnn, val/color)"
    )


def test_jnd_pairs_beside_the_triplets_are_found(root, tmp_path):
    write_pair_subset(root / "jnd/val/cnn", 6)
    data = ready(bapps(root), None)
    triplets, pairs = data.val_dataloader()
    assert data.val_sets[1].table.subsets == ["cnn"]
    assert sum(len(batch.role("ref")) for batch in triplets) == 11
    assert [len(batch.answer) for batch in pairs] == [4, 2]
    assert data.describe().endswith("; 6 JND pairs")

    write_pair_subset(tmp_path / "elsewhere/val/traditional", 3)
    data = ready(bapps(root, jnd=str(tmp_path / "elsewhere")), None)
    assert data.val_sets[1].table.subsets == ["traditional"]


def test_root_may_be_the_folder_itself(root):
    data = ready(bapps(root / "2afc"), "validate")
    assert len(data.val_set) == 11


def test_validation_needs_no_training_folder(root):
    (root / "2afc/train").rename(root / "gone")
    data = ready(bapps(root), "validate")
    assert data.describe().startswith(f"{root}: 11 validation triplets")
    with pytest.raises(RuntimeError, match="setup"):
        data.train_dataloader()
    with pytest.raises(FileNotFoundError, match=r"no folder .*train/traditional/ref"):
        data.setup("fit")


def test_setup_reads_once(root):
    data = ready(bapps(root), "validate")
    val = data.val_set
    data.setup("fit")
    train = data.train_set
    data.setup("fit")
    assert (data.val_set, data.train_set) == (val, train)


def test_before_setup(root):
    data = bapps(root)
    calls = [lambda side=side: data.fingerprint(side) for side in ("train", "val")]
    for call in (*calls, data.train_dataloader, data.val_dataloader, data.describe):
        with pytest.raises(RuntimeError, match="call setup"):
            call()


@pytest.mark.parametrize("split_by", ["image", "triplet"])
def test_manifest_split(manifest, split_by):
    data = ready(ManifestDataModule(str(manifest), split_by, size=16))
    train, val = data.train_set.table, data.val_set.table
    shared = {*train.role("ref"), *train.role("p0"), *train.role("p1")} & {
        *val.role("ref"),
        *val.role("p0"),
        *val.role("p1"),
    }
    assert bool(shared) == (split_by == "triplet")
    left_out = 200 - len(train) - len(val)
    said = {
        "image": f"split by image (no image on both sides; {left_out} straddling rows left out)",
        "triplet": "split by triplet (images are on both sides)",
    }
    assert (
        data.describe()
        == f"{manifest}: {len(train)} training and {len(val)} validation triplets, {said[split_by]}"
    )
    assert left_out == 0 or split_by == "image"
    assert data.val_set.table.subsets == ["t"]


def test_manifest_opens_each_image_once(manifest, monkeypatch):
    opened = []
    real = decode.read_rgb
    monkeypatch.setattr(decode, "read_rgb", lambda path: opened.append(path) or real(path))
    data = ready(ManifestDataModule(str(manifest), "triplet", size=16), "validate")
    data.setup("fit")
    list(data.train_dataloader())
    list(data.val_dataloader())
    assert sorted(opened) == sorted(str(manifest.parent / f"img/{i}.png") for i in range(10))


def test_all_of_a_manifest_may_be_scored(manifest):
    data = ready(ManifestDataModule(str(manifest), val_fraction=1, size=16), "validate")
    assert len(data.val_set) == 200


def test_split_seed_is_apart_from_seed(manifest):
    def chosen(**seeds):
        data = ready(ManifestDataModule(str(manifest), size=16, **seeds), "validate")
        return data.val_set.table.role("ref").tolist()

    assert chosen() == chosen(seed=7)
    assert chosen() != chosen(split_seed=7)


def test_manifest_follows_its_own_split(tmp_path):
    splits = ["train"] * 5 + ["val"] * 3 + ["test"] * 2
    subsets = ["a"] * 6 + ["b"] * 4
    rows = [(0, 1, 2, 0.5, *extra) for extra in zip(subsets, splits, strict=True)]
    path = write_manifest(tmp_path / "t.csv", 3, rows, "ref,p0,p1,judge,subset,split")
    data = ready(ManifestDataModule(str(path), size=16))
    assert (len(data.train_set), len(data.val_set), data.val_set.table.subsets) == (5, 3, ["a", "b"])
    assert data.describe().endswith("split by the manifest's own column (2 test rows left out)")


def test_triplets_of_few_votes_are_left_out_of_a_manifest_if_asked(tmp_path):
    rows = [
        (0, 1, 2, 0.5, 2, "train"),
        (0, 2, 1, 1, 6, "train"),
        (2, 1, 0, 0, 7, "val"),
        (1, 3, 0, 1, 1, "val"),
    ]
    path = write_manifest(tmp_path / "t.csv", 3, rows, "ref,p0,p1,judge,votes,split")  # without 3.png
    data = ready(ManifestDataModule(str(path), size=16, min_votes=6))
    assert (data.train_set.table.votes.tolist(), data.val_set.table.votes.tolist()) == ([6], [7])
    assert data.describe().startswith(f"{path}, triplets of at least 6 votes: 1 training and 1 validation ")
    kept = write_manifest(tmp_path / "kept.csv", 0, rows[1:3], "ref,p0,p1,judge,votes,split")
    same = ready(ManifestDataModule(str(kept), size=16))
    assert same.describe().startswith(f"{kept}: ")
    for side in ("train", "val"):
        same_rows = replace(getattr(same, f"{side}_set").table, subsets=["t"])
        assert data.fingerprint(side) == same_rows.fingerprint()
    path.write_text("ref,p0,p1,judge\nimg/0.png,img/1.png,img/2.png,1\n")
    with pytest.raises(ValueError, match="min_votes=6 needs the votes of each item, which are not recorded"):
        ManifestDataModule(str(path), size=16, min_votes=6).setup()


def test_nights_follows_the_rule_of_its_authors(tmp_path):
    header = "left_vote,right_vote,votes,ref_path,left_path,right_path,split"
    write_manifest(tmp_path / "t.csv", 3, [], "")
    images = "img/0.png,img/1.png,img/2.png"
    rows = [f"1,0,{votes},{images},{split}" for votes in (5, 6) for split in ("train", "val")]
    (tmp_path / "data.csv").write_text("\n".join([header, *rows]))
    data = ready(ManifestDataModule(str(tmp_path), size=16))
    assert data.describe().startswith(
        f"{tmp_path}, triplets of at least 6 votes: 1 training and 1 validation "
    )
    pack(read_origin(tmp_path)[""], tmp_path / "store", str(tmp_path), 16, workers=1)
    packed = ready(ManifestDataModule(str(tmp_path / "store"), size=16))
    assert packed.fingerprint() == data.fingerprint()
    every = ready(ManifestDataModule(str(tmp_path), size=16, min_votes=1))
    assert every.describe().startswith(f"{tmp_path}: 2 training and 2 validation ")


def test_manifest_split_column_without_validation(tmp_path):
    path = write_manifest(tmp_path / "t.csv", 3, [(0, 1, 2, 0.5, "train")], "ref,p0,p1,judge,split")
    with pytest.raises(ValueError, match="needs rows of train and of val"):
        ManifestDataModule(str(path), size=16).setup("fit")


def test_only_validation_subsets_are_scored(tmp_path):
    rows = [(0, 1, 2, 0.5, "a", "train"), (0, 1, 2, 0.5, "b", "val"), (0, 1, 2, 0.5, "b", "train")]
    path = write_manifest(tmp_path / "t.csv", 3, rows, "ref,p0,p1,judge,subset,split")
    data = ready(ManifestDataModule(str(path), size=16))
    assert data.val_set.table.subsets == ["b"]
    assert "split by the manifest's own column" in data.describe()
    assert "left out" not in data.describe()
    assert data.train_set.table.subset.tolist() == [-1, 0]


def test_votes_weight_training_only(manifest):
    text = manifest.read_text().splitlines()
    manifest.write_text(
        "\n".join([text[0]] + [f"{line[:-1]}{4 * (1 + i % 9)}" for i, line in enumerate(text[1:])])
    )
    data = ready(ManifestDataModule(str(manifest), "triplet", size=16, weight_by_votes=True))
    train = torch.cat([batch.weight for batch in data.train_dataloader()])
    assert train.std() > 0.1
    assert train.mean().item() == pytest.approx(1, abs=1e-5)
    assert all((batch.weight == 1).all() for batch in data.val_dataloader())


def test_photos():
    data = ready(PhotosDataModule(40, 30, size=16))
    assert (len(data.train_set), len(data.val_set)) == (40, 30)
    assert data.val_set.table.subsets == ["traditional", "severity", "cnn", "mix"]
    assert np.bincount(data.val_set.table.subset).tolist() == [8, 8, 7, 7]
    families = [row.decode() for row in data.train_set.table.made]
    assert [("cnn/" in row, "nuisance/" in row) for row in (families[0], families[10], families[20])] == [
        (False, False),
        (False, True),
        (True, False),
    ]
    assert data.describe() == (
        "photographs of scikit-image, judged by a simulated observer, not people: "
        "40 training and 30 validation triplets, split by photograph"
    )


def test_order_depends_on_seed_and_epoch_only(root):
    def orders(seed, workers=0):
        torch.manual_seed(np.random.default_rng().integers(1000))
        data = ready(bapps(root, seed=seed, num_workers=workers))
        loader = data.train_dataloader()
        epochs = []
        for epoch in (0, 1):
            loader.sampler.set_epoch(epoch)
            epochs.append(order(loader))
        return epochs

    first, second = orders(0)
    assert sorted(first) == sorted(second)
    assert first != second
    assert orders(0) == [first, second]
    assert orders(0, workers=1) == [first, second]
    assert orders(1) != [first, second]


def test_loading_leaves_the_global_generator_alone(root):
    data = ready(bapps(root))
    state = torch.get_rng_state()
    list(data.train_dataloader())
    list(data.val_dataloader())
    assert torch.equal(torch.get_rng_state(), state)


def test_workers(root, monkeypatch):
    data = ready(bapps(root))
    assert data.train_dataloader().num_workers == 0
    monkeypatch.setattr(images, "MEMORY_BUDGET", 0)
    data = ready(bapps(root))
    assert data.train_dataloader().num_workers == min(4, os.cpu_count())


@pytest.mark.filterwarnings("ignore:.*does not have many workers")
def test_lightning_reshuffles_each_epoch(root):
    class Recorder(BoringModel):
        seen: list

        def __init__(self):
            super().__init__()
            self.seen = [[], []]

        def training_step(self, batch, batch_idx):
            self.seen[self.current_epoch].extend(batch.role("ref")[:, 0, 0, 0].tolist())
            return self.layer.weight.sum()

        def validation_step(self, batch, batch_idx):
            pass

    data, model = bapps(root), Recorder()
    trainer = pl.Trainer(
        accelerator="cpu",
        max_epochs=2,
        log_every_n_steps=1,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    trainer.fit(model, data)
    sampler = data.train_dataloader().sampler
    values = data.train_set.__getitems__(range(11)).role("ref")[:, 0, 0, 0]
    for epoch in (0, 1):
        sampler.set_epoch(epoch)
        assert model.seen[epoch] == values[np.concatenate(list(sampler))].tolist()


@pytest.mark.parametrize(
    ("module", "settings", "message"),
    [
        (ManifestDataModule, {"split_by": "row"}, "split_by must be one of image, triplet, condition, "),
        (ManifestDataModule, {"val_split": "train"}, "val_split must be one of val, test, got 'train'"),
        (ManifestDataModule, {"val_fraction": 1.1}, r"val_fraction must be in \(0, 1\], got 1.1"),
        (ManifestDataModule, {"val_fraction": float("nan")}, "val_fraction must be in"),
        (ManifestDataModule, {"batch_size": 0}, "batch_size must be at least 1, got 0"),
        (ManifestDataModule, {"num_workers": -1}, "num_workers must be at least 0, got -1"),
        (ManifestDataModule, {"size": 0}, "size must be at least 8, got 0"),
        (ManifestDataModule, {"seed": -1}, "seed must be at least 0"),
        (ManifestDataModule, {"split_seed": -1}, "split_seed must be at least 0"),
        (ManifestDataModule, {"min_votes": 0}, "min_votes must be at least 1, got 0"),
        (PhotosDataModule, {"count_train": 0}, "count_train must be at least 1, got 0"),
        (PhotosDataModule, {"count_val": 0}, "count_val must be at least 1, got 0"),
        (JNDDataModule, {"size": 4}, "size must be at least 8"),
        (JNDDataModule, {"batch_size": 0}, "batch_size must be at least 1"),
        (JNDDataModule, {"num_workers": -1}, "num_workers must be at least 0"),
        *(
            (module, {name: subsets}, "subsets must be a list of folders whose names differ")
            for subsets in ([], "val/cnn", ["val/cnn", "train/cnn"])
            for module, name in (
                (BAPPSDataModule, "train_subsets"),
                (BAPPSDataModule, "val_subsets"),
                (JNDDataModule, "subsets"),
            )
        ),
    ],
)
def test_wrong_arguments_raise_at_construction(module, settings, message):
    where = () if module is PhotosDataModule else ("nowhere",)
    with pytest.raises(ValueError, match=message):
        module(*where, **settings)


def test_rows_of_test_may_judge(tmp_path):
    path = app.write_manifest(tmp_path / "set", rows=16)
    lines = path.read_text().splitlines()
    path.write_text("\n".join(line.replace(",val", ",test") for line in lines))
    with pytest.raises(ValueError, match="the split column needs rows of train and of val"):
        ManifestDataModule(str(path), size=32).setup("fit")
    data = ready(ManifestDataModule(str(path), size=32, val_split="test"))
    assert (len(data.train_set), len(data.val_set)) == (12, 4)
    path.write_text("\n".join(line.rpartition(",")[0] for line in lines))
    with pytest.raises(ValueError, match="no split column, so there are no rows of test"):
        ManifestDataModule(str(path), size=32, val_split="test").setup("fit")


@pytest.fixture
def pairs(tmp_path):
    write_pair_subset(tmp_path / "jnd/val/traditional", 7, 0)
    write_pair_subset(tmp_path / "jnd/val/cnn", 5, 1)
    return tmp_path


def jnd(root, **settings) -> JNDDataModule:
    data = ready(JNDDataModule(str(root), size=16, batch_size=4, **settings), "validate")
    return data


def test_all_subsets_or_those_chosen(pairs):
    data = jnd(pairs)
    batches = list(data.val_dataloader())
    assert data.val_set.table.subsets == ["cnn", "traditional"]
    assert [len(batch.answer) for batch in batches] == [4, 4, 4]
    assert torch.cat([batch.subset for batch in batches]).tolist() == [0] * 5 + [1] * 7
    assert data.describe() == f"{pairs}: 12 pairs (cnn, traditional)"
    assert jnd(pairs / "jnd", subsets=["val/traditional"]).val_set.table.subsets == ["traditional"]


def test_store_and_manifest_give_the_same(pairs):
    pack(read_origin(pairs)["jnd"], pairs / "store", str(pairs), 16, workers=1)
    table = read_folder(pairs / "jnd", ["val/cnn", "val/traditional"], JND)
    rows = [
        f"{table.paths[p0]},{table.paths[p1]},{same!r},{table.subsets[subset]}"
        for p0, p1, same, subset in zip(
            table.role("p0"), table.role("p1"), table.answer.tolist(), table.subset, strict=True
        )
    ]
    (pairs / "pairs.csv").write_text("\n".join(["p0,p1,same,subset", *rows]) + "\n")
    folder, store, manifest = (jnd(path) for path in (pairs, pairs / "store", pairs / "pairs.csv"))
    for other in (store, manifest):
        assert other.val_set.table.subsets == folder.val_set.table.subsets
        assert other.fingerprint() == folder.fingerprint()
        for ours, theirs in zip(folder.val_dataloader(), other.val_dataloader(), strict=True):
            assert torch.equal(ours.images, theirs.images)
            assert torch.equal(ours.answer, theirs.answer)
            assert torch.equal(ours.subset, theirs.subset)
    chosen = jnd(pairs / "store", subsets=["val/traditional"])
    assert chosen.fingerprint() == jnd(pairs, subsets=["val/traditional"]).fingerprint()
    assert chosen.fingerprint() != folder.fingerprint()


def test_pairs_that_are_not_there(pairs, tmp_path):
    for call in ("val_dataloader", "describe", "fingerprint"):
        with pytest.raises(RuntimeError, match=r"call setup\(\) first"):
            getattr(JNDDataModule(str(pairs)), call)()
    with pytest.raises(FileNotFoundError, match=r"no folder .*jnd/val/cnm/p0"):
        jnd(pairs, subsets=["val/cnm"])
    with pytest.raises(FileNotFoundError, match="no manifest"):
        jnd(tmp_path / "nowhere")
    write_subset(tmp_path / "2afc/val/cnn", 2)
    pack(read_origin(tmp_path / "2afc")[""], tmp_path / "triplets", "", 16, workers=1)
    with pytest.raises(ValueError, match="is a store of triplets, not of pairs"):
        jnd(tmp_path / "triplets")
