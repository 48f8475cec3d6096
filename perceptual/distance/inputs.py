"""Images as users pass them → RGB in [0, 1], or one line that says what is wrong with them."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from perceptual.features.backbone import is_transformed

if TYPE_CHECKING:
    from perceptual.distance.lpips import LPIPS

SLACK = 0.01  # of the range: resampling overshoots a little


def to_rgb(metric: "LPIPS", **images: Tensor) -> list[Tensor]:
    """Check images that are compared with each other, and bring them to RGB in [0, 1].

    Args:
        metric: whose `value_range`, `check_range` and precision of weights hold.
        images: (N, 3, H, W) or grey (N, 1, H, W), by the name to call them in an error. All have one size and
            number of channels; a single image is compared with each of the others.

    Returns:
        for each of them (N, 3, H, W).

    Raises:
        TypeError: no tensor.
        ValueError: another shape, type or range; sizes or numbers that do not fit.
    """
    check(metric, images)
    first, *_ = images
    rgb = []
    for name, image in images.items():
        # neither len() nor `1 in (…)`, which fix the number of images in an exported program
        count, others = image.shape[0], images[first].shape[0]
        alike = count == others or count == 1 or others == 1
        if image.shape[1:] != images[first].shape[1:] or not alike:
            raise ValueError(
                f"{first} and {name} must have one shape (or one of them a single image), got "
                f"{tuple(images[first].shape)} and {tuple(image.shape)}"
            )
        if count != others and others == 1:
            first = name  # whose number the others must have
        black, white = metric.value_range if image.is_floating_point() else (0, 255)
        image = image.to(metric.backbone.mean.dtype)
        unit = image if (black, white) == (0, 1) else (image - black) / (white - black)
        rgb.append(unit.expand(-1, 3, -1, -1))
    return rgb


def to_weights(mask: Tensor, count: int, size: Sequence[int], dtype: torch.dtype) -> Tensor:
    """Check a mask, and bring it to weights in [0, 1].

    Args:
        mask: (N, 1, H, W) or, for all images, (1, 1, H, W): float in [0, 1], bool, or uint8 in 0 … 255.
        count: number N of pairs of images.
        size: (H, W) of the images.
        dtype: of the weights.

    Raises:
        TypeError: no tensor.
        ValueError: another shape, type or range; or a mask that is 0 everywhere.
    """
    if not isinstance(mask, Tensor):
        raise TypeError(f"mask must be a torch.Tensor, got {type(mask).__name__}")
    if mask.ndim != 4 or mask.shape[1:] != (1, *size) or mask.shape[0] not in (1, count):
        shape = f"({count}, 1, {size[0]}, {size[1]})"
        raise ValueError(f"mask must have the shape {shape} of the images, got {tuple(mask.shape)}")
    if not (mask.is_floating_point() or mask.dtype in (torch.bool, torch.uint8)):
        raise ValueError(f"mask must be float, bool or uint8, got {mask.dtype}")
    weights = mask.to(dtype)
    if mask.dtype == torch.uint8:
        weights = weights / 255
    if torch.compiler.is_compiling() or is_transformed() or not weights.numel():
        return weights
    low, high = torch.stack(weights.detach().flatten(1).aminmax(dim=1)).tolist()
    if not (min(low) >= 0 and max(high) <= 1):  # NaN is in no range
        raise ValueError(f"mask must lie in [0, 1], got {min(low):.4g} … {max(high):.4g}")
    if empty := [item for item, value in enumerate(high) if not value]:
        raise ValueError(f"mask[{empty[0]}] is 0 everywhere: nothing of that pair of images would count")
    return weights


def check(metric: "LPIPS", images: Mapping[str, Tensor]) -> None:
    """Refuse what is not a batch of images; by values too, except while images are optimised, and may leave
    the range, and where a transform of functions hides them.

    Reads two numbers per batch, all at once: a GPU has to be waited for, so there one good batch is enough.

    Raises:
        TypeError, ValueError: as `to_rgb`.
    """
    for name, image in images.items():
        if not isinstance(image, Tensor):
            raise TypeError(f"{name} must be a torch.Tensor, got {type(image).__name__}")
        if image.ndim != 4 or image.shape[1] not in (1, 3):
            raise ValueError(
                f"{name} must be images of shape (N, 3, H, W) or (N, 1, H, W), got {tuple(image.shape)}"
            )
        if not (image.is_floating_point() or image.dtype == torch.uint8):
            raise ValueError(f"{name} must be float or uint8, got {image.dtype}")
    if not metric.check_range or torch.compiler.is_compiling() or is_transformed():
        return
    known = {k: v for k, v in images.items() if v.is_floating_point() and v.numel() and not v.requires_grad}
    on_cpu = all(image.device.type == "cpu" for image in known.values())
    if not known or (not on_cpu and metric.value_range == metric.seen_range):
        return
    bounds = torch.stack([bound for image in known.values() for bound in image.detach().aminmax()]).tolist()
    black, white = metric.value_range
    slack = SLACK * (white - black)
    for (name, image), low, high in zip(known.items(), bounds[::2], bounds[1::2], strict=True):
        if low >= black - slack and high <= white + slack:
            continue
        if missing := int(image.isnan().sum()):
            raise ValueError(f"{name} has {missing:,} NaN among its {image.numel():,} values")
        raise ValueError(
            f"{name} has values from {low:.4g} to {high:.4g}, outside value_range=({black}, {white}); "
            "give the range of your images as value_range, or check_range=False to allow this"
        )
    metric.seen_range = metric.value_range
