import os
from pathlib import Path

import numpy as np
import pytest
from trees import write_manifest, write_subset

from perceptual.data import read_folder, read_manifest

HEADER = "ref,p0,p1,judge"


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    write_subset(tmp_path / "val/cnn", 7)
    write_subset(tmp_path / "val/color", 4)
    return tmp_path


def test_folder_joins_by_stem(tree):
    table = read_folder(tree, ["val/cnn", "val/color"])
    assert (len(table), table.subsets, len(table.images)) == (11, ["cnn", "color"], 33)
    assert table.subset.tolist() == [0] * 7 + [1] * 4
    for row in range(11):
        ref, p0, p1 = (Path(table.images[column[row]]) for column in (table.ref, table.p0, table.p1))
        assert [path.parent.name for path in (ref, p0, p1)] == ["ref", "p0", "p1"]
        assert ref.stem == p0.stem == p1.stem
        judge = np.load(ref.parents[1] / "judge" / f"{ref.stem}.npy").item()
        assert table.judgment[row] == np.float32(judge)


def test_folder_ignores_hidden_files(tree):
    (tree / "val/cnn/ref/.DS_Store").write_bytes(b"x")
    assert len(read_folder(tree, ["val/cnn"])) == 7


@pytest.mark.parametrize("role", ["ref", "p0", "p1", "judge"])
def test_folder_without_a_role_is_named(tree, role):
    (tree / "val/cnn" / role).rename(tree / "elsewhere")
    with pytest.raises(FileNotFoundError, match=rf"no folder .*cnn/{role}; .*cnn holds"):
        read_folder(tree, ["val/cnn"])


def test_absent_subset_lists_what_is_there(tree):
    with pytest.raises(FileNotFoundError, match=r"no folder .*val/cnm/ref; .*val holds cnn, color"):
        read_folder(tree, ["val/cnm"])


def test_one_missing_file_shifts_nothing(tree):
    (tree / "val/cnn/p1/000003.png").unlink()
    (tree / "val/cnn/judge/000005.npy").unlink()
    with pytest.raises(
        ValueError,
        match=r"2 of 7 stems are incomplete \(7 in ref, 7 in p0, 6 in p1, 6 in judge\): "
        r"000003 \(not in p1\), 000005 \(not in judge\)",
    ):
        read_folder(tree, ["val/cnn"])


def test_empty_subset(tmp_path):
    for role in ("ref", "p0", "p1", "judge"):
        (tmp_path / "cnn" / role).mkdir(parents=True)
    with pytest.raises(ValueError, match="is empty"):
        read_folder(tmp_path, ["cnn"])


def test_stem_twice(tree):
    os.link(tree / "val/cnn/ref/000001.png", tree / "val/cnn/ref/000001.jpg")
    with pytest.raises(ValueError, match=r"1 stems occur twice: .*000001"):
        read_folder(tree, ["val/cnn"])


@pytest.mark.parametrize(
    "judgment",
    [np.array([np.nan]), np.array([1.2]), np.array([-0.1]), np.array([0.5, 0.5]), np.array(["much"])],
)
def test_folder_judgments_that_are_none(tree, judgment):
    np.save(tree / "val/cnn/judge/000002.npy", judgment)
    with pytest.raises(ValueError, match=r"1 of 7 judgments are not one number in \[0, 1\]: .*000002.npy"):
        read_folder(tree, ["val/cnn"])


@pytest.mark.parametrize("content", [b"", b"0.5", b"\x93NUMPY\x01\x00"])
def test_folder_judgment_files_that_are_broken(tree, content):
    (tree / "val/cnn/judge/000002.npy").write_bytes(content)
    with pytest.raises(ValueError, match=r"1 of 7 judgments .*000002.npy"):
        read_folder(tree, ["val/cnn"])


def test_folder_judgments_do_not_unpickle(tree):
    np.save(tree / "val/cnn/judge/000002.npy", np.array([{"a": 1}], object), allow_pickle=True)
    with pytest.raises(ValueError, match="1 of 7 judgments"):
        read_folder(tree, ["val/cnn"])


def test_subsets_of_one_name_are_refused(tree):
    with pytest.raises(ValueError, match="names differ"):
        read_folder(tree, ["val/cnn", "train/cnn"])


