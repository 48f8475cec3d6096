import numpy as np
import pytest
from scipy.ndimage import gaussian_filter
from skimage.color import deltaE_cie76, rgb2lab

from perceptual.data.synthetic import observer


def image(seed=0, size=32):
    return np.random.default_rng(seed).integers(60, 190, (3, size, size), dtype=np.uint8)


def flat(*color):
    return np.broadcast_to(np.array(color, np.uint8)[:, None, None], (3, 32, 32))


def test_uniform_areas_are_compared_by_cielab():
    first, second = flat(200, 100, 50), flat(190, 110, 50)
    expected = deltaE_cie76(*(rgb2lab(each.transpose(1, 2, 0)) for each in (first, second))).mean()
    assert observer.differences(np.stack([first, second]))[0] == pytest.approx(expected, rel=0.01)


def test_nothing_differs_from_itself():
    assert observer.differences(np.stack([image()] * 3)).tolist() == [0, 0]


def test_filters_are_the_gaussians_of_the_paper():
    """By SciPy's Gaussian filter, which mirrors the image at its borders as the cosine transform does."""
    opponent = np.random.default_rng(0).random((3, 64, 64))
    density = 30.0
    from scipy.fft import dctn, idctn

    ours = idctn(
        dctn(opponent, axes=(1, 2), norm="ortho") * observer._sensitivity(64, density),
        axes=(1, 2),
        norm="ortho",
    )
    for channel, gaussians in (
        (1, ((0.531, 0.0392), (0.330, 0.494))),
        (2, ((0.488, 0.0536), (0.371, 0.386))),
    ):
        total = sum(weight for weight, _ in gaussians)
        expected = sum(
            weight
            / total
            * gaussian_filter(opponent[channel], width * density / 2**0.5, mode="reflect", truncate=8)
            for weight, width in gaussians
        )
        np.testing.assert_allclose(ours[channel], expected, atol=0.02)


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
    assert observer.prefers_p1(3.0, 3.0) == 0.5
    assert observer.prefers_p1(6.0, 3.0) == pytest.approx(1 - observer.prefers_p1(3.0, 6.0))
    assert observer.prefers_p1(6.0, 3.0) == pytest.approx(observer.prefers_p1(40.0, 20.0), abs=0.01)
    assert observer.prefers_p1(6.0, 3.0) > 0.9
    assert observer.says_same(0.0) > 0.999 > 0.55 > observer.says_same(observer.JUST_NOTICEABLE) > 0.45
    assert observer.says_same(10.0) < 0.01
