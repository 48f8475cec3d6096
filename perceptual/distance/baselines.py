"""Classic distances between images, with the call of ours: (x, y) → (N,), larger = more different.

The formulas are those of torchmetrics and piq; here they only get one direction, one value range and one set
of errors. `BASELINES[name]()` builds one; either library takes a second to import, and is imported when one
of its formulas is called.
"""

from collections.abc import Callable
from functools import partial
from importlib import import_module

from torch import Tensor, nn

from perceptual.distance.inputs import to_weights
from perceptual.distance.level import mean
from perceptual.features.backbone import is_transformed, luma

SSIM = ("torchmetrics.functional.image", "structural_similarity_index_measure")


class Baseline(nn.Module):
    """A distance between images: `forward(x, y)`, both (N, 3, H, W) float RGB in [0, 1], gives (N,).

    Values up to 0.01 outside the range, as resampling leaves them, are clamped; half precision is computed
    in float32.

    Args:
        formula: (x, y) → (N,) or, for one image, a scalar.
        min_size: smallest height and width that the formula is defined for.
        at: (x, y) → (N, C, H, W), the map whose mean the formula takes; None: it has none, so no masks.
        of_mean: that mean, (N,), to the distance; None: it is the distance.

    Raises:
        ValueError: (on call) shapes differ or are not (N, 3, H, W), no floats, values outside the range,
            images smaller than `min_size`, or a mask that the formula cannot take.
    """

    def __init__(
        self,
        formula: Callable[[Tensor, Tensor], Tensor],
        min_size: int = 1,
        at: Callable[[Tensor, Tensor], Tensor] | None = None,
        of_mean: Callable[[Tensor], Tensor] | None = None,
    ) -> None:
        super().__init__()
        self.formula, self.at, self.of_mean = formula, at, of_mean
        self.min_size = min_size

    def forward(self, x: Tensor, y: Tensor, mask: Tensor | None = None) -> Tensor:
        """Compute the distance of each pair of images; with `mask`, (N, 1, H, W) in [0, 1], of its part."""
        if x.ndim != 4 or x.shape[1] != 3 or x.shape != y.shape:
            shapes = f"{tuple(x.shape)} and {tuple(y.shape)}"
            raise ValueError(f"x and y must have one shape (N, 3, H, W), got {shapes}")
        if min(x.shape[2:]) < self.min_size:
            raise ValueError(
                f"x and y must be at least {self.min_size}×{self.min_size} pixels for this distance, "
                f"got {x.shape[2]}×{x.shape[3]}"
            )
        if not len(x):  # which many formulas refuse
            return _unit_range("x", x)[:, 0, 0, 0]
        x, y = _unit_range("x", x), _unit_range("y", y)
        if mask is None:
            return self.formula(x, y).reshape(len(x))
        if self.at is None:
            raise ValueError("this distance has no map of where images differ, so it takes no mask")
        weights = to_weights(mask, len(x), x.shape[2:], x.dtype)
        value = mean(self.at(x, y), weights).mean(1)
        return self.of_mean(value) if self.of_mean else value


def _unit_range(name: str, image: Tensor) -> Tensor:
    if not image.is_floating_point():
        raise ValueError(f"{name} must be floating point in [0, 1], got {image.dtype}")
    if len(image) and not is_transformed() and not (image.min() >= -0.01 and image.max() <= 1.01):
        raise ValueError(f"{name} must lie in [0, 1], got {image.min():.3g} … {image.max():.3g}")
    return (image.float() if image.itemsize < 4 else image).clamp(0, 1)


def _l2(x: Tensor, y: Tensor) -> Tensor:
    return (x - y).square().mean(dim=(1, 2, 3))


def _squares(x: Tensor, y: Tensor) -> Tensor:
    return (x - y).square()


def _lab(image: Tensor) -> Tensor:
    from piq.functional import rgb2xyz, xyz2lab

    # sRGB has the white of D65; piq's own rgb2lab takes D50, which tints every grey
    found: Tensor = xyz2lab(rgb2xyz(image), illuminant="D65")
    return found


def _decibels(mean: Tensor) -> Tensor:
    return 10 * mean.log10()


def _minus_psnr(x: Tensor, y: Tensor) -> Tensor:
    from torchmetrics.functional.image import peak_signal_noise_ratio

    return -peak_signal_noise_ratio(x, y, data_range=1.0, reduction="none", dim=(1, 2, 3))


def _ssim_map(x: Tensor, y: Tensor) -> Tensor:
    _, found = getattr(import_module(SSIM[0]), SSIM[1])(x, y, data_range=1.0, return_full_image=True)
    return 1 - found.reshape(x.shape)


def _luma(image: Tensor) -> Tensor:
    return luma(image).clamp(0, 1)


def _of(space: Callable[[Tensor], Tensor], formula: Callable[..., Tensor], x: Tensor, y: Tensor) -> Tensor:
    return formula(space(x), space(y))


def _one_minus(library: str, similarity: str, x: Tensor, y: Tensor, **options: bool) -> Tensor:
    return 1 - _distance(library, similarity, x, y, **options)


