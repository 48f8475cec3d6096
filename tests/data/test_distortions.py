import numpy as np
import pytest
import torch

from perceptual.data.decode import read_rgb, resized
from perceptual.data.synthetic.distortions import FAMILIES, GROUPS, distort
from perceptual.data.synthetic.photographs import TRAIN_PHOTOS, packaged

LEVELS = (0, 0.2, 0.4, 0.6, 0.8, 1)


@pytest.fixture(scope="module")
def patches() -> torch.Tensor:
    """(10, 3, 64, 64), one of each photograph."""
    crops = [resized(read_rgb(path).crop((100, 100, 260, 260)), 64) for path in packaged(TRAIN_PHOTOS)]
    return torch.from_numpy(np.stack([np.array(crop) for crop in crops])).permute(0, 3, 1, 2).float() / 255


@pytest.fixture(params=FAMILIES)
def name(request):
    return request.param


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def test_families_are_those_of_the_paper():
    assert {group: len(families) for group, families in GROUPS.items()} == {
        "photometric": 4,
        "noise": 6,
        "blur": 2,
        "spatial": 7,
        "compression": 1,
    }
    assert len(FAMILIES) == 20


def test_severity_zero_changes_nothing(name, patches):
    assert (distort(patches, [(name, 0.0)], generator()) - patches).abs().max() < 1 / 255


def test_difference_grows_with_severity(name, patches):
    def mean_l2(severity):
        difference = distort(patches, [(name, severity)], generator()) - patches
        return difference.square().mean((1, 2, 3)).sqrt().mean().item()

    curve = [mean_l2(severity) for severity in LEVELS]
    assert curve == sorted(curve)
    assert curve[1] > 0.005
    assert curve[-1] > 0.03


@pytest.mark.slow
def test_distance_of_alexnet_grows_with_severity(name, patches, assets, monkeypatch):
    monkeypatch.setenv("PERCEPTUAL_WEIGHTS", str(assets / "weights"))
    from perceptual import LPIPS

    lpips = LPIPS("alexnet-uncalibrated")
    with torch.no_grad():
        curve = [
            lpips(patches, distort(patches, [(name, level)], generator()).clamp(0, 1)).mean().item()
            for level in LEVELS
        ]
    assert curve == sorted(curve)
    assert curve[0] < 1e-3 < 0.01 < curve[-1]


def test_shape_range_and_input_kept_and_generator_decides(name, patches):
    images = patches[2:4, :, :48]
    before = images.clone()
    distorted = distort(images, [(name, 0.7)], generator(5))
    assert torch.equal(distort(images, [(name, 0.7)], generator(5)), distorted)
    assert distorted.shape == images.shape
    assert distorted.dtype == torch.float32
    assert 0 <= distorted.min() <= distorted.max() <= 1 + 1e-6
    assert torch.equal(images, before)


def test_severity_may_differ_between_images(name, patches):
    pair = patches[:1].repeat(2, 1, 1, 1)
    distorted = distort(pair, [(name, torch.tensor([0.0, 0.9]))], generator())
    assert (distorted[0] - pair[0]).abs().max() < 1 / 255
    assert (distorted[1] - pair[1]).abs().max() > 5 / 255


@pytest.mark.parametrize("name", sorted(set(FAMILIES) - {"gaussian_blur", "bilateral_blur", "jpeg"}))
def test_chance_varies_from_image_to_image(name, patches):
    distorted = distort(patches[:1].repeat(8, 1, 1, 1), [(name, 0.7)], generator())
    assert any(not torch.allclose(distorted[0], other, atol=0.01) for other in distorted[1:])


def test_sequence_is_one_after_the_other(patches):
    steps = [("gaussian_blur", 0.3), ("jpeg", 0.5), ("white_noise", 0.2)]
    chance, images = generator(1), patches
    for step in steps:
        images = distort(images, [step], chance)
    assert torch.equal(distort(patches, steps, generator(1)), images)


@pytest.mark.parametrize("name", ["color_shift", "saturation"])
def test_luma_is_kept(name):
    images = 0.5 + 0.1 * torch.randn(4, 3, 8, 8, generator=generator()).clamp(-1, 1)
    luma = torch.tensor([0.299, 0.587, 0.114])[:, None, None]
    distorted = distort(images, [(name, 0.4)], generator())
    torch.testing.assert_close((luma * distorted).sum(1), (luma * images).sum(1), atol=1e-3, rtol=0)
    assert (distorted - images).abs().max() > 0.02


@pytest.mark.parametrize(
    ("name", "exponent"), [("white_noise", 0), ("uniform_noise", 0), ("pink_noise", -1), ("blue_noise", 1)]
)
def test_spectrum_of_noise(name, exponent):
    grey = torch.full((40, 3, 64, 64), 0.5)
    noise = (distort(grey, [(name, 0.3)], generator()) - grey).numpy()
    power = (np.abs(np.fft.fft2(noise)) ** 2).mean((0, 1))
    frequency = np.hypot(np.fft.fftfreq(64)[:, None], np.fft.fftfreq(64))
    inside = (frequency > 0.03) & (frequency < 0.5)
    slope = np.polyfit(np.log(frequency[inside]), np.log(power[inside]), 1)[0]
    assert slope == pytest.approx(exponent, abs=0.1)
    assert noise.std() == pytest.approx(0.3 * 0.2, rel=0.05)


def test_bilateral_keeps_an_edge_that_gaussian_does_not():
    edge = torch.zeros(1, 3, 64, 64)
    edge[..., 32:] = 1
    blurred = {
        name: distort(edge, [(name, 0.6)], generator())[0, 0, 32]
        for name in ("bilateral_blur", "gaussian_blur")
    }
    assert blurred["bilateral_blur"].diff().max() > 0.95
    assert blurred["gaussian_blur"].diff().max() < 0.5


def test_gaussian_blur_is_scipys(patches):
    from scipy.ndimage import gaussian_filter

    blurred = distort(patches[:2], [("gaussian_blur", torch.tensor([0.3, 0.9]))], generator())
    for image, ours, severity in zip(patches, blurred, (0.3, 0.9), strict=False):
        expected = gaussian_filter(image.numpy(), severity * 3.2, axes=(1, 2), mode="mirror", radius=10)
        np.testing.assert_allclose(ours, expected, atol=1e-5)


def test_jpeg_is_pillows(patches):
    import io

    from PIL import Image

    pixels = (patches[0] * 255).round().byte().permute(1, 2, 0).numpy()
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "JPEG", quality=5)
    expected = np.asarray(Image.open(file)) / np.float32(255)
    np.testing.assert_array_equal(
        distort(patches[:1], [("jpeg", 1)], generator())[0].permute(1, 2, 0), expected
    )


@pytest.mark.parametrize(
    ("shape", "step", "message"),
    [
        ((3, 8, 8), ("jpeg", 0.5), r"images must be \(N, 3, H, W\), got \(3, 8, 8\)"),
        ((1, 3, 8, 8), ("jpg", 0.5), "no family of distortion 'jpg'; there are lightness"),
        ((1, 3, 8, 8), ("jpeg", 1.5), r"severity of jpeg must be in \[0, 1\], got 1.5"),
        ((1, 3, 8, 8), ("jpeg", float("nan")), "severity of jpeg must be in"),
    ],
)
def test_wrong_arguments(shape, step, message):
    with pytest.raises(ValueError, match=message):
        distort(torch.zeros(shape), [step], generator())
