"""Every reader finds the same files: through links, not in hidden folders, in any form of Unicode."""

import os
import unicodedata
from pathlib import Path

import numpy as np
import pytest
from trees import write_image, write_manifest, write_pair_subset, write_subset

from perceptual.cli.images import list_images
from perceptual.data import JND, TWO_AFC, read_manifest
from perceptual.data.readers.folders import find_subsets, read_folder, read_origin
from perceptual.data.readers.published import Names
from perceptual.data.synthetic.outputs import _join
from perceptual.data.synthetic.photographs import find_photos
from perceptual.files.places import as_on_disk, walk

COMPOSED, DECOMPOSED = (unicodedata.normalize(form, "Übung") for form in ("NFC", "NFD"))
RNG = np.random.default_rng(0)


@pytest.fixture
def linked(tmp_path) -> Path:
    """A folder of images with a link to another, and with hidden copies."""
    for name in ("in/b.png", "in/a-b/2.png", "in/a/1.png", "far/deep/3.png"):
        write_image(tmp_path / name, RNG)
    for name in ("in/.ipynb_checkpoints/b.png", "in/a/._1.png", "far/.cache/x/3.png"):
        write_image(tmp_path / name, RNG)
    (tmp_path / "in/link").symlink_to(tmp_path / "far")
    (tmp_path / "in/again").symlink_to(tmp_path / "in/a")  # no cycle: it is not within itself
    return tmp_path / "in"


IMAGES = ["a/1.png", "a-b/2.png", "again/1.png", "b.png", "link/deep/3.png"]


def test_images_and_photographs_are_found_through_links_and_not_in_hidden_folders(linked):
    assert list(list_images(str(linked))) == IMAGES
    assert find_photos(linked) == [str(linked / name) for name in IMAGES]


def test_a_hidden_folder_that_is_named_is_walked_through(linked):
    assert list(list_images(str(linked / ".ipynb_checkpoints"))) == ["b.png"]


def test_a_link_to_nothing_is_listed_if_it_is_called_an_image(linked):
    (linked / "gone.png").symlink_to(linked / "nothing.png")
    (linked / "gone").symlink_to(linked / "nothing")
    assert list(list_images(str(linked))) == [*IMAGES[:4], "gone.png", *IMAGES[4:]]


@pytest.mark.parametrize(("link", "target"), [("in/a/up", "in"), ("far/back", "in"), ("in/self", "in/self")])
@pytest.mark.parametrize(
    "use", [list_images, find_photos, read_origin, lambda path: find_subsets(TWO_AFC, path)]
)
def test_a_link_to_a_folder_around_it_is_refused(linked, link, target, use):
    (linked.parent / link).symlink_to(linked.parent / target)
    with pytest.raises((ValueError, OSError)) as error:
        use(str(linked))
    said = str(error.value)
    assert os.path.basename(link) in said
    assert "a folder that it lies in; remove the link" in said or "Too many levels of symbolic links" in said


def test_walking_leaves_out_what_is_removed(linked):
    seen = []
    for folder, below, _ in walk(linked):
        seen.append(folder.name)
        below[:] = [name for name in below if name != "link"]
    assert seen == ["in", "a", "a-b", "again"]


@pytest.mark.parametrize(("write", "kind"), [(write_subset, TWO_AFC), (write_pair_subset, JND)])
def test_subsets_are_found_through_links_and_not_in_hidden_folders(tmp_path, write, kind):
    write(tmp_path / "far/val/cnn", 3)
    write(tmp_path / "set/.trash/cnn", 2)
    (tmp_path / "set/linked").symlink_to(tmp_path / "far")
    assert find_subsets(kind, tmp_path / "set") == ["linked/val/cnn"]
    assert len(read_folder(tmp_path / "set", ["linked/val/cnn"], kind)) == 3
    (table,) = read_origin(tmp_path / "set").values()
    assert (table.kind, table.subsets, len(table)) == (kind, ["linked/val/cnn"], 3)


