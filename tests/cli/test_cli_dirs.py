import csv
import io
import json
import os
import signal
import sys
import unicodedata
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from perceptual.cli import batches
from perceptual.cli.batches import Pair, measure_all
from perceptual.cli.dirs import match
from perceptual.cli.method import Chosen


def rows(path):
    with open(path, newline="") as file:
        return {name: float(value) for name, value in list(csv.reader(file))[1:]}


@pytest.fixture
def two_folders(draw):
    """Five images a folder, one in a folder of its own, each with one that the other lacks."""
    for number, name in enumerate(("1.png", "2.png", "3.png", "deep/4.png")):
        draw(f"a/{name}", number)
        draw(f"b/{name}", number + 10)
    draw("a/left.png", 0)
    draw("b/right.png", 0)


def test_each_pair_has_the_distance_of_its_images(shell, two_folders, weights):
    code, out, err = shell("dirs", "a", "b", "-o", "new/out.csv")
    assert code == 0
    assert err.splitlines() == ["only in a: left.png", "only in b: right.png"]
    found = rows("new/out.csv")
    assert list(found) == ["1.png", "2.png", "3.png", "deep/4.png"]
    for name, value in found.items():
        alone = json.loads(shell("distance", f"a/{name}", f"b/{name}", "--json")[1])["distance"]
        assert value == pytest.approx(alone, rel=1e-5)
    assert out.startswith(f"4 pairs · mean {sum(found.values()) / 4:.4f} · ")
    assert [path.name for path in Path("new").iterdir()] == ["out.csv"]


def test_json_and_csv(shell, two_folders):
    _, out, _ = shell("dirs", "a", "b", "-m", "l2", "--json")
    found = json.loads(out)
    assert [pair["name"] for pair in found["pairs"]] == ["1.png", "2.png", "3.png", "deep/4.png"]
    assert (found["only_in_0"], found["only_in_1"], found["count"]) == (["left.png"], ["right.png"], 4)
    _, out, _ = shell("dirs", "a", "b", "-m", "l2", "--csv")
    assert [line.split(",")[0] for line in out.splitlines()] == ["name", *(p["name"] for p in found["pairs"])]


def test_masks_say_what_counts(shell, two_folders, weights):
    """Each distance is that of Python, of one mask for all or one of each name."""
    from perceptual import LPIPS

    ink = np.zeros((40, 48), np.uint8)
    ink[8:30, 10:40] = 255
    for name in ("m.png", "masks/1.gif", "masks/2.png", "masks/deep/4.png"):
        Path(name).parent.mkdir(exist_ok=True, parents=True)
        Image.fromarray(ink if name != "masks/2.png" else 255 - ink).save(name)
    Image.fromarray(ink * 0).save("black.png")
    x, y = (torch.from_numpy(np.array(Image.open(f"{f}/2.png"))).permute(2, 0, 1)[None] for f in "ab")
    for outside in ("see", "fill"):
        metric, mask = LPIPS("alexnet", outside=outside), torch.from_numpy(ink)[None, None]
        for words, said in (("--mask=m.png", mask), ("--masks=masks", 255 - mask)):
            code, out, err = shell("dirs", "a", "b", words, f"--outside={outside}", "--json")
            found = {pair["name"]: pair["distance"] for pair in json.loads(out)["pairs"]}
            assert found["2.png"] == pytest.approx(metric(x, y, said).item(), rel=1e-5)
            assert code == (words == "--masks=masks")
            assert ("3.png" in found) != code
            assert ("not measured: 3.png: masks has no mask of this name" in err) == code
        _, out, _ = shell("distance", "a/2.png", "b/2.png", "--mask=m.png", f"--outside={outside}", "--json")
        assert json.loads(out)["distance"] == pytest.approx(metric(x, y, mask).item(), rel=1e-5)
        _, out, _ = shell("heatmap", "a/2.png", "b/2.png", "--mask=m.png", f"--outside={outside}", "--json")
        assert sum(json.loads(out)["levels"]) == pytest.approx(metric(x, y, mask).item(), rel=1e-5)
    assert shell("dirs", "a", "b", "--mask=m.png", "--masks=masks")[0] == 1
    for words, said in (
        (["--mask=black.png"], "the mask black.png is black: nothing of a/2.png would count"),
        (["--mask=m.png", "-m", "gmsd"], "so it takes no mask"),
        (["--mask=m.png", "-m", "ssim", "--outside=fill"], "and ssim has none"),
        (["--mask=gone.png"], "no file gone.png"),
    ):
        code, _, err = shell("distance", "a/2.png", "b/2.png", *words)
        assert code == 1
        assert said in err


def test_names_that_differ_in_the_suffix_only_belong_together():
    found = match(
        {name: f"0/{name}" for name in ("a.png", "b.png", "c.png", "c.gif", "d.png")},
        {name: f"1/{name}" for name in ("a.png", "b.jpg", "c.jpg", "e.png")},
    )
    assert found.pairs == [("a.png", "0/a.png", "1/a.png"), ("b.png", "0/b.png", "1/b.jpg")]
    assert found.only0 == ["c.gif", "c.png", "d.png"]  # c.jpg may be either
    assert found.only1 == ["c.jpg", "e.png"]


