import numpy as np
import pytest
from PIL import Image
from trees import plain

from perceptual.data.decode import read_pixels, read_rgb
from perceptual.data.images import open_images


@pytest.fixture
def rgb() -> Image.Image:
    return Image.fromarray(np.random.default_rng(0).integers(0, 256, (20, 20, 3), dtype=np.uint8))


@pytest.mark.parametrize("mode", ["L", "P", "1", "LA", "RGBA"])
def test_opaque_modes_are_read_as_pillow_does(tmp_path, rgb, mode):
    rgb.convert(mode).save(tmp_path / "a.png")
    opened = open_images([str(tmp_path / "a.png")], 20)[0]
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
