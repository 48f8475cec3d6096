"""The definitions of classic distances, beside scikit-image and torchmetrics, on photographs as they are."""

import io

import numpy as np
import pytest
import skimage.data
import torch
from PIL import Image
from skimage.metrics import peak_signal_noise_ratio, structural_similarity
from torchmetrics.functional.image import structural_similarity_index_measure

from perceptual.distance.baselines import BASELINES, DEFINITIONS

WINDOW = {"gaussian_weights": True, "sigma": 1.5, "use_sample_covariance": False, "data_range": 1.0}


@pytest.fixture(scope="module")
def photographs():
    """A part of a photograph, 200×208, and its JPEG, (H, W, 3) in [0, 1]."""
    photo, file = skimage.data.chelsea()[50:250, 100:308], io.BytesIO()
    Image.fromarray(photo).save(file, "JPEG", quality=30)
    return photo / 255, np.asarray(Image.open(file)) / 255


def tensors(photographs):
    return (torch.from_numpy(image.transpose(2, 0, 1)[None]) for image in photographs)


def ours(name, photographs):
    return BASELINES[name]()(*tensors(photographs)).item()


def luma(image):
    return image @ [0.299, 0.587, 0.114]


def test_ssim_is_that_of_torchmetrics_and_ssim_valid_that_of_scikit_image(photographs):
    x, y = (image.float() for image in tensors(photographs))  # a hundred times as fast
    found = BASELINES["ssim"]()(x, y).item()
    expected = structural_similarity_index_measure(x, y, data_range=1.0).item()
    assert found == pytest.approx(1 - expected, abs=1e-6)
    expected = structural_similarity(*photographs, channel_axis=2, **WINDOW)
    assert ours("ssim_valid", photographs) == pytest.approx(1 - expected, abs=1e-5)
    assert abs(ours("ssim_valid", photographs) - found) > 1e-5


def test_luma(photographs):
    x, y = map(luma, photographs)
    assert ours("ssim_y", photographs) == pytest.approx(1 - structural_similarity(x, y, **WINDOW), abs=1e-5)
    expected = peak_signal_noise_ratio(x, y, data_range=1)
    assert ours("psnr_y", photographs) == pytest.approx(-expected, abs=1e-5)
    large = [np.kron(image, np.ones((2, 2, 1))) for image in photographs]
    assert ours("ssim_y_256", large) == pytest.approx(ours("ssim_y", photographs), abs=1e-5)


def test_every_classic_distance_says_what_it_is_of():
    assert set(DEFINITIONS) == set(BASELINES)
