import os
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageCms, PngImagePlugin
from profiles import WHITE, display, gamma, profile, to_xyz
from trees import plain

from perceptual.cli.images import list_images
from perceptual.data.decode import checked_rgb, read_pixels, read_rgb, size_of
from perceptual.data.images import open_images
from perceptual.data.synthetic.photographs import check_sizes


@pytest.fixture
def rgb() -> Image.Image:
    return Image.fromarray(np.random.default_rng(0).integers(0, 256, (20, 20, 3), dtype=np.uint8))


@pytest.mark.parametrize("mode", ["L", "P", "1", "LA", "RGBA"])
def test_opaque_modes_are_read_as_pillow_does(tmp_path, rgb, mode):
    rgb.convert(mode).save(tmp_path / "a.png")
    opened = open_images([str(tmp_path / "a.png")], 20).one(0)
    np.testing.assert_array_equal(opened, (plain(tmp_path / "a.png", 20) * 255).round())


def test_cmyk(tmp_path, rgb):
    flat = Image.new("RGB", (16, 16), (200, 60, 20))
    flat.convert("CMYK").save(tmp_path / "a.jpg", quality=95)
    assert np.abs(np.asarray(read_rgb(str(tmp_path / "a.jpg"))).astype(int) - (200, 60, 20)).max() < 12


def test_transparent_pixels_lie_over_white(tmp_path):
    half = np.zeros((8, 8, 4), np.uint8)
    half[:, :4] = (255, 0, 0, 255)
    half[:, 4:] = (255, 0, 0, 128)
    Image.fromarray(half).save(tmp_path / "a.png")
    read = np.asarray(read_rgb(str(tmp_path / "a.png")))
    assert (read[:, :4] == (255, 0, 0)).all()
    assert (np.abs(read[:, 4:].astype(int) - (255, 127, 127)) <= 1).all()


def test_transparent_palette_lies_over_white(tmp_path):
    image = Image.new("P", (8, 8), 1)
    image.putpalette([0, 0, 0, 10, 20, 30])
    image.save(tmp_path / "a.png", transparency=1)
    assert (np.asarray(read_rgb(str(tmp_path / "a.png"))) == 255).all()


def test_16_bit_grey_is_scaled(tmp_path):
    ramp = np.linspace(0, 65535, 64).astype(np.uint16).reshape(8, 8)
    Image.fromarray(ramp).save(tmp_path / "a.png")
    read = np.asarray(read_rgb(str(tmp_path / "a.png")))
    np.testing.assert_allclose(read[..., 0], ramp / 257, atol=0.5)
    assert (read[..., 0] == read[..., 2]).all()


@pytest.mark.parametrize("kind", [np.int32, np.float32])
def test_32_bit_grey_is_refused(tmp_path, kind):
    Image.fromarray(np.ones((16, 16), kind)).save(tmp_path / "a.tif")
    with pytest.raises(ValueError, match=r"a.tif \(pixels of mode [IF], 32 bits of unknown range\)"):
        read_pixels(str(tmp_path / "a.tif"), 16)


@pytest.mark.parametrize(("orientation", "turns"), [(3, 2), (6, 3), (8, 1)])
@pytest.mark.parametrize("suffix", ["png", "jpg", "tif"])
def test_exif_orientation_is_applied(tmp_path, orientation, turns, suffix):
    pixels = np.zeros((24, 16, 3), np.uint8)
    pixels[:8, :8] = 255
    exif = Image.Exif()
    exif[0x0112] = orientation
    Image.fromarray(pixels).save(tmp_path / f"a.{suffix}", exif=exif)
    read = np.asarray(read_rgb(str(tmp_path / f"a.{suffix}"))).astype(int)
    assert np.abs(read - np.rot90(pixels, turns)).max() < 20


def test_animations_give_their_first_frame(tmp_path):
    frames = [Image.new("RGB", (16, 16), colour) for colour in ("red", "blue")]
    frames[0].save(tmp_path / "a.gif", save_all=True, append_images=frames[1:])
    assert np.asarray(read_rgb(str(tmp_path / "a.gif")))[0, 0].tolist() == [255, 0, 0]


def test_a_bomb_is_refused(tmp_path, monkeypatch):
    Image.new("1", (100, 100)).save(tmp_path / "a.png")
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 1000)
    with pytest.raises(ValueError, match=r"a.png \(Image size \(10000 pixels\) exceeds"):
        read_pixels(str(tmp_path / "a.png"), 16)


