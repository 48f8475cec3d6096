import csv
import json
import struct
import sys
from dataclasses import asdict
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from perceptual.distance.noticed import Noticed
from perceptual.distance.saving import folders
from perceptual.files import messages

av = pytest.importorskip("av")


def write(path, frames, rate=10, codec="ffv1"):
    """A lossless video of frames (H, W, 3)."""
    with av.open(path, "w") as container:
        stream = container.add_stream(codec, rate=rate)
        stream.height, stream.width = frames[0].shape[:2]
        stream.pix_fmt = "bgr0" if codec == "ffv1" else "rgb24"
        for frame in frames:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
        container.mux(stream.encode())


@pytest.fixture
def frames():
    rng = np.random.default_rng(0)
    return [rng.integers(0, 256, (48, 64, 3), dtype=np.uint8) for _ in range(9)]


@pytest.fixture
def changed(frames):
    """The frames, with a seventh that is something else."""
    return [*frames[:6], 255 - frames[6], *frames[7:]]


def test_each_frame_has_the_distance_of_its_images(shell, folder, frames, changed, weights):
    write("a.mkv", frames)
    write("b.mkv", changed)
    code, out, err = shell("video", "a.mkv", "b.mkv", "-o", "out.csv", "--plot", "out.png")
    assert (code, err) == (0, "")
    with open("out.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    Image.fromarray(frames[6]).save("a.png")
    Image.fromarray(changed[6]).save("b.png")
    alone = json.loads(shell("distance", "a.png", "b.png", "--json")[1])["distance"]
    assert [float(row["distance"]) for row in rows] == pytest.approx(
        [0] * 6 + [alone] + [0] * 2, rel=1e-5, abs=1e-9
    )
    assert [float(row["seconds"]) for row in rows] == pytest.approx([i / 10 for i in range(9)], abs=0.01)
    assert out.startswith(f"9 frames · mean {alone / 9:.4f} · greatest {alone:.4f} at frame 6 (0.60 s)")
    assert np.ptp(np.asarray(Image.open("out.png").convert("L"))) > 100


def test_of_each_frame_counts_what_a_mask_says_and_the_greatest_is_explained(
    shell, folder, frames, changed, weights
):
    """The distances are those of `perceptual distance`; the last line is that of the fit in the folder."""
    write("a.mkv", frames)
    write("b.mkv", changed)
    ink = np.zeros((48, 64), np.uint8)
    ink[8:30, 10:40] = 255
    for name, image in (("m", ink), ("black", ink * 0), ("a", frames[6]), ("b", changed[6])):
        Image.fromarray(image).save(f"{name}.png")
    curve = Noticed(0.3, 1.5, 0.1, 0.95, 0.2, 0.4, 40, "photographs")
    assert shell("export", "alexnet", "mine")[0] == 0
    folders.note(Path("mine"), noticed=asdict(curve))
    for outside in ("see", "fill"):
        words = ("--mask=m.png", f"--outside={outside}", "-m", "./mine")
        alone = json.loads(shell("distance", "a.png", "b.png", *words, "--json")[1])["distance"]
        code, out, err = shell("video", "a.mkv", "b.mkv", *words, "--json")
        assert (code, err) == (0, "")
        found = [row["distance"] for row in json.loads(out)["frames"]]
        assert found == pytest.approx([0] * 6 + [alone] + [0] * 2, rel=1e-5, abs=1e-9)
        code, out, err = shell("video", "a.mkv", "b.mkv", *words)
        assert out.splitlines()[-1] == f"greatest {alone:.4f}, which {curve.sentence(alone)}"
        code, _, err = shell("video", "a.mkv", "b.mkv", *words, "--fail-above-noticed", "20%")
        assert alone > curve.distance(0.2)
        assert (code, "frame 6 (0.60 s)" in err) == (3, True)
    code, _, err = shell("video", "a.mkv", "b.mkv", "--mask=black.png")
    assert (code, "the mask black.png is black" in err) == (1, True)


@pytest.mark.parametrize(
    ("matrix", "turn"),
    [
        ((0, 1, -1, 0), -1),
        ((-1, 0, 0, -1), 2),
        ((0, -1, 1, 0), 1),
    ],  # as telephones write it; turns to the left
)
def test_frames_are_turned_as_the_file_says(shell, folder, frames, matrix, turn):
    write("a.mov", frames, codec="png")
    write("b.mov", [np.rot90(frame, turn).copy() for frame in frames], codec="png")
    video = Path("a.mov").read_bytes()
    header = video.index(b"tkhd") + 4 + 40  # ISO/IEC 14496-12: nine numbers a b u c d v x y w, 16.16 and 2.30
    a, b, c, d = (number << 16 for number in matrix)
    turned = struct.pack(">9i", a, b, 0, c, d, 0, 0, 0, 1 << 30)
    Path("a.mov").write_bytes(video[:header] + turned + video[header + 36 :])
    code, out, err = shell("video", "a.mov", "b.mov", "-m", "l2", "--json")
    assert (code, err) == (0, "")
    assert [row["distance"] for row in json.loads(out)["frames"]] == [0] * 9


def test_other_lengths_and_rates_are_reported(shell, folder, frames):
    write("a.mkv", frames)
    write("b.mkv", frames[:6], rate=25)
    code, out, err = shell("video", "a.mkv", "b.mkv", "-m", "l2", "--json")
    found = json.loads(out)
    assert (code, len(found["frames"]), found["left_out"]) == (0, 6, {"a.mkv": 3})
    assert err.splitlines() == [
        "a.mkv has 10 frames per second and b.mkv 25: frames are compared by number, not by time",
        "a.mkv has 3 frames more, which were left out",
    ]


@pytest.mark.parametrize(("one", "other"), [(30, "29.97"), (24, "23.976"), (60, "59.9401")])
def test_rates_of_film_and_television_are_told_apart(shell, folder, frames, one, other):
    write("a.mov", frames, one, "rawvideo")
    write("b.mov", frames, Fraction(one * 1000, 1001), "rawvideo")
    code, _, err = shell("video", "a.mov", "b.mov", "-m", "l2", "--json")
    assert (code, err.splitlines()) == (
        0,
        [f"a.mov has {one} frames per second and b.mov {other}: frames are compared by number, not by time"],
    )
    write("c.mkv", frames, Fraction(one * 1000, 1001))  # whose times are rounded to milliseconds
    assert shell("video", "b.mov", "c.mkv", "-m", "l2", "--json")[::2] == (0, "")


def test_other_sizes_are_refused_or_resized(shell, folder, frames):
    write("a.mkv", frames)
    write("b.mkv", [frame[:24, :32].copy() for frame in frames])
    code, out, err = shell("video", "a.mkv", "b.mkv", "-m", "l2", "-o", "out.csv")
    assert (code, out) == (1, "")
    assert err.startswith("error: a.mkv has 64×48 pixels, b.mkv 32×24; --resize")
    assert not list(Path().glob("out*"))
    code, out, _ = shell("video", "a.mkv", "b.mkv", "-m", "l2", "--resize", "--csv")
    assert (code, len(out.splitlines())) == (0, 10)


def test_memory_is_that_of_a_few_frames(shell, folder, frames, monkeypatch):
    """Frames are let go of as they are measured: no more are held late in a video than early."""
    from perceptual.cli import batches
    from perceptual.cli import frames as module

    write("a.mkv", frames * 20)
    monkeypatch.setattr(batches, "PIXELS", 4 * 48 * 64)
    held, most = [0], [0]
    image, measure = module._image, batches.stack

    def count(frame):
        held[0] += 1
        most[0] = max(most[0], held[0])
        return image(frame)

    def release(images):
        held[0] -= len(images)
        return measure(images)

    monkeypatch.setattr(module, "_image", count)
    monkeypatch.setattr(batches, "stack", release)
    code, out, _ = shell("video", "a.mkv", "a.mkv", "-m", "l2", "--csv")
    assert (code, len(out.splitlines())) == (0, 181)
    assert most[0] <= 2 * (4 + 2 * 4 + 2 * batches.WORKERS)


@pytest.mark.parametrize(
    ("b", "message"),
    [
        ("gone.mkv", "no file gone.mkv"),
        (".", ". is a folder, where one video is expected"),
        ("text.mkv", "text.mkv (not a video)"),
        ("https://x.org/a.mkv", "https://x.org/a.mkv is a URL, which is not fetched"),
    ],
)
def test_what_is_no_video_is_one_line(shell, folder, frames, b, message):
    write("a.mkv", frames)
    (folder / "text.mkv").write_bytes(b"an essay" * 100)
    code, out, err = shell("video", "a.mkv", b, "-m", "l2")
    assert (code, out) == (1, "")
    assert err.startswith(f"error: {message}")
    assert len(err.splitlines()) == 1


def test_damage_in_the_middle_is_reported_and_what_came_before_done(shell, folder, frames, monkeypatch):
    from perceptual.cli import frames as module

    write("a.mkv", frames)
    write("b.mkv", frames)
    whole = module.Video.frames

    def damaged(self):
        for number, frame in enumerate(whole(self)):
            if number == 5 and self.path == "b.mkv":
                raise ValueError("b.mkv cannot be read beyond frame 5")
            yield frame

    monkeypatch.setattr(module.Video, "frames", damaged)
    code, _, err = shell("video", "a.mkv", "b.mkv", "-m", "l2", "-o", "out.csv")
    assert (code, err) == (1, "error: b.mkv cannot be read beyond frame 5")
    assert len(Path("out.csv").read_text().splitlines()) == 6


def test_without_pyav_one_line_says_so(shell, draw, monkeypatch, tmp_path):
    draw("a", 0, format="png")
    monkeypatch.setitem(sys.modules, "av", None)
    for clone, what in ((messages.CLONE, "-e '.[video]'"), (tmp_path, "'perceptual-lpips[video]'")):
        monkeypatch.setattr(messages, "CLONE", clone)
        assert shell("video", "a", "a")[2] == f"error: av is not installed: pip install {what}"