def test_manifest_shares_images(tmp_path):
    rows = [(0, 1, 2, 0.25, 4, "a"), (0, 2, 1, 0.75, 2, "b"), (3, 1, 2, 1, 1, "a")]
    table = read_manifest(write_manifest(tmp_path / "t.csv", 4, rows, HEADER + ",votes,subset"))
    assert [Path(path).stem for path in table.images] == ["0", "3", "1", "2"]
    assert [table.images[i] for i in table.p0] == [str(tmp_path / f"img/{i}.png") for i in (1, 2, 1)]
    np.testing.assert_array_equal(table.judgment, np.float32([0.25, 0.75, 1]))
    np.testing.assert_array_equal(table.votes, np.float32([4, 2, 1]))
    assert ([table.subsets[i] for i in table.subset], table.split) == (["a", "b", "a"], None)


def test_manifest_without_subset_is_named_by_its_stem(tmp_path):
    table = read_manifest(write_manifest(tmp_path / "choices.csv", 3, [(0, 1, 2, 0.5)], HEADER))
    assert (table.subsets, table.votes) == (["choices"], None)


def test_manifest_takes_what_spreadsheets_write(tmp_path):
    (tmp_path / "t.csv").write_bytes(b'\xef\xbb\xbfref,p0,p1,judge\r\n"a b.png",b.png,./b.png, 0.5\r\n\r\n')
    table = read_manifest(tmp_path / "t.csv")
    assert [Path(path).name for path in table.images] == ["a b.png", "b.png"]


@pytest.mark.parametrize("cell", ["nan", "1.2", "-0.1", "much", "", "inf"])
def test_manifest_judgments_that_are_none(tmp_path, cell):
    path = write_manifest(tmp_path / "t.csv", 0, [(0, 1, 2, 0.5), (0, 1, 2, cell)], HEADER)
    with pytest.raises(
        ValueError, match=rf"judge must be a number in \[0, 1\]; 1 of 2 are not: line 3 has '{cell}'"
    ):
        read_manifest(path)


def test_manifest_lists_first_offenders_and_counts_all(tmp_path):
    path = write_manifest(tmp_path / "t.csv", 0, [(0, 1, 2, 2)] * 9, HEADER)
    with pytest.raises(ValueError, match=r"9 of 9 are not: line 2 has '2', .*line 6 has '2' and 4 more$"):
        read_manifest(path)


@pytest.mark.parametrize(
    ("header", "row", "message"),
    [
        ("ref,p0,p1", (0, 1, 2), "columns must be ref, p0, p1, judge and may be votes, subset, split"),
        (HEADER + ",vote", (0, 1, 2, 0.5, 4), "the header has ref, p0, p1, judge, vote"),
        (HEADER + ",judge", (0, 1, 2, 0.5, 0.5), "the header has"),
        (HEADER + ",votes", (0, 1, 2, 0.5, 0), "votes must be a number of at least 1"),
        (HEADER + ",votes", (0, 1, 2, 0.5), "1 rows have not 5 cells: line 2 has 4"),
        (HEADER + ",split", (0, 1, 2, 0.5, "valid"), "split must be one of train, val, test; 1 of 1 are not"),
    ],
)
def test_manifest_columns_are_checked(tmp_path, header, row, message):
    with pytest.raises(ValueError, match=message):
        read_manifest(write_manifest(tmp_path / "t.csv", 0, [row], header))


def test_manifest_that_is_none(tmp_path):
    path = tmp_path / "t.csv"
    with pytest.raises(FileNotFoundError, match="no manifest"):
        read_manifest(path)
    for content, message in [
        (b"", "has none"),
        (HEADER.encode(), "holds no triplets"),
        (b"\xff\xfe", "not a CSV"),
    ]:
        path.write_bytes(content)
        with pytest.raises(ValueError, match=message):
            read_manifest(path)


def test_material_manifest():
    if "PERCEPTUAL_ASSETS" not in os.environ:
        pytest.skip("PERCEPTUAL_ASSETS is not set")
    table = read_manifest(Path(os.environ["PERCEPTUAL_ASSETS"]) / "material/triplets.csv")
    assert (len(table), len(table.images)) == (22801, 100)
    assert 1 <= table.votes.min() <= table.votes.max() == 10