def test_a_pipe_is_not_waited_for(tmp_path):
    os.mkfifo(tmp_path / "x.png")
    Image.new("RGB", (9, 9)).save(tmp_path / "y.png")
    assert list(list_images(str(tmp_path))) == ["y.png"]
    with pytest.raises(ValueError, match="no regular file"):
        checked_rgb(str(tmp_path / "x.png"))


def png_with(chunks: list[tuple[bytes, bytes]], pixels: bytes, after: bool = False) -> bytes:
    """A PNG with more chunks, before its pixels or after them."""
    place = len(pixels) - 12 if after else 33  # before IEND, or after IHDR
    written = b"".join(
        struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))
        for name, data in chunks
    )
    return pixels[:place] + written + pixels[place:]


LONG = zlib.compress(bytes([65]) * (PngImagePlugin.MAX_TEXT_CHUNK + 1))
XMP = b'<tiff:Orientation="6">' + b" " * PngImagePlugin.MAX_TEXT_CHUNK
TEXTS = {
    "zTXt": (b"zTXt", b"Comment\0\0" + LONG),
    "iTXt": (b"iTXt", b"Comment\0\1\0en\0a comment\0" + LONG),
    "tEXt": (b"tEXt", b"Comment\0" + bytes([65]) * 3000),
    "profile": (b"iCCP", b"icc\0\0" + LONG),
}


@pytest.mark.parametrize("after", [False, True])
@pytest.mark.parametrize("kind", TEXTS)
def test_a_png_of_much_text_has_its_pixels(tmp_path, rgb, kind, after, capsys, monkeypatch):
    monkeypatch.setattr(PngImagePlugin, "MAX_TEXT_MEMORY", 2000)
    rgb.save(tmp_path / "plain.png")
    path = tmp_path / "long.png"
    path.write_bytes(png_with([TEXTS[kind]], (tmp_path / "plain.png").read_bytes(), after))
    np.testing.assert_array_equal(read_rgb(str(path)), rgb)
    assert size_of(str(path)) == (20, 20)
    said = capsys.readouterr().err.splitlines()
    assert said == (
        [f"note: {path}: its colour profile is ignored: not readable"] if kind == "profile" else []
    )


def test_much_text_may_say_how_a_png_is_turned(tmp_path, rgb):
    rgb.resize((16, 24)).save(tmp_path / "a.png")
    text = (b"iTXt", b"XML:com.adobe.xmp\0\1\0\0\0" + zlib.compress(XMP))
    (tmp_path / "a.png").write_bytes(png_with([text], (tmp_path / "a.png").read_bytes()))
    np.testing.assert_array_equal(read_rgb(str(tmp_path / "a.png")), np.rot90(rgb.resize((16, 24)), 3))
    assert size_of(str(tmp_path / "a.png")) == (16, 24)
    check_sizes([str(tmp_path / "a.png")], 64)  # reading it says what is wrong


def tiff_tags(*entries: tuple[int, int, int, bytes]) -> bytes:
    """EXIF data of tags (number, type, count, four bytes of a value or an offset)."""
    listed = b"".join(struct.pack("<HHI", *entry[:3]) + entry[3] for entry in entries)
    return b"Exif\0\0II*\0" + struct.pack("<IH", 8, len(entries)) + listed + bytes(20)


ORIENTATION = (0x0112, 3, 1, struct.pack("<HH", 6, 0))
ODD = {
    "Artist as a rational": [ORIENTATION, (0x013B, 5, 1, struct.pack("<I", 40))],
    "a signed short as the resolution unit": [ORIENTATION, (0x0128, 8, 1, struct.pack("<hH", -2, 0))],
    "a float as the resolution unit": [ORIENTATION, (0x0128, 11, 1, struct.pack("<f", 2))],
    "a value beyond the end": [ORIENTATION, (0x013B, 2, 400, struct.pack("<I", 9000))],
}


@pytest.mark.filterwarnings("ignore:Tag data larger")
@pytest.mark.parametrize("name", ODD)
def test_of_odd_tags_only_the_orientation_is_used(tmp_path, name):
    pixels = np.zeros((24, 16, 3), np.uint8)
    pixels[:8, :8] = 255
    Image.fromarray(pixels).save(tmp_path / "a.jpg", exif=tiff_tags(*ODD[name]))
    read = np.asarray(checked_rgb(str(tmp_path / "a.jpg"))).astype(int)
    assert np.abs(read - np.rot90(pixels, 3)).max() < 20
    assert size_of(str(tmp_path / "a.jpg")) == (16, 24)


