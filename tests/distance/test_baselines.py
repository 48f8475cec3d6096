import copy
import io
import pickle
import urllib.error
from types import SimpleNamespace

import lpips
import numpy as np
import pytest
import skimage.data
import torch
from PIL import Image
from scipy.ndimage import gaussian_filter
from skimage.color import rgb2lab
from skimage.metrics import peak_signal_noise_ratio, structural_similarity
from torchmetrics.functional.image import structural_similarity_index_measure
from torchvision.models.vgg import cfgs, make_layers

from perceptual.distance.baselines import BASELINES, DEFINITIONS
from perceptual.names import CLASSICS

NAMES = [name for name in BASELINES if name != "dists"]


def size(name: str) -> int:
    return max(BASELINES[name]().min_size, 32)


def images(n: int = 3, size: int = 64) -> torch.Tensor:
    """Smooth coloured blobs: (n, 3, size, size) in [0, 1]."""
    noise = torch.rand(n, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    return torch.nn.functional.interpolate(noise, size=(size, size), mode="bicubic").clamp(0, 1)


def noisy(x: torch.Tensor, amount: float) -> torch.Tensor:
    noise = torch.randn(x.shape, generator=torch.Generator().manual_seed(1))
    return (x + amount * noise).clamp(0, 1)


def test_every_classic_distance_has_a_name_and_a_definition():
    assert set(BASELINES) == set(CLASSICS) == set(DEFINITIONS)


@pytest.mark.parametrize("name", NAMES)
def test_distance_grows_with_the_noise_from_none_for_equal_images(name):
    distance, x = BASELINES[name](), images(2, size(name))
    none, little, much = (distance(x, noisy(x, amount)) for amount in (0.0, 0.02, 0.2))
    assert none.shape == little.shape == (2,)
    if name in ("psnr", "psnr_y"):
        assert none.tolist() == [-torch.inf] * 2
    else:
        torch.testing.assert_close(none, torch.zeros(2), rtol=0, atol=1e-5)
    assert (none < little).all()
    assert (little < much).all()


@pytest.mark.parametrize("name", NAMES)
def test_batched_equals_one_by_one(name):
    distance, x = BASELINES[name](), images(3, size(name))
    y = noisy(x, 0.1) * torch.tensor([1.0, 0.5, 0.2]).view(3, 1, 1, 1)
    single = torch.cat([distance(x[i : i + 1], y[i : i + 1]) for i in range(3)])
    torch.testing.assert_close(distance(x, y), single, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("name", NAMES)
def test_flat_images_have_a_finite_distance(name):
    x = torch.full((1, 3, size(name), size(name)), 0.5)
    assert BASELINES[name]()(x, x + 0.2).isfinite().all()
    assert not BASELINES[name]()(x, x).isnan().any()


@pytest.mark.parametrize("name", NAMES)
def test_smallest_size_works_and_less_is_refused(name):
    distance = BASELINES[name]()
    x = torch.rand(2, 3, distance.min_size, distance.min_size, generator=torch.Generator().manual_seed(0))
    assert distance(x, 1 - x).isfinite().all()
    if (less := distance.min_size - 1) > 0:
        with pytest.raises(ValueError, match=f"at least {less + 1}×{less + 1} pixels .* got {less}×{less}$"):
            distance(x[..., :less, :less], x[..., :less, :less])


@pytest.mark.parametrize("name", NAMES)
def test_can_be_sent_to_a_process(name):
    distance, x = BASELINES[name](), images(1, size(name))
    expected = distance(x, noisy(x, 0.1))
    sent = pickle.loads(pickle.dumps(distance))
    torch.testing.assert_close(sent(x, noisy(x, 0.1)), expected, rtol=0, atol=0)


def test_l2_and_psnr_equal_scikit_image():
    x = images()
    y = noisy(x, 0.1)
    l2, psnr = BASELINES["l2"]()(x, y), BASELINES["psnr"]()(x, y)
    for i in range(3):
        expected = peak_signal_noise_ratio(x[i].double().numpy(), y[i].double().numpy(), data_range=1.0)
        assert float(psnr[i]) == pytest.approx(-expected, abs=1e-4)
        assert float(l2[i]) == pytest.approx(10 ** (-expected / 10), rel=1e-5)


def test_l2_lab_equals_scikit_image_and_ranks_as_the_lpips_package():
    x = images()
    y = noisy(x, 0.1)
    lab_x, lab_y = (rgb2lab(image.double().numpy(), channel_axis=1) for image in (x, y))
    got = BASELINES["l2_lab"]()(x, y)
    np.testing.assert_allclose(got, ((lab_x - lab_y) ** 2).mean(axis=(1, 2, 3)), rtol=1e-3)
    # half the mean square of L*a*b* over 100, on images cut to 8 bits
    theirs = lpips.L2(use_gpu=False, colorspace="Lab")(2 * x[:1] - 1, 2 * y[:1] - 1)
    assert float(got[0]) == pytest.approx(2 * 100**2 * float(theirs), rel=0.02)


def test_ssim_equals_its_definition():
    """Wang et al. 2004 per channel, an 11×11 Gaussian of σ 1.5, image mirrored at its edges."""
    x = images()
    y = noisy(x, 0.1)

    def blurred(image):
        return gaussian_filter(image, sigma=1.5, radius=5, mode="mirror", axes=(2, 3))

    a, b = x.double().numpy(), y.double().numpy()
    mean_a, mean_b = blurred(a), blurred(b)
    var_a, var_b = blurred(a * a) - mean_a**2, blurred(b * b) - mean_b**2
    covariance = blurred(a * b) - mean_a * mean_b
    luminance = (2 * mean_a * mean_b + 0.01**2) / (mean_a**2 + mean_b**2 + 0.01**2)
    structure = (2 * covariance + 0.03**2) / (var_a + var_b + 0.03**2)
    expected = 1 - (luminance * structure).mean(axis=(1, 2, 3))
    np.testing.assert_allclose(BASELINES["ssim"]()(x, y), expected, atol=1e-5)


def test_fsimc_sees_colour_that_fsim_does_not():
    x = images(1)
    tinted = (x + torch.tensor([0.1140, 0.0, -0.2990]).view(1, 3, 1, 1)).clamp(0, 1)  # same luminance
    assert BASELINES["fsimc"]()(x, tinted) > BASELINES["fsim"]()(x, tinted) + 1e-3


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_precisions(dtype):
    x = images(1)
    y = noisy(x, 0.1)
    expected = BASELINES["ssim"]()(x, y)
    torch.testing.assert_close(
        BASELINES["ssim"]()(x.to(dtype), y.to(dtype)).float(), expected, rtol=0.02, atol=1e-3
    )


def test_rounding_outside_the_range_is_clamped():
    x = images(1)
    inside, outside = BASELINES["fsim"]()(x, torch.ones_like(x)), BASELINES["fsim"]()(x, x * 0 + 1.0000001)
    torch.testing.assert_close(inside, outside, rtol=0, atol=0)


@pytest.mark.parametrize("name", ["l2", "ssim"])
def test_wrong_images_are_refused(name):
    distance, x = BASELINES[name](), images(1)
    with pytest.raises(ValueError, match=r"x must lie in \[0, 1\], got -1 … 1"):
        distance(torch.linspace(-1, 1, x.numel()).view_as(x), x)
    with pytest.raises(ValueError, match=r"y must be floating point in \[0, 1\], got torch.uint8"):
        distance(x, (x * 255).byte())
    with pytest.raises(
        ValueError, match=r"one shape \(N, 3, H, W\), got \(1, 3, 64, 64\) and \(1, 1, 64, 64\)"
    ):
        distance(x, x[:, :1])


def test_dists_compares_through_vgg(monkeypatch):
    torch.manual_seed(0)
    random = SimpleNamespace(features=make_layers(cfgs["D"]))
    for module in ("torchvision.models", "torchmetrics.functional.image.dists"):  # the first up to 1.7
        monkeypatch.setattr(f"{module}.vgg16", lambda **_: random, raising=False)
    distance, x = BASELINES["dists"](), images(2)
    assert not any(parameter.requires_grad for parameter in distance.parameters())
    torch.testing.assert_close(distance(x, x), torch.zeros(2), rtol=0, atol=1e-5)
    y = noisy(x, 0.2).requires_grad_()
    distances = distance(x, y)
    assert (distances > 1e-4).all()
    distances.sum().backward()
    assert y.grad.isfinite().all()
    torch.testing.assert_close(copy.deepcopy(distance)(x, y), distances)
    assert distance(x[:1], y[:1]).shape == (1,)


def test_dists_without_weights_says_what_is_missing(monkeypatch):
    def offline(*args: object, **kwargs: object) -> None:
        raise urllib.error.URLError("no route to host")

    monkeypatch.setattr("torchvision.models._api.load_state_dict_from_url", offline)
    with pytest.raises(FileNotFoundError, match=r"dists needs vgg16-397923af\.pth .* no route to host"):
        BASELINES["dists"]()


# --- definitions, beside scikit-image and torchmetrics, on photographs as they are ---

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
