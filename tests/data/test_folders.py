import os
from pathlib import Path

import numpy as np
import pytest
from trees import write_pair_subset, write_subset

from perceptual.data import JND, TWO_AFC, read_folder, read_pair_folder
from perceptual.data.readers.folders import find_subsets


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    write_subset(tmp_path / "val/cnn", 7)
    write_subset(tmp_path / "val/color", 4)
    return tmp_path


def test_folder_joins_by_stem(tree):
    table = read_folder(tree, ["val/cnn", "val/color"])
    assert (len(table), table.subsets, len(table.paths)) == (11, ["cnn", "color"], 33)
    assert table.subset.tolist() == [0] * 7 + [1] * 4
    for row in range(11):
        ref, p0, p1 = (
            Path(table.paths[column[row]])
            for column in (table.role("ref"), table.role("p0"), table.role("p1"))
        )
        assert [path.parent.name for path in (ref, p0, p1)] == ["ref", "p0", "p1"]
        assert ref.stem == p0.stem == p1.stem
        judge = np.load(ref.parents[1] / "judge" / f"{ref.stem}.npy").item()
        assert table.answer[row] == np.float32(judge)


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
    with pytest.raises(
        ValueError, match=r"1 of 7 judgment files are not one number in \[0, 1\]: .*000002.npy"
    ):
        read_folder(tree, ["val/cnn"])


@pytest.mark.parametrize("content", [b"", b"0.5", b"\x93NUMPY\x01\x00"])
def test_folder_judgment_files_that_are_broken(tree, content):
    (tree / "val/cnn/judge/000002.npy").write_bytes(content)
    with pytest.raises(ValueError, match=r"1 of 7 judgment files .*000002.npy"):
        read_folder(tree, ["val/cnn"])


@pytest.mark.parametrize(
    "other", [np.array([{"a": 1}], object), np.array("0_1"), np.array(["٠"]), np.array(0.5j)]
)
def test_folder_judgments_are_numbers_and_do_not_unpickle(tree, other):
    np.save(tree / "val/cnn/judge/000002.npy", other, allow_pickle=True)
    with pytest.raises(ValueError, match="1 of 7 judgment files"):
        read_folder(tree, ["val/cnn"])


def test_subsets_of_one_name_are_refused(tree):
    with pytest.raises(ValueError, match="names differ"):
        read_folder(tree, ["val/cnn", "train/cnn"])


def test_pairs_join_by_stem(tmp_path):
    write_pair_subset(tmp_path / "val/cnn", 5)
    table = read_pair_folder(tmp_path, ["val/cnn"])
    assert (len(table), table.subsets, len(table.paths)) == (5, ["cnn"], 10)
    for row in range(5):
        p0, p1 = Path(table.paths[table.role("p0")[row]]), Path(table.paths[table.role("p1")[row]])
        assert (p0.parent.name, p1.parent.name, p0.stem) == ("p0", "p1", p1.stem)
        assert table.answer[row] == np.float32(np.load(p0.parents[1] / "same" / f"{p0.stem}.npy").item())


def test_pairs_with_gaps_and_wrong_answers(tmp_path):
    write_pair_subset(tmp_path / "cnn", 5)
    np.save(tmp_path / "cnn/same/000002.npy", np.array([1.2]))
    with pytest.raises(
        ValueError, match=r"1 of 5 same files are not one number in \[0, 1\]: .*000002.npy \(1.2"
    ):
        read_pair_folder(tmp_path, ["cnn"])
    (tmp_path / "cnn/p1/000003.png").unlink()
    with pytest.raises(ValueError, match=r"000003 \(not in p1\)"):
        read_pair_folder(tmp_path, ["cnn"])


def test_subsets_are_found(tree, tmp_path):
    write_pair_subset(tmp_path / "jnd/val/cnn", 2)
    assert find_subsets(TWO_AFC, tmp_path) == ["val/cnn", "val/color"]
    assert find_subsets(JND, tmp_path) == ["jnd/val/cnn"]
    with pytest.raises(
        FileNotFoundError, match=r"no folder with p0, p1, same in .*val; .*val holds cnn, color"
    ):
        find_subsets(JND, tmp_path / "val")