def test_names_that_look_the_same_belong_together():
    composed, decomposed = (unicodedata.normalize(form, "Übung") for form in ("NFC", "NFD"))
    found = match({f"{composed}.png": "0"}, {f"{decomposed}.png": "1"})
    assert found.pairs == [(f"{composed}.png", "0", "1")]
    found = match({f"{composed}.png": "0"}, {f"{decomposed}.jpg": "1"})
    assert found.pairs == [(f"{composed}.png", "0", "1")]
    both = {f"{composed}.png": "c", f"{decomposed}.png": "d"}
    assert match(both, both).pairs == [(f"{decomposed}.png", "d", "d"), (f"{composed}.png", "c", "c")]
    found = match(both, {f"{decomposed}.png": "1", "x.png": "x"})
    assert (found.pairs, found.only0) == ([(f"{decomposed}.png", "d", "1")], [f"{composed}.png"])


def test_links_are_followed_and_hidden_folders_are_not(shell, draw, folder):
    for number, name in enumerate(
        ("a/1.png", "b/1.png", "far/2.png", "b/sub/2.png", "a/.old/3.png", "b/.old/3.png")
    ):
        draw(name, number)
    (folder / "a/sub").symlink_to(folder / "far")
    code, out, err = shell("dirs", "a", "b", "-m", "l2", "--csv")
    assert (code, [line.split(",")[0] for line in out.splitlines()], err) == (
        0,
        ["name", "1.png", "sub/2.png"],
        "",
    )
    code, out, _ = shell("pairs", "a", "-m", "l2", "--json")
    assert (code, json.loads(out)["images"]) == (0, ["1.png", "sub/2.png"])
    (folder / "far/up").symlink_to(folder / "a")
    for command in (("dirs", "a", "b"), ("pairs", "a")):
        code, out, err = shell(*command, "-m", "l2")
        assert (code, out) == (1, "")
        assert err.splitlines() == [
            f"error: a/sub/up is a link to {folder}/a, a folder that it lies in; remove the link"
        ]


def test_an_unreadable_image_is_reported_and_the_rest_done(shell, two_folders, folder):
    (folder / "a/2.png").write_text("an essay")
    code, _, err = shell("dirs", "a", "b", "-m", "l2", "-o", "out.csv")
    assert code == 1
    assert list(rows("out.csv")) == ["1.png", "3.png", "deep/4.png"]
    assert "not measured: 2.png: a/2.png (not an image)" in err.splitlines()
    assert err.splitlines()[-1] == "error: 1 of 4 pairs could not be measured"


def test_other_sizes_are_reported_or_resized(shell, two_folders, draw):
    draw("b/2.png", 12, 20, 20)
    code, _, err = shell("dirs", "a", "b", "-m", "l2", "-o", "out.csv")
    assert (code, list(rows("out.csv"))) == (1, ["1.png", "3.png", "deep/4.png"])
    assert "not measured: 2.png: a/2.png has 48×40 pixels, b/2.png 20×20; --resize" in err
    code, _, _ = shell("dirs", "a", "b", "-m", "l2", "-o", "out.csv", "--resize")
    assert (code, len(rows("out.csv"))) == (0, 4)


def test_images_that_the_network_cannot_take_are_reported_and_the_rest_done(shell, draw, weights):
    for name, side in (("1.png", 40), ("2.png", 5), ("3.png", 40)):
        draw(f"a/{name}", 0, side, side)
        draw(f"b/{name}", 1, side, side)
    code, _, err = shell("dirs", "a", "b", "-o", "out.csv")
    assert (code, list(rows("out.csv"))) == (1, ["1.png", "3.png"])
    assert "not measured: 2.png: images of 5×5 pixels are too small for alexnet" in err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("a", "nowhere"), "no folder nowhere"),
        (("a/1.png", "b"), "a/1.png is a file, where a folder is expected"),
        (("a", "empty"), "empty holds no images"),
        (("a", "others"), "a and others have no name in common"),
        (("a", "b", "-o", "empty"), "empty is a folder, where the name of a file is expected"),
        (("a", "b", "-o", "a/1.png/out.csv"), "a/1.png/out.csv cannot be written (File exists)"),
        (("a", "b", "-o", "/proc/out.csv"), "/proc/out.csv cannot be written ("),  # where not even root may
        (("a", "b", "-o", "/dev/null"), "/dev/null is no file that could be replaced"),
    ],
)
def test_what_cannot_be_compared_is_one_line(shell, two_folders, draw, folder, arguments, message):
    (folder / "empty").mkdir()
    (folder / "empty/notes.txt").write_text("no image")
    draw("others/other.png", 0)
    code, out, err = shell("dirs", *arguments, "-m", "l2")
    assert (code, out) == (1, "")
    error = err.splitlines()[-1]
    assert error.startswith(f"error: {message}")
    assert all(line.startswith("only in ") for line in err.splitlines()[:-1])


