import json
import os
import re
import signal
import time
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from killing import in_process

from perceptual.evaluation.results import FAILED, DataResults, Items, Result, find, publish, read
from perceptual.files.places import safe_name

METHODS = [f"method{i}" for i in range(30)]


def arrays(method, size=1000):
    rng = np.random.default_rng(int(method.removeprefix("method")))
    return {"d0": rng.random(size), "d1": rng.random(size)}


def write_all(folder, size=1000):
    results = DataResults(folder)
    for method in METHODS:
        results.write(Result(method, threads=os.getpid(), arrays=arrays(method, size)))


def check(folder):
    """Every result is whole and there once."""
    scored = DataResults(folder).all()
    names = [result.method for result in scored]
    assert len(set(names)) == len(names)
    for result in scored:
        expected = arrays(result.method, len(result.arrays["d0"]))
        np.testing.assert_array_equal(result.arrays["d0"], expected["d0"])
        np.testing.assert_array_equal(result.arrays["d1"], expected["d1"])
    return set(names)


def test_two_writers_at_once_lose_and_double_nothing(tmp_path):
    pids = [in_process(lambda: write_all(tmp_path)) for _ in range(3)]
    for pid in pids:
        os.waitpid(pid, 0)
    assert check(tmp_path) == set(METHODS)
    assert not list(tmp_path.rglob(".writing-*"))


@pytest.mark.parametrize("milliseconds", [0, 3, 10, 30, 60, 100])
def test_a_killed_writer_leaves_whole_results_or_none(tmp_path, milliseconds):
    pid = in_process(lambda: write_all(tmp_path, size=200_000))
    time.sleep(milliseconds / 1000)
    os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)
    before = check(tmp_path)
    write_all(tmp_path)
    assert check(tmp_path) == set(METHODS) >= before


def test_what_a_killed_writer_left_behind_is_no_result(tmp_path):
    results = DataResults(tmp_path)
    results.write(Result("l2", arrays={"d0": np.zeros(3)}))
    half = tmp_path / "scored" / ".writing-abc" / "whole"
    half.mkdir(parents=True)
    (half / "row.json").write_text('{"method": "l')
    assert [result.method for result in results.all()] == ["l2"]
    assert results.find("whole") is None


def test_threads_publish_one_folder_once(tmp_path):
    def write(i):
        return publish(tmp_path / "x", {"method": str(i)}, {"a": np.full(9, i)})

    with ThreadPoolExecutor(8) as pool:
        won = list(pool.map(write, range(40)))
    assert sum(won) == 1
    result = read(tmp_path / "x", Result)
    assert int(result.method) == won.index(True) == result.arrays["a"][0]


def test_a_failure_is_replaced_by_the_next_and_by_a_score(tmp_path):
    results = DataResults(tmp_path)
    results.write(Result("vgg16", "no weights"), FAILED)
    results.write(Result("vgg16", "no hub"), FAILED)
    assert [row.error for row in results.all(FAILED)] == ["no hub"]
    assert results.find("vgg16") is None
    results.write(Result("vgg16"))
    assert results.find("vgg16") == Result("vgg16")
    assert results.all(FAILED) == []
    results.write(Result("vgg16", "too late"), FAILED)
    assert results.all(FAILED) == []


def test_failures_written_at_once_disturb_neither_writers_nor_readers(tmp_path):
    results = DataResults(tmp_path)

    def write_and_read(i):
        results.write(Result("resnet18", f"reason {i}"), FAILED)
        return [row.method for row in results.all(FAILED)]

    with ThreadPoolExecutor(6) as pool:
        seen = list(pool.map(write_and_read, range(300)))
    assert all(methods in ([], ["resnet18"]) for methods in seen)  # none while one replaces it
    assert [row.method for row in results.all(FAILED)] == ["resnet18"]


@pytest.mark.parametrize(
    "method",
    [
        "alexnet-v0.1",
        "resnet18.tv_in1k",
        "runs/a b/last.ckpt@12ab",
        "..",
        "../x",
        "con",
        "nul.txt",
        "a.",
        "ResNet",
    ],
)
def test_folders_of_methods_are_distinct_names_in_place(method, tmp_path):
    name = safe_name(method)
    assert (tmp_path / name).resolve().parent == tmp_path.resolve()
    assert not name.startswith(".")
    assert name != safe_name(method + "x")
    # what Windows and macOS take for the same name, or for no name
    assert not name.endswith(".")
    assert name.partition(".")[0] not in ("con", "nul")
    assert method == method.lower() or name.lower() != safe_name(method.lower())
    DataResults(tmp_path).write(Result(method))
    assert [result.method for result in DataResults(tmp_path).all()] == [method]