def test_published_images_are_not_hidden_files(tmp_path):
    for name in ("I01.png", "._I01.png", f"{DECOMPOSED}.png"):
        write_image(tmp_path / name, RNG)
    names = Names(tmp_path)
    assert (len(names), names["i01.PNG"]) == (2, str(tmp_path / "I01.png"))
    assert names[f"{COMPOSED}.PNG"] == str(tmp_path / f"{DECOMPOSED}.png")


def test_slashes_of_windows_are_read(tmp_path):
    write_image(tmp_path / "images/a.png", RNG)
    write_image(tmp_path / "b\\c.png", RNG)  # such a name is itself
    asked = [f"{tmp_path}/images\\a.png", f"{tmp_path}/b\\c.png"]
    assert as_on_disk(asked) == [f"{tmp_path}/images/a.png", asked[1]]


@pytest.mark.parametrize(("written", "on_disk"), [(COMPOSED, DECOMPOSED), (DECOMPOSED, COMPOSED)])
class TestNamesThatLookTheSame:
    """One name in two forms of Unicode, as files and archives from macOS bring them."""

    def test_paths(self, tmp_path, written, on_disk):
        path = tmp_path / on_disk / f"{on_disk}.png"
        write_image(path, RNG)
        write_image(tmp_path / "x.png", RNG)
        asked = [f"{tmp_path}/{written}/{written}.png", f"{tmp_path}/x.png", f"{tmp_path}/{written}/no.png"]
        assert as_on_disk(asked) == [str(path), asked[1], f"{tmp_path}/{on_disk}/no.png"]
        write_image(tmp_path / on_disk / f"{written}.png", RNG)  # both are there: each is itself
        assert as_on_disk([f"{tmp_path}/{on_disk}/{written}.png"]) == [f"{tmp_path}/{on_disk}/{written}.png"]

    def test_manifests(self, tmp_path, written, on_disk):
        write_manifest(tmp_path / "t.csv", 2, [], "")
        (tmp_path / "img/0.png").rename(tmp_path / f"img/{on_disk}.png")
        rows = [f"img/{name}.png,img/1.png,img/{other}.png,1" for name, other in ((written, on_disk),) * 2]
        (tmp_path / "t.csv").write_text("\n".join(["ref,p0,p1,judge", *rows]), "utf-8")
        table = read_manifest(tmp_path / "t.csv")
        assert table.paths == [str(tmp_path / f"img/{on_disk}.png"), str(tmp_path / "img/1.png")]
        assert table.role("ref").tolist() == table.role("p1").tolist() == [0, 0]

    def test_folders_joined_by_stem(self, tmp_path, written, on_disk):
        write_subset(tmp_path / "cnn", 2)
        for role, form in (("ref", written), ("p0", on_disk), ("p1", on_disk), ("judge", on_disk)):
            suffix = "npy" if role == "judge" else "png"
            (tmp_path / f"cnn/{role}/000001.{suffix}").rename(tmp_path / f"cnn/{role}/{form}.{suffix}")
        (tmp_path / "cnn/made.csv").write_text(f"stem,made\n000000,a\n{written},b\n", "utf-8")
        table = read_folder(tmp_path, ["cnn"])
        assert table.answer.tolist() == [0, 0.5]
        assert Path(table.paths[table.role("p0")[1]]).stem == on_disk
        assert table.made is not None
        assert table.made.tolist() == [b"a", b"b"]

    def test_outputs_of_algorithms(self, tmp_path, written, on_disk):
        write_image(tmp_path / "originals" / f"{written}.png", RNG)
        write_image(tmp_path / "jpeg" / f"{on_disk}.png", RNG)
        (files,) = _join([tmp_path / "originals", tmp_path / "jpeg"])
        assert [Path(file).stem for file in files] == [written, on_disk]
