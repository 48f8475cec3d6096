"""Trios, of which people said which image is odd: from every layout one table, else one line."""

import csv
import io

import numpy as np
import pytest
from PIL import Image
from trees import write_image

from perceptual.data import ODD_ONE_OUT, OddOneOutDataModule, pack, read_manifest
from perceptual.data.readers.folders import read_origin
from perceptual.data.readers.published import read_things
from perceptual.data.readers.stores import read_store
from perceptual.data.writers.folders import write_new

HEADER = ("a", "b", "c", "odd_a", "odd_b", "odd_c")
# people who chose each of the three images, whose numbers come first
ROWS = [(0, 1, 2, 0, 1, 3), (3, 1, 2, 4, 0, 0), (4, 5, 0, 1, 2, 1), (2, 3, 5, 0, 2, 2)]


@pytest.fixture
def images(tmp_path):
    for i in range(6):
        write_image(tmp_path / f"{i}.png", np.random.default_rng(i))
    return tmp_path


def write(path, rows, header=HEADER):
    with path.open("w", newline="") as file:
        csv.writer(file).writerows([header, *rows])
    return path


def named(row):
    return [*(f"{image}.png" for image in row[:3]), *row[3:]]


def test_counts_and_shares_with_votes_are_one_table(images):
    counts = read_manifest(write(images / "counts.csv", map(named, ROWS)), ODD_ONE_OUT)
    shares = [(*named(row)[:3], *(k / 4 for k in row[3:]), 4) for row in ROWS]
    with_votes = read_manifest(write(images / "shares.csv", shares, (*HEADER, "votes")), ODD_ONE_OUT)
    for table in (counts, with_votes):
        np.testing.assert_array_equal(table.answer, np.float32([row[3:] for row in ROWS]) / 4)
        assert table.votes.tolist() == [4, 4, 4, 4]
        assert table.answer.dtype == np.float32
    without = read_manifest(write(images / "no.csv", [row[:-1] for row in shares]), ODD_ONE_OUT)
    assert without.votes is None
    single = read_manifest(write(images / "one.csv", [(*shares[0][:3], 0, 1, 0)]), ODD_ONE_OUT)
    assert (single.answer.tolist(), single.votes) == ([[0, 1, 0]], None)


def test_folder_store_parquet_and_csv_have_one_fingerprint(images, tmp_path, monkeypatch):
    table = read_manifest(write(images / "set.csv", map(named, ROWS)), ODD_ONE_OUT)
    votes = table.votes
    opened = table.open(16)
    pack(table, tmp_path / "store", "here", size=16, workers=1)
    stored = read_store(tmp_path / "store", ODD_ONE_OUT)
    assert stored.fingerprint() == opened.fingerprint()
    np.testing.assert_array_equal(stored.answer, table.answer)
    write_new(opened, tmp_path / "folder/odd-one-out", "folder")
    modules = {
        place: OddOneOutDataModule(str(tmp_path / place), size=16, val_fraction=1)
        for place in ("set.csv", "store", "folder", "folder/odd-one-out")
    }
    pq = pytest.importorskip("pyarrow.parquet", reason="pyarrow is not installed")
    import pyarrow as pa

    rows = [
        {**{role: (images / f"{row[i]}.png").read_bytes() for i, role in enumerate("abc")}}
        | dict(zip(HEADER[3:], row[3:], strict=True))
        | {"subset": "set"}
        for row in ROWS
    ]
    monkeypatch.setenv("PERCEPTUAL_CACHE", str(tmp_path / "cache"))
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "set.parquet")
    modules["set.parquet"] = OddOneOutDataModule(str(tmp_path / "set.parquet"), size=16, val_fraction=1)
    found = {}
    for place, data in modules.items():
        data.setup("validate")
        assert data.describe().startswith(f"{tmp_path / place}: 4 validation trios")
        found[place] = data.fingerprint()
        np.testing.assert_array_equal(data.val_set.table.answer, table.answer)
    assert found["set.parquet"] == found["store"] == found["set.csv"]
    # a folder has no votes
    assert found["folder"] == found["folder/odd-one-out"] != found["set.csv"]
    assert votes.tolist() == [4, 4, 4, 4]
    assert [*read_origin(tmp_path / "folder")] == ["odd-one-out"]


