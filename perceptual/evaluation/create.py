"""Metrics by name, as `timm.create_model` and `timm.list_models` give networks."""

from fnmatch import fnmatchcase
from typing import Literal

import torch

from perceptual.evaluation import methods
from perceptual.features.backbone import Precision
from perceptual.metrics import PerceptualDistance


@torch.inference_mode(False)  # whose tensors can take part in no gradient later
def create_metric(
    name: str,
    reduction: Literal["mean", "sum", "none"] = "mean",
    *,
    precision: Precision = "32-true",
    compile: bool = False,
) -> PerceptualDistance:
    """A torchmetrics metric of the distance with that name; `.distance` is the distance itself.

    Examples:
        >>> import torch
        >>> metric = create_metric("ssim")
        >>> x = torch.rand(2, 3, 32, 32)
        >>> metric(x, x)
        tensor(0.)

    Args:
        name: `alexnet`, `resnet50.a1_in1k-uncalibrated`, `ssim`, a path, …, see
            `perceptual.names`; `list_metrics` lists them.
        reduction: `mean` or `sum` over pairs, or `none`: the distances (N,).
        precision: of deep features, as `Backbone` takes it; classic distances are in float32.
        compile: compare deep features by compiled code, as `LPIPS` takes it.

    Raises:
        ValueError: unknown name, reduction or precision, or `compile` without a compiler.
        FileNotFoundError: a checkpoint, folder or weights file does not exist.
    """
    return PerceptualDistance(methods.build(name, precision, compile), reduction)


def list_metrics(pattern: str = "*") -> list[str]:
    """The names that `create_metric` takes, but for paths, that match a pattern of shell wildcards.

    Classic distances come first, then networks of torchvision and timm that have weights, each followed by
    its published calibrations and `-uncalibrated`. `-random` may be added to the name of any network.

    Examples:
        >>> list_metrics("alexnet*")
        ['alexnet', 'alexnet-v0.0', 'alexnet-v0.1', 'alexnet-uncalibrated']
    """
    return [name for name in methods.names() if fnmatchcase(name, pattern)]
