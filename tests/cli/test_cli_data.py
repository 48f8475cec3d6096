import re

import numpy as np
import pytest
from PIL import Image
from trees import write_pair_subset, write_subset

from perceptual.data import BAPPSDataModule, JNDDataModule, read_folder
from perceptual.data.readers.stores import read_info
from perceptual.data.synthetic.photographs import packaged


@pytest.fixture
def run(shell):
    """Run `perceptual data`; (exit status, stdout, stderr)."""
    return lambda *arguments: shell("data", *arguments)


def test_pack_both_halves(run, tmp_path):
    write_subset(tmp_path / "bapps/2afc/val/cnn", 4)
    write_pair_subset(tmp_path / "bapps/jnd/val/cnn", 3)
    code, out, _ = run("pack", tmp_path / "bapps", tmp_path / "store", "--size", 16, "--workers", 1)
    assert (code, out.splitlines()) == (
        0,
        [
            f"{tmp_path}/store/2afc: 4 triplets, 12 images of 16×16",
            f"{tmp_path}/store/jnd: 3 pairs, 6 images of 16×16",
        ],
    )
    data = BAPPSDataModule(str(tmp_path / "store"), ["val/cnn"], ["val/cnn"], size=16)
    data.setup()
    pairs = JNDDataModule(str(tmp_path / "store"), size=16)
    pairs.setup()
    assert (len(data.val_set), len(pairs.val_set)) == (4, 3)


def test_pack_lists_all_bad_files(run, tmp_path):
    write_subset(tmp_path / "set/cnn", 8)
    for i in range(7):
        (tmp_path / f"set/cnn/p0/{i:06}.png").write_text("an essay")
    code, _, err = run("pack", tmp_path / "set", tmp_path / "store", "--workers", 1)
    *listed, last = err.splitlines()
    assert code == 1
    assert [f"p0/{i:06}.png (not an image)" in line for i, line in enumerate(listed)] == [True] * 7
    assert last.startswith("error: 7 of 24 images cannot be used: ")
    code, out, err = run("pack", tmp_path / "set", tmp_path / "store", "--workers", 1, "--skip-unusable")
    assert (code, len(err.splitlines())) == (0, 7)
    assert out == f"{tmp_path}/store: 1 triplets, 3 images of 64×64\n"


@pytest.mark.parametrize(("command", "roles"), [("make-triplets", 3), ("make-pairs", 2)])
def test_make_in_three_forms(run, tmp_path, command, roles):
    forms = {form: tmp_path / form for form in ("folder", "store", "unjudged")}
    for form, place in forms.items():
        code, out, _ = run(command, "packaged", place, "--count", 9, "--size", 32, "--seed", 5, "--as", form)
        assert code == 0
        assert out.startswith(f"{place}: 9 ")
    assert read_info(forms["store"]).items == 9
    rows = (forms["unjudged"] / "manifest.csv").read_text().splitlines()
    assert len(rows) == 10
    assert all(row.split(",")[roles] == "" for row in rows[1:])
    stored = np.load(forms["store"] / "images.npy")
    for number, row in enumerate(rows[1:]):
        for role, name in enumerate(row.split(",")[:roles]):
            image = np.asarray(Image.open(forms["unjudged"] / name)).transpose(2, 0, 1)
            np.testing.assert_array_equal(image, stored[number + 9 * role])
    code, out, _ = run("pack", forms["folder"], tmp_path / "packed", "--size", 32, "--workers", 1)
    assert (code, read_info(tmp_path / "packed").items) == (0, 9)
    packed = np.load(tmp_path / "packed/images.npy")
    assert sorted(map(bytes, packed)) == sorted(map(bytes, stored))
    code, _, err = run(command, "packaged", forms["folder"], "--count", 9)
    assert (code, err) == (
        1,
        f"error: {forms['folder']} exists already; remove it or choose another place",
    )


def test_check_of_a_store(run, tmp_path):
    run("make-pairs", "packaged", tmp_path / "set", "--count", 5, "--size", 32, "--as", "store")
    assert run("check", tmp_path / "set")[:2] == (
        0,
        f"{tmp_path}/set: 5 pairs, 10 images, all as they were packed\n",
    )
    content = bytearray((tmp_path / "set/images.npy").read_bytes())
    content[3000] ^= 4
    (tmp_path / "set/images.npy").write_bytes(content)
    code, out, err = run("check", tmp_path / "set")
    assert (code, out) == (1, "")
    assert err == (
        f"error: {tmp_path}/set is damaged, pack it again: 1 of 10 images in {tmp_path}/set are not what was "
        "packed: 0"
    )


def test_made_folder_is_judged_by_the_observer(run, tmp_path):
    run("make-triplets", "packaged", tmp_path / "set", "--count", 12, "--size", 32)
    table = read_folder(tmp_path / "set", [path.name for path in (tmp_path / "set").iterdir()])
    assert len(table) == 12
    assert np.isin(table.answer, np.float32(np.arange(6) / 5)).all()


def test_make_of_a_folder_of_photographs(run, tmp_path):
    (tmp_path / "photos/deeper").mkdir(parents=True)
    for number, path in enumerate(packaged()[:2]):
        Image.open(path).convert("RGB").save(tmp_path / f"photos/deeper/{number}.jpg")
    (tmp_path / "photos/notes.txt").write_text("no photograph")
    code, out, _ = run("make-triplets", tmp_path / "photos", tmp_path / "set", "--count", 4, "--size", 32)
    assert (code, out) == (0, f"{tmp_path}/set: 4 triplets\n")