@pytest.mark.parametrize("exif", [b"Exif\0\0", b"Exif\0\0no tags", tiff_tags((0x0112, 2, 3, b"six\0"))])
def test_tags_that_cannot_be_read_turn_nothing(tmp_path, exif):
    Image.new("RGB", (16, 24)).save(tmp_path / "a.jpg", exif=exif)
    assert (checked_rgb(str(tmp_path / "a.jpg")).size, size_of(str(tmp_path / "a.jpg"))) == (
        (16, 24),
        (24, 16),
    )


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("suffix", ["png", "jpg", "tif", "webp"])
def test_the_size_of_a_header_is_that_of_the_pixels(tmp_path, suffix, orientation):
    exif = Image.Exif()
    exif[0x0112] = orientation
    Image.new("RGB", (16, 24)).save(tmp_path / f"a.{suffix}", exif=exif)
    assert (
        size_of(str(tmp_path / f"a.{suffix}")) == read_pixels(str(tmp_path / f"a.{suffix}"), None).shape[1:]
    )


SRGB = [(0.64, 0.33), (0.30, 0.60), (0.15, 0.06)]
P3 = [(0.680, 0.320), (0.265, 0.690), (0.150, 0.060)]
ADOBE = [(0.64, 0.33), (0.21, 0.71), (0.15, 0.06)]


def decoded_srgb(values: np.ndarray) -> np.ndarray:
    return np.where(values <= 0.04045, values / 12.92, ((values + 0.055) / 1.055) ** 2.4)


def in_space(rgb: np.ndarray, primaries: list[tuple[float, float]]) -> np.ndarray:
    """sRGB colours (H, W, 3) uint8 in another space with the same white, by its definition."""
    linear = decoded_srgb(rgb / 255) @ (np.linalg.inv(to_xyz(primaries)) @ to_xyz(SRGB)).T
    return (np.clip(linear, 0, 1) ** (1 / 2.2) * 255).round().astype(np.uint8)


@pytest.fixture
def muted() -> np.ndarray:
    """Colours that lie in every space, (24, 20, 3)."""
    return np.random.default_rng(3).integers(60, 200, (24, 20, 3), dtype=np.uint8)


@pytest.mark.parametrize("mode", ["RGB", "RGBA", "P"])
@pytest.mark.parametrize("padding", [0, PngImagePlugin.MAX_TEXT_CHUNK])
@pytest.mark.parametrize("primaries", [P3, ADOBE])
def test_other_colour_spaces_become_srgb(tmp_path, muted, primaries, padding, mode):
    if mode == "P":
        muted = muted // 64 * 64 + 30
        muted[muted > 200] = 158
    image = Image.fromarray(in_space(muted, primaries))
    image = image.quantize(256) if mode == "P" else image.convert(mode)
    image.save(tmp_path / "a.png", icc_profile=display(primaries, 2.2, padding))
    read = read_rgb(str(tmp_path / "a.png"))
    assert np.abs(np.asarray(read).astype(int) - muted).mean() < 1
    assert np.abs(np.asarray(image.convert("RGB")).astype(int) - muted).mean() > 3
    read.save(tmp_path / "b.png")  # with no profile, which would be applied again
    np.testing.assert_array_equal(read_rgb(str(tmp_path / "b.png")), read)


def test_transparent_pixels_of_another_space_lie_over_white(tmp_path, muted):
    alpha = Image.new("L", (20, 24), 128)
    image = Image.fromarray(in_space(muted, ADOBE))
    image.putalpha(alpha)
    image.save(tmp_path / "a.png", icc_profile=display(ADOBE, 2.2))
    read = np.asarray(read_rgb(str(tmp_path / "a.png"))).astype(int)
    assert np.abs(read - (muted * (128 / 255) + 255 * (127 / 255))).mean() < 1


@pytest.mark.parametrize("mode", ["RGB", "L"])
def test_srgb_that_says_so_stays_as_it_is(tmp_path, rgb, mode):
    srgb = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    rgb.convert(mode).save(tmp_path / "a.png", icc_profile=srgb)
    np.testing.assert_array_equal(read_rgb(str(tmp_path / "a.png")), rgb.convert(mode).convert("RGB"))


