import numpy as np
import pytest
from scipy.fft import dctn, idctn
from scipy.ndimage import gaussian_filter
from skimage.color import deltaE_cie76, rgb2lab

from perceptual.data.synthetic import observer


def image(seed=0, size=32):
    return np.random.default_rng(seed).integers(60, 190, (3, size, size), dtype=np.uint8)


def flat(*color):
    return np.broadcast_to(np.array(color, np.uint8)[:, None, None], (3, 32, 32))


@pytest.mark.parametrize(
    ("first", "second", "rel"),
    [(flat(200, 100, 50), flat(190, 110, 50), 0.01), (flat(12, 3, 0), flat(4, 9, 2), 0.02)],
)
def test_uniform_areas_are_compared_by_cielab_and_count_a_fifth(first, second, rel):
    expected = deltaE_cie76(*(rgb2lab(each.transpose(1, 2, 0)) for each in (first, second))).mean()
    assert observer.differences(np.stack([first, second]))[0] == pytest.approx(expected / 5, rel=rel)


def test_nothing_differs_from_itself():
    assert observer.differences(np.stack([image()] * 3)).tolist() == [0, 0]


def test_colours_are_filtered_by_the_gaussians_of_the_paper():
    """By SciPy's Gaussian filter, which mirrors the image at its borders as the cosine transform does."""
    difference = np.random.default_rng(0).random((3, 64, 64))
    difference -= difference.mean((1, 2), keepdims=True)
    spectrum = dctn(difference, axes=(1, 2), norm="ortho") * observer.sensitivity(64, 30.0)
    ours = idctn(spectrum, axes=(1, 2), norm="ortho")
    for channel, gaussians in (
        (1, ((0.531, 0.0392), (0.330, 0.494))),
        (2, ((0.488, 0.0536), (0.371, 0.386))),
    ):
        total = sum(weight for weight, _ in gaussians)
        expected = sum(
            weight
            / total
            * gaussian_filter(difference[channel], width * 30 / 2**0.5, mode="reflect", truncate=8)
            for weight, width in gaussians
        )
        np.testing.assert_allclose(ours[channel], expected, atol=0.02)


@pytest.mark.parametrize("cycles", [1, 8, 20, 60])
def test_lightness_is_filtered_by_the_band_pass_curve(cycles):
    """Mannos and Sakrison's formula, whose maximum is .98 at 8 cycles per degree."""
    frequency = cycles / 128 * observer.PIXELS_PER_DEGREE  # a half wave for each step of the transform
    expected = 2.6 * (0.0192 + 0.114 * frequency) * np.exp(-((0.114 * frequency) ** 1.1)) / 0.98
    assert observer.sensitivity(64)[0, 0, cycles] == pytest.approx(expected, rel=0.01)
    assert observer.sensitivity(64)[0, cycles, 0] == pytest.approx(expected, rel=0.01)


def test_colour_is_seen_less_sharply_than_luminance():
    board = np.indices((32, 32)).sum(0) % 2 * 2 - 1
    grey = np.full((3, 32, 32), 128)
    lighter = grey + 20 * board
    redder = grey + np.array([20, -9, 0])[:, None, None] * board  # luminance stays about the same
    coarse = grey + np.array([20, -9, 0])[:, None, None] * np.kron(board[:4, :4], np.ones((8, 8), int))
    d_light, d_red, d_coarse = observer.differences(
        np.stack([grey, lighter, redder, coarse]).astype(np.uint8)
    )
    assert d_red < d_light / 2
    assert d_red < d_coarse / 2


def test_preference_depends_on_the_ratio_and_threshold_on_the_difference():
    assert observer.by_sight(3.0, 3.0) == 0.5
    assert observer.by_sight(6.0, 3.0) == pytest.approx(1 - observer.by_sight(3.0, 6.0))
    assert observer.by_sight(6.0, 3.0) == pytest.approx(observer.by_sight(40.0, 20.0), abs=0.01)
    assert observer.by_sight(6.0, 3.0) > 0.9
    assert observer.by_sight(0.0) > 0.999 > 0.55 > observer.by_sight(observer.JUST_NOTICEABLE) > 0.45
    assert observer.by_sight(10.0) < 0.01