def test_show(run, tmp_path):
    write_subset(tmp_path / "set/cnn", 5)
    code, _, _ = run("show", tmp_path / "set", "-o", tmp_path / "sheet.png", "--count", 3)
    assert code == 0
    sheet = np.asarray(Image.open(tmp_path / "sheet.png"))
    assert sheet.shape == (142 + 32, 944, 3)  # with a legend
    first = np.sort(np.random.default_rng(0).permutation(5)[:3])[0]
    for place, role in enumerate(("p0", "ref", "p1")):
        patch = Image.open(tmp_path / f"set/cnn/{role}/{first:06}.png").resize((64, 64), Image.BILINEAR)
        tile = np.asarray(patch.resize((96, 96), Image.NEAREST))
        np.testing.assert_array_equal(sheet[14:110, 14 + 100 * place :][:, :96], tile)
    code, out, _ = run("show", "-o", tmp_path / "gallery.png", "--size", 32)
    assert (code, out) == (0, f"{tmp_path}/gallery.png: 764×2022\n")


def test_designs_and_what_was_made(run, tmp_path, distorters):
    code, _, _ = run(
        *("make-triplets", "packaged", tmp_path / "set", "--count", 6, "--size", 32, "--as", "store"),
        *("--design", "mix", "--distorters", distorters),
    )
    assert code == 0
    _, out, _ = run("show", tmp_path / "set", "-o", tmp_path / "a.png", "--count", 3, "--made")
    *lines, last = out.splitlines()
    assert len(lines) == 3
    assert all(re.fullmatch(r"\d: p0 \S+ [\d.]+ \(seed \d+\).*; p1 .*", line) for line in lines)
    assert last.startswith(f"{tmp_path}/a.png: ")
    write_subset(tmp_path / "people/cnn", 3)
    code, _, err = run("show", tmp_path / "people", "-o", tmp_path / "b.png", "--made")
    assert (code, err) == (
        1,
        f"error: {tmp_path}/people does not record what was done to its images",
    )


def test_train_distorters(run, tmp_path, monkeypatch):
    monkeypatch.setattr("perceptual.data.synthetic.distorters.population.STEPS", 1)
    for _ in range(2):  # a complete one is left
        code, out, _ = run("train-distorters", "packaged", tmp_path / "networks", "--count", 2)
        assert (code, out) == (
            0,
            f"{tmp_path}/networks: 2 distorters, drawn in {tmp_path}/networks/gallery.png\n",
        )
    with Image.open(tmp_path / "networks/gallery.png") as gallery:
        assert gallery.size == (660, 300)


def test_shard(run, tmp_path):
    run("make-pairs", "packaged", tmp_path / "store", "--count", 4, "--size", 16, "--as", "store")
    code, out, _ = run("shard", tmp_path / "store", tmp_path / "shards", "--images", 3)
    assert (code, out) == (0, f"{tmp_path}/shards: 4 pairs, 3 shards\n")
    code, _, err = run("shard", tmp_path / "store", tmp_path / "shards", "--images", 4)
    assert (code, "holds shards of another store" in err) == (1, True)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            ("make-triplets", "packaged", "set", "--count", 3, "--distorters", "empty"),
            "design paper takes no distorters; cnn and mix do",
        ),
        (
            ("make-triplets", "packaged", "set", "--count", 3, "--design", "cnn", "--distorters", "empty"),
            "empty is no folder of distorters: it has no distorters.json",
        ),
        (("show", "--made"), "--made needs a folder, manifest or store"),
        (("shard", "empty", "shards"), "'empty/store.json': No such file or directory"),
        (("pack", "nowhere", "store"), "no file or folder nowhere"),
        (("show", "nowhere"), "no file or folder nowhere"),
        (("make-triplets", "nowhere", "set", "--count", 3), "no folder nowhere"),
        (("make-pairs", "empty", "set", "--count", 3), "no photographs in empty"),
        (("download", "night"), "no source 'night'; there are bapps and nights"),
        (("download", "bapps", "--subsets", "val", "tests"), "subsets must be of val, jnd, train, got tests"),
    ],
)
def test_errors_are_one_line(run, tmp_path, monkeypatch, arguments, message):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "empty").mkdir()
    code, out, err = run(*arguments)
    assert (code, out, err) == (1, "", f"error: {message}")


def test_wrong_options_are_refused(run):
    code, _, err = run("make-triplets", "packaged", "set", "--count", 0)
    assert code == 2
    assert "Invalid value for '--count'" in err


def test_subsets_may_follow_the_option_as_a_list(run, monkeypatch, tmp_path):
    asked = []
    monkeypatch.setattr(
        "perceptual.data.download.bapps.download_bapps", lambda *given: asked.append(given) or ["done"]
    )
    run("download", "bapps", "--subsets", "val", "jnd", "train", "--root", tmp_path)
    run("download", "bapps", "--root", tmp_path)
    assert asked == [(tmp_path, ["val", "jnd", "train"]), (tmp_path, ["val", "jnd"])]