def test_grey_of_another_curve(tmp_path):
    ramp = np.arange(256, dtype=np.uint8).reshape(16, 16)
    linear = profile(b"GRAY", {b"wtpt": WHITE, b"kTRC": gamma(1)})
    for name, image in (("a.png", Image.fromarray(ramp)), ("b.png", Image.fromarray(ramp).convert("LA"))):
        image.save(tmp_path / name, icc_profile=linear)
        read = np.asarray(read_rgb(str(tmp_path / name)))
        assert np.abs(decoded_srgb(read / 255) * 255 - ramp[..., None]).mean() < 0.6


def test_cmyk_with_its_profile(tmp_path):
    """By the table of a press: no ink is white, all black ink is black, and anything else L = 40, a = 30."""
    white, black = struct.pack(">3H", 65280, 32768, 32768), struct.pack(">3H", 0, 32768, 32768)
    ink = struct.pack(">3H", 40 * 652, 32768 + 30 * 256, 32768)
    straight = struct.pack(">HH", 0, 65535)
    matrix = struct.pack(">9i", *(65536 * (i % 4 == 0) for i in range(9)))
    table = b"mft2\0\0\0\0" + bytes([4, 3, 2, 0]) + matrix + struct.pack(">HH", 2, 2) + straight * 4
    table += white + (black + ink) * 7 + black + straight * 3
    image = Image.new("CMYK", (24, 16), (255, 255, 0, 0))
    image.paste((0, 0, 0, 0), (8, 0, 16, 16))
    image.paste((0, 0, 0, 255), (16, 0, 24, 16))
    image.save(tmp_path / "a.tif", icc_profile=profile(b"CMYK", {b"wtpt": WHITE, b"A2B0": table}))
    read = np.asarray(read_rgb(str(tmp_path / "a.tif"))).astype(int)
    assert np.abs(read[0, ::8] - [(139, 74, 95), (255,) * 3, (0,) * 3]).max() <= 3  # by skimage.color.lab2rgb


@pytest.mark.parametrize(
    ("mode", "broken"),
    [
        ("RGB", b"no profile"),
        ("RGB", display(P3, 2.2)[:200]),
        ("RGB", profile(b"GRAY", {b"wtpt": WHITE})),
        ("RGB", profile(b"CMYK", {b"wtpt": WHITE})),
        ("L", profile(b"GRAY", {b"wtpt": WHITE})),
    ],
)
def test_a_broken_profile_is_ignored_with_a_note(tmp_path, rgb, mode, broken, capfd):
    path = str(tmp_path / "a.png")
    rgb.convert(mode).save(path, icc_profile=broken)
    for _ in range(2):
        np.testing.assert_array_equal(read_rgb(path), rgb.convert(mode).convert("RGB"))
    (said,) = capfd.readouterr().err.splitlines()
    assert said.startswith(f"note: {path}: its colour profile is ignored: ")


ASSETS = os.environ.get("PERCEPTUAL_ASSETS")


@pytest.mark.skipif(not ASSETS, reason="PERCEPTUAL_ASSETS is not set")
@pytest.mark.parametrize(
    ("name", "turns", "mean"),
    [
        ("exif5.jpg", 3, 3),
        ("exif8.jpg", 3, 3),
        ("bigtext.png", 0, 0),
        ("icc_Display-P3.png", 0, 1),
        ("icc_AdobeRGB.png", 0, 1),
        ("icc_Display-P3.jpg", 0, 2),
    ],
)
def test_odd_files_of_cameras_and_programs(name, turns, mean, capfd):
    odd = Path(str(ASSETS)) / "odd"
    base = np.rot90(np.asarray(Image.open(odd / "base.png")).astype(int), turns)
    read = np.asarray(checked_rgb(str(odd / name))).astype(int)
    assert read.shape == base.shape == (*size_of(str(odd / name)), 3)
    assert np.abs(read - base).mean() <= mean
    assert capfd.readouterr().err == ""


@pytest.mark.skipif(not ASSETS, reason="PERCEPTUAL_ASSETS is not set")
def test_a_padded_profile_of_a_program(capfd):
    """Of the pixels of `base.png` in Display P3, with a tone curve of 2.2."""
    odd = Path(str(ASSETS)) / "odd"
    base = np.asarray(Image.open(odd / "base.png"))
    linear = np.clip((base / 255) ** 2.2 @ (np.linalg.inv(to_xyz(SRGB)) @ to_xyz(P3)).T, 0, 1)
    srgb = np.where(linear <= 0.0031308, 12.92 * linear, 1.055 * linear ** (1 / 2.4) - 0.055) * 255
    assert np.abs(np.asarray(checked_rgb(str(odd / "bigicc.png"))) - srgb).mean() < 1
    assert capfd.readouterr().err == ""
