"""Limits of dirs, pairs and video, with the page and the JUnit XML of what exceeds them."""

import base64
import io
import json
import re
from html.parser import HTMLParser
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pytest
from PIL import Image

from perceptual.cli import gate as gates
from perceptual.cli.gate import PICTURED, Measured, _junit, _page

HOSTILE = "<img src=x onerror=alert(1)>&\"'.png"


class Page(HTMLParser):
    """What a browser makes of a page: tags with attributes, and its text."""

    def __init__(self, text):
        super().__init__()
        self.tags, self.text, self.images = [], [], []
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        self.tags.append(tag)
        assert not [name for name, _ in attributes if name.startswith("on")]
        if tag == "img":
            self.images.append(dict(attributes))

    def handle_data(self, data):
        self.text.append(data.strip())


@pytest.fixture
def folders(folder):
    """Three pairs of images, that differ by nothing, in a corner, and everywhere."""
    rng = np.random.default_rng(0)
    for name, size in (("same.png", 0), ("corner.png", 12), (HOSTILE, 40)):
        pixels = rng.integers(0, 256, (40, 40, 3), dtype=np.uint8)
        other = pixels.copy()
        other[:size, :size] = 255 - pixels[:size, :size]
        for side, image in (("a", pixels), ("b", other)):
            Path(side).mkdir(exist_ok=True)
            Image.fromarray(image).save(f"{side}/{name}")


def test_what_exceeds_the_limit_is_listed_shown_and_fails(shell, folders, weights):
    words = ("dirs", "a", "b", "--report", "out/r.html", "--junit", "out/j.xml", "--json", "--fail-above")
    code, out, err = shell(*words, 0.001)
    found = {pair["name"]: pair["distance"] for pair in json.loads(out)["pairs"]}
    worst = sorted(found, key=found.get)[:0:-1]
    assert code == 3
    assert worst == [HOSTILE, "corner.png"]
    assert err.splitlines() == [f"above 0.001: {name} {found[name]:.4f}" for name in worst]
    page = Page(Path("out/r.html").read_text("utf-8"))
    assert [text for text in page.text if text in found] == worst
    assert [text for text in page.text if text.startswith("distance ")] == [
        f"distance {found[name]:.4f}" for name in worst
    ]
    assert page.tags.count("img") == 6
    assert [image["alt"] for image in page.images[3:]] == [
        "a/corner.png",
        "b/corner.png",
        "where they differ",
    ]
    shown = [
        np.asarray(Image.open(io.BytesIO(base64.b64decode(image["src"].partition(",")[2])))).astype(int)
        for image in page.images[3:]
    ]
    assert np.abs(shown[0] - np.asarray(Image.open("a/corner.png"))).mean() < 20
    # the map is coloured where they differ
    color = np.ptp(shown[2], axis=2)
    assert color[:12, :12].mean() > 3 * color[25:, 25:].mean()
    suite = ElementTree.parse("out/j.xml").getroot().find("testsuite")
    assert {key: suite.get(key) for key in ("tests", "failures", "errors")} == {
        **{"tests": "3", "failures": "2", "errors": "0"}
    }
    assert {case.get("name") for case in suite if case.find("failure") is not None} == set(worst)
    code, _, err = shell(*words, 9)
    assert (code, err) == (0, "")
    assert "0 of 3 are above 9" in Page(Path("out/r.html").read_text("utf-8")).text


def test_an_image_that_has_gone_or_is_damaged_does_not_pass(shell, folders):
    Image.new("RGB", (40, 40)).save("a/gone.png")
    Path("b/corner.png").write_bytes(b"none")
    code, _, err = shell("dirs", "a", "b", "-m", "l2", "--fail-above", 0.9, "--junit", "j.xml")
    assert code == 1
    assert "only in a: gone.png" in err
    assert "error: 2 of 4 pairs could not be measured" in err
    suite = ElementTree.parse("j.xml").getroot().find("testsuite")
    errors = [case.get("name") for case in suite if case.find("error") is not None]
    assert len(errors) == 2
    assert errors[0] == "gone.png: only in a"
    assert errors[1].startswith("corner.png: ")


def test_pairs_and_videos_have_limits_too(shell, folders):
    code, _, err = shell("pairs", "a", "-m", "l2", "--fail-above", 0.01, "--report", "r.html")
    assert code == 3
    assert len(err.splitlines()) == 3
    assert Path("r.html").read_text("utf-8").count("<img ") == 9  # l2 has a map, too
    av = pytest.importorskip("av")
    rng = np.random.default_rng(0)
    frames = [rng.integers(0, 256, (48, 64, 3), dtype=np.uint8) for _ in range(5)]
    for name, shown in (("a.mkv", frames), ("b.mkv", [*frames[:3], 255 - frames[3], frames[4]])):
        with av.open(name, "w") as container:
            stream = container.add_stream("ffv1", rate=10)
            stream.height, stream.width, stream.pix_fmt = 48, 64, "bgr0"
            for frame in shown:
                container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
            container.mux(stream.encode())
    code, _, err = shell("video", "a.mkv", "b.mkv", "-m", "gmsd", "--fail-above", 0, "--report", "r.html")
    assert code == 3
    assert re.fullmatch(r"above 0: frame 3 \(0\.30 s\) 0\.\d{4}", err.strip())
    assert Path("r.html").read_text("utf-8").count("<img ") == 2  # gmsd has none


def test_ten_thousand_pairs_are_a_small_page(monkeypatch):
    """The worst have their images, the others a row; no name is markup, whatever it holds."""
    evil = f"{HOSTILE}\udcff\x00\x1b[2J</style><script>"
    worst = [
        (Measured(f"{i}{evil}", 1.0, (evil, evil)), ["data:image/jpeg;base64,AA"] * 3 if i < PICTURED else [])
        for i in range(10_000)
    ]
    text = _page("10,000", "alexnet", worst, [evil])
    page = Page(text)
    assert len(text) < 3_000_000
    assert (page.tags.count("section"), page.tags.count("tr")) == (PICTURED, 10_000 - PICTURED + 1)
    assert page.tags.count("img") == 3 * PICTURED
    assert "script" not in page.tags
    xml = ElementTree.fromstring(_junit([one for one, _ in worst], {1}, [evil], 0.5).partition("\n")[2])
    assert xml[0][0].get("name") == f"0{HOSTILE}\\udcff\\x00\\x1b[2J</style><script>"


@pytest.mark.parametrize(
    ("words", "error"),
    [
        (["--report", "r.html"], "--report shows what exceeds a limit: give one by --fail-above"),
        (["--junit", "r.xml"], "--junit shows what exceeds a limit"),
        (["--fail-above", "nan"], "--fail-above must be a finite number, got nan"),
        (["--fail-above", "1", "--report", "a"], "a is a folder"),
        (["--fail-above", "1", "--junit", "b/same.png"], "b/same.png is one of the files to be read"),
    ],
)
def test_what_is_no_limit_is_refused(shell, folders, words, error):
    code, _, err = shell("dirs", "a", "b", "-m", "l2", *words)
    assert code == 1
    assert error in err


def test_a_distance_that_is_no_number_keeps_no_limit(monkeypatch):
    gate = gates.Gate(0.5, None, None, None)
    rows = [Measured(str(value), value, ("", "")) for value in (0.1, float("nan"), 0.6, -np.inf)]
    gate.check(rows, [], None, None)
    assert sorted(gate.failing) == [1, 2]
