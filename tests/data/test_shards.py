import gc
import json
import os

import numpy as np
import pytest
import torch
from judged import equal, ready

from perceptual.data import TWO_AFC, ManifestDataModule, read_store
from perceptual.data.readers.stores import is_store
from perceptual.data.synthetic.making import Making, make_store
from perceptual.data.synthetic.photographs import packaged
from perceptual.data.writers.shards import write_shards

COUNT = 40


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    folder = tmp_path_factory.mktemp("store") / "store"
    make_store(Making(TWO_AFC, packaged()[:3], COUNT, 1, 16), folder, "photographs")
    return folder


@pytest.fixture(scope="module")
def bucket():
    """An S3 on this machine, and a bucket in it."""
    pytest.importorskip("s3fs")
    server = pytest.importorskip("moto.server").ThreadedMotoServer(port=0)
    server.start()
    _, port = server.get_host_and_port()
    settings = {
        "AWS_ENDPOINT_URL": f"http://127.0.0.1:{port}",
        "AWS_ACCESS_KEY_ID": "a",
        "AWS_SECRET_ACCESS_KEY": "b",
        "AWS_DEFAULT_REGION": "us-east-1",
    }
    before = {name: os.environ.get(name) for name in settings}
    os.environ.update(settings)
    import s3fs

    files = s3fs.S3FileSystem()
    files.mkdir("judged")
    yield files
    for name, value in before.items():
        os.environ.pop(name) if value is None else os.environ.update({name: value})
    server.stop()


def batches(path, workers=0):
    data = ready(ManifestDataModule(str(path), "triplet", 0.3, size=16, batch_size=5, num_workers=workers))
    return data


def assert_same(path, store):
    ours, theirs = batches(path), batches(store)
    assert ours.fingerprint("train") == theirs.fingerprint("train")
    for a, b in zip(ours.train_dataloader(), theirs.train_dataloader(), strict=True):
        assert equal(a, b)
    table = read_store(str(path))
    np.testing.assert_array_equal(table.made, read_store(store).made)


def test_shards_give_the_tensors_of_the_store(store, tmp_path):
    write_shards(str(store), str(tmp_path / "shards"), 50)
    assert sorted(path.name for path in (tmp_path / "shards").glob("*.tar")) == [
        f"images-{number:06}.tar" for number in range(3)
    ]
    assert_same(tmp_path / "shards", store)


def test_an_epoch_is_resumed_from_shards_as_from_the_store(store, tmp_path):
    write_shards(str(store), str(tmp_path / "shards"), 7)
    whole = list(batches(store).train_dataloader())
    loader = batches(tmp_path / "shards").train_dataloader()
    iterator = iter(loader)
    next(iterator), next(iterator)
    state = loader.state_dict()
    again = batches(tmp_path / "shards").train_dataloader()
    again.load_state_dict(state)
    for ours, theirs in zip(again, whole[2:], strict=True):
        assert equal(ours, theirs)


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")  # it leaves files open
@pytest.mark.filterwarnings("ignore:unclosed file:ResourceWarning")
def test_webdataset_reads_the_shards(store, tmp_path):
    webdataset = pytest.importorskip("webdataset")
    write_shards(str(store), str(tmp_path / "shards"), 50)
    urls = sorted(map(str, (tmp_path / "shards").glob("*.tar")))
    found = [sample["npy"] for sample in webdataset.WebDataset(urls, shardshuffle=False).decode()]
    np.testing.assert_array_equal(np.stack(found), np.load(store / "images.npy"))
    gc.collect()


@pytest.mark.slow  # starts a server
def test_object_storage(store, bucket):
    bucket.put(str(store), "judged/store", recursive=True)  # the store as it is
    assert is_store("s3://judged/store")
    assert_same("s3://judged/store", store)
    write_shards(str(store), "s3://judged/shards", 50)
    assert_same("s3://judged/shards", store)
    write_shards("s3://judged/store", "s3://judged/again", 50)
    assert bucket.cat("judged/again/images-000001.tar") == bucket.cat("judged/shards/images-000001.tar")
    bucket.rm("judged/shards/images-000001.tar")
    bucket.invalidate_cache()
    with pytest.raises(ValueError, match=r"the shard s3://judged/shards/images-000001.tar is missing"):
        read_store("s3://judged/shards")


def test_interrupted_it_goes_on(store, tmp_path, monkeypatch):
    from perceptual.data.writers import shards

    write, written = shards._write_shard, []

    def failing(table, rows, path):
        if len(written) == 2:
            raise OSError(28, "No space left on device", path)
        written.append(path)
        return write(table, rows, path)

    monkeypatch.setattr(shards, "_write_shard", failing)
    with pytest.raises(OSError, match="No space left"):
        write_shards(str(store), str(tmp_path / "shards"), 30)
    assert not is_store(tmp_path / "shards")
    with pytest.raises(ValueError, match="holds part of the shards of another store"):
        write_shards(str(store), str(tmp_path / "shards"), 31)
    monkeypatch.setattr(shards, "_write_shard", write)
    before = (tmp_path / "shards/images-000001.tar").stat().st_mtime_ns
    write_shards(str(store), str(tmp_path / "shards"), 30)
    assert (tmp_path / "shards/images-000001.tar").stat().st_mtime_ns == before
    write_shards(str(store), str(tmp_path / "whole"), 30)
    for path in (tmp_path / "whole").iterdir():
        if path.name != "columns.npz":  # which holds the time it was written
            assert path.read_bytes() == (tmp_path / "shards" / path.name).read_bytes()


def test_shards_that_cannot_be_used(store, tmp_path):
    write_shards(str(store), str(tmp_path / "shards"), 50)
    with pytest.raises(ValueError, match="holds shards of another store"):
        write_shards(str(store), str(tmp_path / "shards"), 51)
    table = read_store(tmp_path / "shards")
    shard = tmp_path / "shards/images-000002.tar"
    content = shard.read_bytes()
    shard.unlink()
    with pytest.raises(ValueError, match=r"images-000002.tar is missing"):
        read_store(tmp_path / "shards")
    with pytest.raises(ValueError, match=r"images-000002.tar is missing"):
        table.images.batch(torch.tensor([3 * COUNT - 1]))
    shard.write_bytes(content[:-600])
    with pytest.raises(ValueError, match=rf"has {len(content) - 600} bytes, not {len(content)}"):
        read_store(tmp_path / "shards")
    (tmp_path / "shards/shards.json").write_text(json.dumps({"shards": []}))
    with pytest.raises(ValueError, match=r"shards\.json: store: Field required; pack it again"):
        read_store(tmp_path / "shards")