@pytest.mark.parametrize(
    "change",
    [
        lambda row: row | {"seconds": 0.75},
        lambda row: row | {"seconds": "0.5"},
        lambda row: {key: value for key, value in row.items() if key != "seconds"},
        lambda row: {key: value for key, value in row.items() if key != "sha256"},
        lambda row: "[" * 100_000,
        lambda row: [row],
        lambda row: row | {"method": "ssim"},
    ],
)
def test_a_row_that_was_changed_is_refused(change, tmp_path):
    DataResults(tmp_path).write(Result("l2", seconds=0.5, arrays={"d0": np.zeros(3)}))
    path = tmp_path / "scored/l2/row.json"
    new = change(json.loads(path.read_text()))
    path.write_text(new if isinstance(new, str) else json.dumps(new))
    with pytest.raises(ValueError, match=r"scored/l2 was damaged or changed, remove it and evaluate again"):
        DataResults(tmp_path).all()
    with pytest.raises(ValueError, match="was damaged or changed"):
        DataResults(tmp_path).find("l2")


@pytest.mark.parametrize("method", ["ssim", "runs/a b/last.ckpt@12ab"])
def test_a_folder_with_the_result_of_another_method_is_named(method, tmp_path):
    results = DataResults(tmp_path)
    results.write(Result("l2", arrays={"d0": np.zeros(3)}))
    (tmp_path / "scored/l2").rename(tmp_path / "scored" / safe_name(method))
    said = f"scored/{safe_name(method)} holds the result of another method, 'l2'; remove it"
    for ask in (results.all, lambda: results.find(method)):
        with pytest.raises(ValueError, match=re.escape(said)):
            ask()
    (tmp_path / "scored").rename(tmp_path / "failed")
    with pytest.raises(ValueError, match=r"failed/\S+ holds the result of another method"):
        results.all(FAILED)


@pytest.mark.parametrize(
    ("field", "value"),
    [("scores", {"mean": "0.5"}), ("levels", [0.5]), ("method", None), ("conditions", {"blur": [None, "x"]})],
)
def test_a_field_of_another_type_is_named(field, value, tmp_path):
    publish(tmp_path / "scored/l2", {"method": "l2", field: value}, {})
    with pytest.raises(ValueError, match=rf"scored/l2 was damaged or changed.*{field}"):
        DataResults(tmp_path).find("l2")


def test_a_result_is_read_as_it_was_written(tmp_path):
    """With what JSON has no number for; what is not known is not written, and further fields are ignored."""
    one = Result("l2", scores={"mean": float("nan")}, trust={"order": [0.5, float("nan"), 1.0]}, settings={})
    row = one.row()
    assert set(row) == {"method", "scores", "trust", "settings"}
    publish(tmp_path / "scored/l2", row | {"version": 1}, {})
    assert repr(DataResults(tmp_path).find("l2")) == repr(one)


def test_arrays_that_were_changed_are_refused(tmp_path):
    DataResults(tmp_path).write(Result("l2", arrays={"d0": np.arange(3.0), "d1": np.ones(3)}))
    folder = tmp_path / "scored/l2"
    good = (folder / "d0.npy").read_bytes()
    for spoil in (
        lambda: np.save(folder / "d0.npy", np.arange(3.0) + 1e-9),
        lambda: np.save(folder / "d0.npy", np.arange(3, dtype=np.float32)),
        lambda: (folder / "d0.npy").write_bytes(good[:-4]),
        lambda: (folder / "d0.npy").write_bytes(b""),
        lambda: np.save(folder / "d2.npy", np.arange(3.0)),
        lambda: (folder / "d1.npy").rename(folder / "d0.npy"),
    ):
        spoil()
        with pytest.raises(ValueError, match="scored/l2 was damaged or changed"):
            DataResults(tmp_path).all()
        (folder / "d0.npy").write_bytes(good)
        np.save(folder / "d1.npy", np.ones(3))
        (folder / "d2.npy").unlink(missing_ok=True)
        assert len(DataResults(tmp_path).all()) == 1


def test_all_sets_of_results_in_a_folder_are_found(tmp_path):
    for name in ("one", "two"):
        DataResults(tmp_path / name).write_items(Items("2afc", name, name, "", 8, ["all"], [0]))
    assert sorted(results.items().name for results in find(tmp_path)) == ["one", "two"]
    assert json.loads((tmp_path / "one/items/row.json").read_text())["kind"] == "2afc"
    with pytest.raises(FileNotFoundError, match="no results in"):
        find(tmp_path / "three")