WRONG = {
    "no sum": ([("0.png", "1.png", "2.png", 0.5, 0.25, 0.1)], "must be shares that sum to 1"),
    "fraction of counts": ([("0.png", "1.png", "2.png", 2, 1.5, 1)], "or, without votes, numbers of people"),
    "nobody": ([("0.png", "1.png", "2.png", 0, 0, 0)], "line 2 has '0'"),
    "negative": ([("0.png", "1.png", "2.png", -1, 1, 1)], "odd_a must be a number of at least 0"),
    "empty": ([("0.png", "1.png", "2.png", "", "", "")], "the column odd_c is empty"),
}


@pytest.mark.parametrize("name", WRONG)
def test_answers_that_are_no_shares_are_one_line(images, name):
    rows, said = WRONG[name]
    with pytest.raises(ValueError, match=said) as raised:
        read_manifest(write(images / "set.csv", rows), ODD_ONE_OUT)
    assert "\n" not in str(raised.value)


def test_folders_hold_three_numbers(images, tmp_path):
    for role in "abc":
        write_image(tmp_path / f"set/{role}/0.png", np.random.default_rng(1))
    (tmp_path / "set/odd").mkdir()
    for wrong in ([0.5, 0.5], [0.5, 0.5, 0.5], 1.0, [0.2, np.nan, 0.8]):
        np.save(tmp_path / "set/odd/0.npy", np.array(wrong))
        with pytest.raises(ValueError, match=r"1 of 1 odd files are not 3 numbers in \[0, 1\] that sum to 1"):
            read_origin(tmp_path / "set")


def test_which_is_better_is_refused(images, tmp_path):
    better = write(images / "better.csv", [("0.png", "1.png", 1)], ("p0", "p1", "judge"))
    with pytest.raises(
        ValueError, match=r"better\.csv has p0, p1 and judge but no ref: which of two images is"
    ):
        read_manifest(better)
    pq = pytest.importorskip("pyarrow.parquet", reason="pyarrow is not installed")
    import pyarrow as pa

    file = io.BytesIO()
    Image.new("RGB", (8, 8)).save(file, "PNG")
    rows = [{"p0": file.getvalue(), "p1": file.getvalue(), "judge": 1.0}]
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "better.parquet")
    from perceptual.data.readers.parquet import read_parquet

    with pytest.raises(ValueError, match="a question about quality, not about a distance"):
        read_parquet(str(tmp_path / "better.parquet"))


def things(folder, **lists):
    (folder / "images.txt").write_text("\n".join(f"{i}.png" for i in range(6)) + "\n")
    for name, text in lists.items():
        (folder / name.replace("_", ".")).write_text(text)
    return folder


def test_things_lists_numbers_with_the_odd_one_last(images):
    table = read_things(
        things(images, trainset_txt="2 0 1\n0 2 1\n1 2 0\n5 4 3\n", validationset_csv="p,q,odd\n0,1,2\n")
    )
    shown = [tuple(int(table.paths[i].rpartition("/")[2][0]) for i in item) for item in table.items.T]
    assert shown == [(0, 1, 2), (3, 4, 5), (0, 1, 2)]  # repeats of the first are votes
    np.testing.assert_allclose(table.answer, [[1 / 3, 2 / 3, 0], [1, 0, 0], [0, 0, 1]], atol=1e-6)
    assert table.votes.tolist() == [3, 1, 1]
    assert table.split.tolist() == ["train", "train", "val"]
    data = OddOneOutDataModule(str(images), size=16)
    data.setup("fit")
    assert (len(data.train_set), len(data.val_set)) == (2, 1)
    used = read_things(things(images, trainset_txt="1 2 5\n", validationset_csv="1 5 2\n"))
    assert [path.rpartition("/")[2] for path in used.paths] == ["1.png", "2.png", "5.png"]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("0 1 6\n", "from 0 to 5.*; 1 of 1 are not, the first is row 1: 0, 1, 6"),
        ("0 1 2\n3 3 1\n", "three different numbers.* row 2: 3, 3, 1"),
        ("0 1\n", "they have 2"),
        ("0 1 x\n0 1 2\n1 y 2\n", "odd one last"),
        ("0 1 1.5\n", "row 1: 0, 1, 1.5"),
    ],
)
def test_other_lists_are_one_line(images, text, said):
    with pytest.raises(ValueError, match=said) as raised:
        read_things(things(images, trainset_txt=text))
    assert "\n" not in str(raised.value)
    (images / "trainset.txt").unlink()
    with pytest.raises(FileNotFoundError, match="holds no list of trios"):
        read_things(images)
