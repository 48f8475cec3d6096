import pytest
import torch

from perceptual.data.distortions import FAMILIES
from perceptual.data.photos import TRAIN_PHOTOS, _crop, read_photos


@pytest.fixture(scope="module")
def patches():
    import numpy as np

    photos = read_photos(TRAIN_PHOTOS)
    return [_crop(photo, 64, np.random.default_rng(0)).float() / 255 for photo in photos]


@pytest.fixture(params=FAMILIES.values(), ids=FAMILIES)
def distort(request):
    return request.param


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def test_severity_zero_changes_nothing(distort, patches):
    for patch in patches:
        assert (distort(patch, 0.0, generator()) - patch).abs().max() < 1 / 255


def test_difference_grows_with_severity(distort, patches):
    def mean_l2(severity):
        pairs = ((patch, distort(patch, severity, generator(i))) for i, patch in enumerate(patches))
        return torch.stack([(x - y).square().mean().sqrt() for x, y in pairs]).mean().item()

    curve = [mean_l2(severity) for severity in (0, 0.2, 0.4, 0.6, 0.8, 1)]
    assert curve == sorted(curve)
    assert curve[1] > 0
    assert curve[-1] > 0.03


def test_shape_range_and_input_kept(distort, patches):
    patch = patches[3][:, :48]
    before = patch.clone()
    distorted = distort(patch, 0.7, generator())
    assert distorted.shape == patch.shape
    assert distorted.dtype == torch.float32
    assert 0 <= distorted.min() <= distorted.max() <= 1
    assert torch.equal(patch, before)


def test_generator_decides(distort, patches):
    first, again = (distort(patches[0], 0.7, generator(5)) for _ in range(2))
    assert torch.equal(first, again)


@pytest.mark.parametrize("name", ["noise", "contrast", "color", "warp"])
def test_chance_varies(name, patches):
    results = [FAMILIES[name](patches[0], 0.7, generator(seed)) for seed in range(8)]
    assert any(not torch.equal(results[0], other) for other in results[1:])


def test_color_keeps_luma():
    grey = torch.full((3, 8, 8), 0.5)
    shifted = FAMILIES["color"](grey, 0.5, generator())
    luma = (torch.tensor([0.299, 0.587, 0.114])[:, None, None] * shifted).sum(0)
    torch.testing.assert_close(luma, grey[0], atol=1e-3, rtol=0)
    assert (shifted - grey).abs().max() > 0.02
