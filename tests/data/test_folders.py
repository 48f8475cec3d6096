import io
import os
from pathlib import Path

import numpy as np
import pytest
from trees import write_pair_subset, write_subset

from perceptual.data import JND, TWO_AFC, read_folder
from perceptual.data.readers.folders import find_subsets


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    write_subset(tmp_path / "val/cnn", 7)
    write_subset(tmp_path / "val/color", 4)
    return tmp_path


@pytest.mark.parametrize(("kind", "write"), [(TWO_AFC, write_subset), (JND, write_pair_subset)])
def test_folders_are_joined_by_stem(tmp_path, kind, write):
    write(tmp_path / "val/cnn", 7)
    write(tmp_path / "val/color", 4)
    table = read_folder(tmp_path, ["val/cnn", "val/color"], kind)
    assert (len(table), table.subsets, len(table.paths)) == (11, ["cnn", "color"], 11 * len(kind.roles))
    assert table.subset.tolist() == [0] * 7 + [1] * 4
    for row in range(11):
        files = [Path(table.paths[image]) for image in table.items[:, row]]
        assert [path.parent.name for path in files] == list(kind.roles)
        assert len({path.stem for path in files}) == 1
        answer = np.load(files[0].parents[1] / kind.on_disk / f"{files[0].stem}.npy").item()
        assert table.answer[row] == np.float32(answer)
    np.save(tmp_path / "val/cnn" / kind.on_disk / "000002.npy", np.array([1.2]))
    with pytest.raises(ValueError, match=r"1 of 7 \w+ files are not one number .*000002.npy \(1.2"):
        read_folder(tmp_path, ["val/cnn"], kind)
    (tmp_path / "val/cnn/p1/000003.png").unlink()
    with pytest.raises(ValueError, match=r"000003 \(not in p1\)"):
        read_folder(tmp_path, ["val/cnn"], kind)


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


def saved(array):
    file = io.BytesIO()
    np.save(file, array, allow_pickle=True)
    return file.getvalue()


NO_ANSWERS = [
    *(b"", b"0.5", b"\x93NUMPY\x01\x00"),
    *(saved(np.array([value])) for value in (np.nan, 1.2, -0.1, "much", "٠")),
    *(saved(np.array(value)) for value in ([0.5, 0.5], "0_1", 0.5j)),
    saved(np.array([{"a": 1}], object)),  # which is not unpickled
]


@pytest.mark.parametrize("content", NO_ANSWERS)
def test_answers_that_are_none(tree, content):
    (tree / "val/cnn/judge/000002.npy").write_bytes(content)
    with pytest.raises(
        ValueError, match=r"1 of 7 judgment files are not one number in \[0, 1\]: .*000002.npy"
    ):
        read_folder(tree, ["val/cnn"])


def test_subsets_of_one_name_are_refused(tree):
    with pytest.raises(ValueError, match="names differ"):
        read_folder(tree, ["val/cnn", "train/cnn"])


def test_subsets_are_found(tree, tmp_path):
    write_pair_subset(tmp_path / "jnd/val/cnn", 2)
    assert find_subsets(TWO_AFC, tmp_path) == ["val/cnn", "val/color"]
    assert find_subsets(JND, tmp_path) == ["jnd/val/cnn"]
    with pytest.raises(
        FileNotFoundError, match=r"no folder with p0, p1, same in .*val; .*val holds cnn, color"
    ):
        find_subsets(JND, tmp_path / "val")
