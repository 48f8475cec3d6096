import numpy as np
import pytest
import torch
from trees import plain, write_pair_subset, write_subset

from perceptual.data import JNDDataModule, JudgedDataset, pack, read_pair_folder
from perceptual.data.readers.detect import read_origin


@pytest.fixture
def root(tmp_path):
    write_pair_subset(tmp_path / "jnd/val/traditional", 7, 0)
    write_pair_subset(tmp_path / "jnd/val/cnn", 5, 1)
    return tmp_path


def module(root, **settings) -> JNDDataModule:
    data = JNDDataModule(str(root), size=16, batch_size=4, **settings)
    data.setup("validate")
    return data


def test_batch_equals_plain_reading(root):
    dataset = JudgedDataset(read_pair_folder(root / "jnd", ["val/cnn"]).open(16))
    batch = dataset.__getitems__([3, 0])
    for role in ("p0", "p1"):
        files = [root / f"jnd/val/cnn/{role}/{i:06}.png" for i in (3, 0)]
        np.testing.assert_array_equal(batch.role(role), np.stack([plain(file, 16) for file in files]))
    torch.testing.assert_close(batch.answer, torch.tensor([1.0, 0.0]))
    assert dataset[3].role("p0").shape == (1, 3, 16, 16)


def test_all_subsets_or_those_chosen(root):
    data = module(root)
    batches = list(data.val_dataloader())
    assert data.val_set.table.subsets == ["cnn", "traditional"]
    assert [len(batch.answer) for batch in batches] == [4, 4, 4]
    assert torch.cat([batch.subset for batch in batches]).tolist() == [0] * 5 + [1] * 7
    assert data.describe() == f"{root}: 12 pairs (cnn, traditional)"
    assert module(root / "jnd", subsets=["val/traditional"]).val_set.table.subsets == ["traditional"]


def test_store_and_manifest_give_the_same(root):
    pack(read_origin(root)["jnd"], root / "store", str(root), 16, workers=1)
    table = read_pair_folder(root / "jnd", ["val/cnn", "val/traditional"])
    rows = [
        f"{table.paths[p0]},{table.paths[p1]},{same!r},{table.subsets[subset]}"
        for p0, p1, same, subset in zip(
            table.role("p0"), table.role("p1"), table.answer.tolist(), table.subset, strict=True
        )
    ]
    (root / "pairs.csv").write_text("\n".join(["p0,p1,same,subset", *rows]) + "\n")
    folder, store, manifest = (module(path) for path in (root, root / "store", root / "pairs.csv"))
    for other in (store, manifest):
        assert other.val_set.table.subsets == folder.val_set.table.subsets
        assert other.fingerprint() == folder.fingerprint()
        for ours, theirs in zip(folder.val_dataloader(), other.val_dataloader(), strict=True):
            assert torch.equal(ours.images, theirs.images)
            assert torch.equal(ours.answer, theirs.answer)
            assert torch.equal(ours.subset, theirs.subset)
    chosen = module(root / "store", subsets=["val/traditional"])
    assert chosen.fingerprint() == module(root, subsets=["val/traditional"]).fingerprint()
    assert chosen.fingerprint() != folder.fingerprint()


def test_wrong_arguments(root, tmp_path):
    for settings, message in [
        ({"size": 4}, "size must be at least 8"),
        ({"batch_size": 0}, "batch_size must be at least 1"),
        ({"num_workers": -1}, "num_workers must be at least 0"),
        ({"subsets": ["val/cnn", "train/cnn"]}, "whose names differ"),
        ({"subsets": []}, "must be a list of folders"),
    ]:
        with pytest.raises(ValueError, match=message):
            JNDDataModule(str(root), **settings)
    for call in ("val_dataloader", "describe", "fingerprint"):
        with pytest.raises(RuntimeError, match=r"call setup\(\) first"):
            getattr(JNDDataModule(str(root)), call)()
    with pytest.raises(FileNotFoundError, match=r"no folder .*jnd/val/cnm/p0"):
        module(root, subsets=["val/cnm"])
    with pytest.raises(FileNotFoundError, match="no manifest"):
        module(tmp_path / "nowhere")
    write_subset(tmp_path / "2afc/val/cnn", 2)
    pack(read_origin(tmp_path / "2afc")[""], tmp_path / "triplets", "", 16, workers=1)
    with pytest.raises(ValueError, match="is a store of triplets, not of pairs"):
        module(tmp_path / "triplets")