def _distance(library: str, formula: str, x: Tensor, y: Tensor, **options: bool) -> Tensor:
    found: Tensor = getattr(import_module(library), formula)(
        x, y, data_range=1.0, reduction="none", **options
    )
    return found


class DISTS(Baseline):
    """Ding et al. 2020, https://arxiv.org/abs/2004.07728; minus its resizing of images larger than 256.

    Raises:
        FileNotFoundError: the weights of torchvision's VGG16 are neither in the cache of torch.hub nor
            to be had from the net.
    """

    def __init__(self) -> None:
        from torchmetrics.functional.image.dists import DISTSNetwork

        try:
            network = DISTSNetwork()
        except OSError as error:
            raise FileNotFoundError(
                "dists needs vgg16-397923af.pth from https://download.pytorch.org/models/, which is not in "
                f"torch.hub's checkpoints directory and could not be downloaded: {error}"
            ) from error
        super().__init__(self._dists, min_size=16)
        self.network = network.requires_grad_(False)

    def _dists(self, x: Tensor, y: Tensor) -> Tensor:
        # require_grad only means not to enter inference mode
        return self.network(x, y, require_grad=True)


BASELINES: dict[str, Callable[[], Baseline]] = {
    # mean squared difference of RGB values, and of L*a*b*
    "l2": partial(Baseline, _l2, at=_squares),
    "l2_lab": partial(Baseline, partial(_of, _lab, _l2), at=partial(_of, _lab, _squares)),
    # −dB: −∞ for equal images
    "psnr": partial(Baseline, _minus_psnr, at=_squares, of_mean=_decibels),
    "ssim": partial(Baseline, partial(_one_minus, *SSIM), min_size=6, at=_ssim_map),
    # the same where the window lies inside the image, as scikit-image and piq have it
    "ssim_valid": partial(Baseline, partial(_one_minus, "piq", "ssim", downsample=False), min_size=11),
    # of luma; and of luma reduced to about 256 pixels first, as Wang's own code suggests
    "ssim_y": partial(
        Baseline,
        partial(_of, _luma, partial(_one_minus, "piq", "ssim", downsample=False)),
        min_size=11,
    ),
    "ssim_y_256": partial(Baseline, partial(_of, _luma, partial(_one_minus, "piq", "ssim")), min_size=11),
    "psnr_y": partial(
        Baseline, partial(_of, _luma, _minus_psnr), at=partial(_of, _luma, _squares), of_mean=_decibels
    ),
    # five scales of 11×11 windows; that of torchmetrics asks for 176 pixels
    "ms_ssim": partial(Baseline, partial(_one_minus, "piq", "multi_scale_ssim"), min_size=161),
    # FSIM of the luminance, and FSIMc with chrominance
    "fsim": partial(Baseline, partial(_one_minus, "piq", "fsim", chromatic=False), min_size=2),
    "fsimc": partial(Baseline, partial(_one_minus, "piq", "fsim"), min_size=2),
    "gmsd": partial(Baseline, partial(_distance, "piq", "gmsd")),
    # pixel-domain VIF of the luminance
    "vif": partial(Baseline, partial(_one_minus, "piq", "vif_p"), min_size=41),
    "haarpsi": partial(Baseline, partial(_one_minus, "piq", "haarpsi"), min_size=16),
    "mdsi": partial(Baseline, partial(_distance, "piq", "mdsi")),
    "dists": DISTS,
}

DEFINITIONS: dict[str, str] = {
    "l2": "mean squared difference of RGB in [0, 1]; MSE on 0 … 255 is 65025 times it",
    "l2_lab": "mean squared difference of CIE L*a*b* under D65, the mean of the three channels",
    "psnr": "−dB of RGB, all channels together, peak 1; psnr_y is that of luma",
    "psnr_y": "−dB of luma (BT.601, full range: not the 16 … 235 of video), peak 1",
    "ssim": "RGB, 11×11 Gaussian window (σ 1.5) at every pixel, borders reflected, as torchmetrics; "
    "ssim_valid, ssim_y and ssim_y_256 are other common definitions",
    "ssim_valid": "RGB, 11×11 Gaussian window (σ 1.5) inside the image, as scikit-image and as piq with "
    "downsample=False",
    "ssim_y": "luma (BT.601), 11×11 Gaussian window (σ 1.5) inside the image, full size",
    "ssim_y_256": "luma (BT.601), reduced by round(shorter side / 256) first, window inside the image",
    "ms_ssim": "RGB, five scales, windows inside the image, as piq",
    "fsim": "luma of YIQ, reduced by round(shorter side / 256) first, as piq and the authors' code",
    "fsimc": "YIQ, reduced by round(shorter side / 256) first, as piq and the authors' code",
    "gmsd": "luma, reduced by 2 first, as piq and the authors' code",
    "vif": "pixel-domain VIF of luma, four scales, as piq; the wavelet-domain VIF is another number",
    "haarpsi": "YIQ, reduced by 2 first, as piq and the authors' code",
    "mdsi": "reduced by round(shorter side / 256) first, as piq and the authors' code",
    "dists": "images as they are; the authors' code resizes the shorter side to 256 first",
}
"""What each one is of, and how the common definition differs."""