def test_ctrl_c_leaves_the_rows_so_far(shell, draw, monkeypatch):
    for number in range(12):
        draw(f"a/{number:02}.png", number)
        draw(f"b/{number:02}.png", number + 50)
    Path("out.csv").write_text("of an earlier run")
    measured = []

    def measure(self, x, y):
        measured.extend([0.5] * len(x))
        if len(measured) > 6:
            signal.raise_signal(signal.SIGINT)
        return [0.5] * len(x)

    monkeypatch.setattr(Chosen, "measure", measure)
    monkeypatch.setattr(batches, "PIXELS", 2 * 40 * 48)  # batches of two
    monkeypatch.setattr(batches, "WORKERS", 1)  # one after the other
    code, _, err = shell("dirs", "a", "b", "-m", "l2", "-o", "out.csv")
    assert code == 130
    assert err.splitlines() == ["6 rows so far are in out.csv.partial", "interrupted"]
    assert list(rows("out.csv.partial")) == [f"{number:02}.png" for number in range(6)]
    assert Path("out.csv").read_text() == "of an earlier run"


@pytest.mark.parametrize("workers", [1, 2, 5])
def test_batches_hold_one_size_come_in_order_and_are_read_only_a_little_ahead(monkeypatch, workers):
    monkeypatch.setattr(batches, "WORKERS", workers)
    monkeypatch.setattr(batches, "PIXELS", 4 * 64)
    monkeypatch.setattr(batches, "WAIT", 20)
    sides = [8 if i % 7 else 16 for i in range(300)]
    read, shapes, ahead = [], [], []

    def image(number):
        read.append(number)
        if number == 150:
            raise ValueError("damaged")
        return Pair(
            *(torch.full((3, sides[number], sides[number]), v, dtype=torch.uint8) for v in (number % 200, 0))
        )

    def measure(x, y):
        shapes.append(tuple(x.shape))
        return (x[:, 0, 0, 0].float() - y[:, 0, 0, 0]).tolist()

    found = []
    for number, value in measure_all(measure, iter(range(300)), image):
        found.append((number, value))
        ahead.append(len(read) - len(found))
    assert [number for number, _ in found] == list(range(300))
    assert [value for _, value in found if isinstance(value, float)] == [
        i % 200 for i in range(300) if i != 150
    ]
    assert str(found[150][1]) == "damaged"
    assert max(ahead) < 50
    assert max(len_ for len_, *_ in shapes) == 4
    assert len(shapes) < 160


def test_every_format_of_pillow_is_found(shell, draw, folder):
    for suffix in ("png", "JPG", "webp", "bmp", "tiff"):
        draw(f"a/{suffix}.{suffix}", 3)
        draw(f"b/{suffix}.{suffix}", 4)
    Image.new("RGB", (48, 40)).save(folder / "a/.hidden.png")
    (folder / "a/page.pdf").write_text("Pillow writes these, but reads none")
    code, out, _ = shell("dirs", "a", "b", "-m", "l2", "--csv")
    assert (code, len(out.splitlines())) == (0, 6)


@pytest.fixture
def printed(shell, monkeypatch):
    """Run the command on streams as Python makes them; (exit status, bytes of stdout, of stderr)."""

    def call(encoding, *arguments):
        streams = [
            io.TextIOWrapper(io.BytesIO(), encoding, errors) for errors in ("strict", "backslashreplace")
        ]
        with monkeypatch.context() as patched:
            for name, stream in zip(("stdout", "stderr"), streams, strict=True):
                patched.setattr(sys, name, stream)
            code = shell(*arguments)[0]
            for stream in streams:
                stream.flush()
        return code, *(stream.buffer.getvalue() for stream in streams)

    return call


def test_names_that_are_no_utf_8(printed, draw, folder):
    name = os.fsdecode(b"caf\xe9.png")
    for seed, path in enumerate((f"a/{name}", "a/=x.png", f"b/{name}", "b/=x.png")):
        draw(path, seed)
    both = ["dirs", "a", "b", "-m", "l2"]
    assert printed("utf-8", "pairs", "a", "-m", "l2", "--plot", "tree.png")[0] == 0
    for more in (["--csv"], []):
        code, out, err = printed("utf-8", *both, *more)
        assert (code, b"caf\xe9.png" in out) == (0, True), err
    code, out, _ = printed("utf-8", *both, "--json")
    assert (code, json.loads(out.decode())["pairs"][1]["name"]) == (0, name)
    assert printed("utf-8", *both, "-o", "out.csv")[0] == 0
    lines = (folder / "out.csv").read_bytes().splitlines()
    assert [line.partition(b",")[0] for line in lines] == [b"name", b"'=x.png", b"caf\xe9.png"]


def test_names_that_the_terminal_cannot_show(printed, draw, folder):
    draw("a/x.png", 0)
    draw("b/x.png", 0)
    (folder / "a/→.png").write_text("no image, and only here")
    code, _, err = printed("ascii", "dirs", "a", "b", "-m", "l2", "-o", "out.csv")
    assert code == 0
    assert rb"only in a: \u2192.png" in err
    assert (folder / "out.csv").read_text() == "name,distance\nx.png,0\n"
