"""What is not ours stays as it is: folders and files of others, links, pipes, archives."""

import errno
import gzip
import io
import os
import tarfile
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest
from killing import tree_bytes
from matplotlib.figure import Figure
from PIL import Image
from safetensors import SafetensorError

from perceptual import LPIPS, Backbone
from perceptual.cli.images import list_images
from perceptual.cli.output import RowFile, refuse_inputs
from perceptual.data.decode import checked_rgb
from perceptual.data.download.archives import unpack
from perceptual.data.readers.csv_files import read_manifest
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


def test_a_pipe_is_not_waited_for(tmp_path):
    os.mkfifo(tmp_path / "x.png")
    Image.new("RGB", (9, 9)).save(tmp_path / "y.png")
    assert list(list_images(str(tmp_path))) == ["y.png"]
    with pytest.raises(ValueError, match="no regular file"):
        checked_rgb(str(tmp_path / "x.png"))


@pytest.mark.parametrize("subset", ["mean", "micro", "jnd", "jnd/x"])
def test_a_subset_is_not_called_like_another_score(subset, tmp_path):
    (tmp_path / "t.csv").write_text(f"ref,p0,p1,judge,subset\na.png,b.png,c.png,1,{subset}\n")
    with pytest.raises(ValueError, match="the name of another score"):
        read_manifest(tmp_path / "t.csv")


def archive(path, members):
    with tarfile.open(path, "w:gz") as tar:
        for name, content in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))


def test_every_flipped_bit_of_an_archive_is_noticed_or_harmless(tmp_path):
    rng = np.random.default_rng(0)
    members = {f"{i}.npy": rng.bytes(300) for i in range(4)}
    archive(tmp_path / "a.tar.gz", members)
    whole = (tmp_path / "a.tar.gz").read_bytes()
    noticed = 0
    for number, place in enumerate(rng.choice(len(whole), 60, replace=False)):
        changed = bytearray(whole)
        changed[place] ^= 1 << int(rng.integers(8))
        (tmp_path / "b.tar.gz").write_bytes(changed)
        folder = tmp_path / f"out{number}"
        try:
            unpack(tmp_path / "b.tar.gz", folder)
        except ValueError:
            noticed += 1
        else:  # the header of gzip has a time, a name and flags, which change nothing
            assert {path.name: path.read_bytes() for path in folder.iterdir()} == members
    assert noticed >= 50


def test_an_archive_that_fills_the_disk_is_refused(tmp_path):
    archive(tmp_path / "a.tar.gz", {f"{i}": bytes(2**20) for i in range(8)})
    with pytest.raises(ValueError, match="more than 50 times its size"):
        unpack(tmp_path / "a.tar.gz", tmp_path / "out")


def test_a_sparse_file_is_refused(tmp_path):
    info = tarfile.TarInfo("hole")
    info.type = tarfile.GNUTYPE_SPARSE
    header = bytearray(info.tobuf(tarfile.GNU_FORMAT))
    header[483:495] = b"00000100000\0"  # the real size
    checksum = sum(header[:148]) + 8 * 32 + sum(header[156:])
    header[148:156] = f"{checksum:06o}\0 ".encode()
    with gzip.open(tmp_path / "a.tar.gz", "wb") as file:
        file.write(bytes(header) + bytes(1024))
    with pytest.raises(ValueError, match="not to be trusted"):
        unpack(tmp_path / "a.tar.gz", tmp_path / "out")
