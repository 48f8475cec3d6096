"""Files and folders are written whole or not at all, and what is not ours stays as it is."""

import errno
import os
from contextlib import suppress
from pathlib import Path

import app
import pytest
from killing import tree_bytes
from matplotlib.figure import Figure
from PIL import Image
from safetensors import SafetensorError

from perceptual import LPIPS, Backbone
from perceptual.cli.output import RowFile, refuse_inputs
from perceptual.data import TWO_AFC, pack, read_manifest
from perceptual.data.synthetic.making import Making, make_files, make_store
from perceptual.data.synthetic.photographs import TRAIN_PHOTOS, packaged
from perceptual.data.writers.partial import clear, settle, working_on
from perceptual.files.writing import save_picture, whole_file, whole_folder, write_text


def test_a_folder_of_others_is_not_removed(tmp_path):
    (tmp_path / "set.partial").mkdir()
    (tmp_path / "set.partial/thesis.txt").write_text("mine")
    with pytest.raises(ValueError, match=r"set\.partial is in the way"), working_on(tmp_path / "set"):
        pass
    with whole_folder(tmp_path / "set") as folder:
        (folder / "a").write_text("a")
    assert (tmp_path / "set.partial/thesis.txt").read_text() == "mine"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["set", "set.partial"]


def test_a_link_is_not_followed(tmp_path):
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "set.partial").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(ValueError, match="in the way"), working_on(tmp_path / "set"):
        pass
    (tmp_path / "precious.csv").write_text("rows")
    (tmp_path / "out.csv.partial").symlink_to(tmp_path / "precious.csv")
    with RowFile(tmp_path / "out.csv", ["a"]) as file:
        file.write([["1"]])
    assert (tmp_path / "precious.csv").read_text() == "rows"
    assert (tmp_path / "out.csv").read_text() == "a\n1\n"


def test_what_was_interrupted_is_continued_and_then_named(tmp_path):
    with working_on(tmp_path / "set") as partial:
        (partial / "some").write_text("left")
    with working_on(tmp_path / "set") as partial:
        assert (partial / "some").read_text() == "left"
        clear(partial)
        assert not (partial / "some").exists()
        (partial / "all").write_text("done")
        settle(partial, tmp_path / "set")
    assert [path.name for path in (tmp_path / "set").iterdir()] == ["all"]


def test_the_rows_of_an_interrupted_run_stay(tmp_path):
    for row in ("1", "2"):
        with suppress(KeyboardInterrupt), RowFile(tmp_path / "out.csv", ["a"]) as file:
            file.write([[row]])
            raise KeyboardInterrupt
    kept = sorted(path.read_text() for path in tmp_path.glob("out.csv.partial*"))
    assert kept == ["a\n1\n", "a\n2\n"]


def test_an_output_is_no_input(tmp_path):
    (tmp_path / "a.png").write_bytes(b"a")
    (tmp_path / "link.png").symlink_to(tmp_path / "a.png")
    with pytest.raises(ValueError, match="one of the files to be read"):
        refuse_inputs(tmp_path / "link.png", tmp_path / "a.png")
    refuse_inputs(tmp_path / "new.png", tmp_path / "a.png")
    with whole_file(tmp_path / "a.png") as place:
        place.write_bytes(b"b")
    assert (tmp_path / "a.png").read_bytes() == b"b"


def full(*_, **__):
    raise OSError(errno.ENOSPC, "No space left on device")


def test_a_full_disk_leaves_the_file_that_was_there(tmp_path, monkeypatch):
    for name, write in {
        "a.md": lambda path: write_text(path, "new"),
        "a.png": lambda path: save_picture(Figure(), path),
        "b.png": lambda path: save_picture(Image.new("RGB", (9, 9)), path),
    }.items():
        (tmp_path / name).write_text("good")
        for owner, method in ((Path, "write_text"), (Figure, "savefig"), (Image.Image, "save")):
            monkeypatch.setattr(owner, method, full)
        with pytest.raises(OSError, match="No space left"):
            write(tmp_path / name)
        monkeypatch.undo()
        assert (tmp_path / name).read_text() == "good"
        write(tmp_path / name)
        assert (tmp_path / name).read_bytes() != b"good"
    assert len(list(tmp_path.iterdir())) == 3
    with pytest.raises(ValueError, match=r"c\.mp3: no picture is written as \.mp3"):
        save_picture(Image.new("RGB", (9, 9)), tmp_path / "c.mp3")


def test_a_full_disk_leaves_the_distance_that_was_saved(tmp_path, monkeypatch):
    network = Backbone("test_resnet", None)
    LPIPS(network).save_pretrained(tmp_path / "saved")
    before = tree_bytes(tmp_path / "saved")

    def error(*_):
        raise SafetensorError("Error while serializing: I/O error: No space left on device (os error 28)")

    monkeypatch.setattr("perceptual.distance.saving.folders.save_file", error)
    with pytest.raises(OSError, match=r"model\.safetensors cannot be written: .*No space left on device"):
        LPIPS(network, lin=None).save_pretrained(tmp_path / "saved")
    assert tree_bytes(tmp_path / "saved") == before


@pytest.mark.skipif(not Path("/proc/self/maps").exists(), reason="there is no list of what is mapped")
def test_no_folder_is_renamed_while_something_in_it_is_mapped(tmp_path, monkeypatch):
    """Windows refuses to."""
    renamed = []

    def checked(rename):
        def call(old, new, *rest):
            if Path(old).is_dir():
                inside = [
                    line for line in Path("/proc/self/maps").read_text().splitlines() if f"{old}/" in line
                ]
                assert not inside, inside
                renamed.append(Path(new).name)
            return rename(old, new, *rest)

        return call

    monkeypatch.setattr(os, "replace", checked(os.replace))
    monkeypatch.setattr(os, "rename", checked(os.rename))
    manifest = app.write_manifest(tmp_path / "set", rows=8, images=4)
    pack(read_manifest(manifest), tmp_path / "store", "set", 16, workers=1)
    pack(read_manifest(manifest), tmp_path / "native", "set", None, workers=1)
    making = Making(TWO_AFC, packaged(TRAIN_PHOTOS[:1]), 3, 0, 32, design="severity")
    make_store(making, tmp_path / "made", "photographs")
    make_files(making, tmp_path / "files", "photographs", "folder")
    distance = LPIPS(Backbone("test_resnet", weights=None))
    distance.save_pretrained(tmp_path / "saved")
    LPIPS.from_pretrained(tmp_path / "saved").save_pretrained(tmp_path / "saved again")
    assert {"store", "native", "made", "files"} <= {*renamed}
