"""LPIPS: how different two images look, as a weighted distance between deep features.

Zhang, Isola, Efros, Shechtman, Wang, "The Unreasonable Effectiveness of Deep Features as a Perceptual
Metric", CVPR 2018, https://arxiv.org/abs/1801.03924, equation 1.
"""

import os
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from perceptual import released
from perceptual.backbone import Backbone

EPS = 1e-10


def unit_normalize(f: Tensor) -> Tensor:
    """Feature vectors of length one: f / (‖f‖ + 1e-10) over the channels of (N, C, H, W).

    Where f is all zero, its gradient is zero: the formula has none there (‖f‖ is not differentiable at 0).
    """
    norm = torch.linalg.vector_norm(f, dim=1, keepdim=True)
    return f * (norm + EPS).reciprocal().masked_fill(norm == 0, 0)


def squared_difference(f0: Tensor, f1: Tensor) -> Tensor:
    """(f̂0 − f̂1)², element by element, of two feature maps (N, C, H, W)."""
    return (unit_normalize(f0) - unit_normalize(f1)).square()


def level_map(difference: Tensor, lin: Tensor) -> Tensor:
    """Σ_c lin_c · difference_c: the distance at each position, (N, 1, H, W), from (N, C, H, W) and (C,)."""
    # autocast would round distances to the three digits of bfloat16, and make ties of preferences
    with torch.autocast(difference.device.type, enabled=False):
        return torch.einsum("nchw,c->nhw", difference.to(lin.dtype), lin).unsqueeze(1)


class LPIPS(nn.Module):
    """Learned Perceptual Image Patch Similarity: (x, y) → (N,), larger = more different, 0 if equal.

    d(x, y) = Σ_l 1/(H_l W_l) Σ_hw Σ_c lin_lc (x̂_lhwc − ŷ_lhwc)², with x̂, ŷ the features of level l,
    unit-normalised over channels. The metric is frozen: its weights ask for no gradient, images may.

    Args:
        backbone: name of a backbone (torchvision's `alexnet` and `squeezenet1_1`, any of timm), or a built
            `Backbone`.
        lin: `"v0.1"` or `"v0.0"`, the published calibrations (v0.0 with its unscaled input); None for the
            uncalibrated distance, lin = 1; or the path of a calibration.
        spatial: return a map (N, 1, H, W) of where images differ: the levels' maps, upsampled and summed.
        value_range: values of black and white in float images; uint8 images are always 0 … 255.
        check_range: refuse float images more than 1 % outside `value_range`. Skipped for images that require
            a gradient, under compile and export.
        dropout: probability of dropping an element of the squared differences in training mode (the paper's
            calibration uses 0.5).

    Raises:
        ValueError: unknown backbone or calibration, or one that does not fit the other.
        FileNotFoundError: weights or calibration that cannot be found.
    """

    def __init__(
        self,
        backbone: str | Backbone = "alexnet",
        lin: str | os.PathLike[str] | None = "v0.1",
        spatial: bool = False,
        value_range: tuple[float, float] = (0, 1),
        check_range: bool = True,
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        if not value_range[0] < value_range[1]:
            raise ValueError(f"value_range must be (black, white) with black < white, got {value_range}")
        name = backbone if isinstance(backbone, str) else backbone.name
        calibration = released.Calibration([]) if lin is None else released.load(name, lin)
        if isinstance(backbone, str):
            backbone = Backbone(backbone, mean=calibration.mean, std=calibration.std)
        self.backbone = backbone
        vectors = calibration.lin if lin is not None else [torch.ones(c) for c in backbone.channels]
        released.check_fits(vectors, backbone.channels, name)
        _check_normalization(backbone, calibration)
        self.lin = nn.ParameterList(nn.Parameter(vector, requires_grad=False) for vector in vectors)
        self.dropout = nn.Dropout(dropout)
        self.spatial = spatial
        self.value_range = value_range
        self.check_range = check_range
        self.eval()

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        """Distance of each pair, (N,), or with `spatial` its map (N, 1, H, W).

        Args:
            x, y: images (N, 3, H, W) or grey (N, 1, H, W), of one shape: uint8, or float in `value_range`.

        Raises:
            ValueError: another shape, type or range, or images too small for the backbone.
        """
        return self.per_level(x, y).sum(1, keepdim=self.spatial)

    def per_level(self, x: Tensor, y: Tensor) -> Tensor:
        """What each level adds to the distance, shallow to deep: (N, L), or with `spatial` (N, L, H, W).

        Takes and raises what `forward` does.
        """
        x, y = self._images(x=x, y=y)
        maps0, maps1 = self._features(x, y)
        return self._compare(maps0, maps1, x.shape[-2:])

    def triplet(self, ref: Tensor, p0: Tensor, p1: Tensor) -> tuple[Tensor, Tensor]:
        """(d0, d1), the distances of p0 and of p1 from ref: `forward` twice, with one backbone pass an image.

        Takes and raises what `forward` does.
        """
        ref, p0, p1 = self._images(ref=ref, p0=p0, p1=p1)
        maps, maps0, maps1 = self._features(ref, p0, p1)
        d0, d1 = (self._compare(maps, other, ref.shape[-2:]) for other in (maps0, maps1))
        return d0.sum(1, keepdim=self.spatial), d1.sum(1, keepdim=self.spatial)

    def weigh(self, means: Tensor) -> Tensor:
        """Distance (N,) from mean squared differences (N, C) of unit-normalised features.

        C counts the channels of all levels, see `differences.py`. `dropout` drops whole channels here, where
        `forward` drops elements of the maps before their mean is taken.
        """
        # not a matrix product, which autocast would take in half precision
        return (self.dropout(means) * torch.cat(list(self.lin))).sum(1)

    @torch.no_grad()
    def project(self) -> None:
        """Project lin to ≥ 0, as after each training step: no difference may bring images nearer."""
        for vector in self.lin:
            vector.clamp_(min=0)

    def _compare(self, maps0: Sequence[Tensor], maps1: Sequence[Tensor], size: Sequence[int]) -> Tensor:
        levels = []
        for f0, f1, lin in zip(maps0, maps1, self.lin, strict=True):
            level = level_map(self.dropout(squared_difference(f0, f1)), lin)
            if self.spatial:
                levels.append(F.interpolate(level, list(size), mode="bilinear", align_corners=False))
            else:
                levels.append(level.mean((2, 3)))
        return torch.cat(levels, dim=1)

    def _features(self, *batches: Tensor) -> list[list[Tensor]]:
        """Feature maps of each batch: one pass over all, unless that would give some a needless graph."""
        if len({batch.requires_grad for batch in batches}) > 1:
            return [self.backbone(batch) for batch in batches]
        maps = [m.chunk(len(batches)) for m in self.backbone(torch.cat(batches))]
        return [list(parts) for parts in zip(*maps, strict=True)]

    def _images(self, **images: Tensor) -> list[Tensor]:
        """Check the images and bring them to RGB in [0, 1], in the precision of the backbone."""
        first = next(iter(images))
        for name, image in images.items():
            _check_image(name, image)
            if image.shape != images[first].shape:
                raise ValueError(
                    f"{first} and {name} must have one shape, got {tuple(images[first].shape)} "
                    f"and {tuple(image.shape)}"
                )
            if self.check_range and image.is_floating_point() and not torch.compiler.is_compiling():
                self._check_range(name, image)
        return [self._to_unit(image).expand(-1, 3, -1, -1) for image in images.values()]

    def _to_unit(self, image: Tensor) -> Tensor:
        black, white = self.value_range if image.is_floating_point() else (0, 255)
        image = image.to(self.backbone.mean.dtype)
        return image if (black, white) == (0, 1) else (image - black) / (white - black)

    def _check_range(self, name: str, image: Tensor) -> None:
        if image.requires_grad or not image.numel():
            return
        black, white = self.value_range
        slack = 0.01 * (white - black)
        low, high = (bound.item() for bound in image.detach().aminmax())
        if not (low >= black - slack and high <= white + slack):
            raise ValueError(
                f"{name} has values from {low:.4g} to {high:.4g}, outside value_range=({black}, {white}); "
                "give the range of your images as value_range, or check_range=False to allow this"
            )


def _check_image(name: str, image: Tensor) -> None:
    if image.ndim != 4 or image.shape[1] not in (1, 3):
        raise ValueError(
            f"{name} must be images of shape (N, 3, H, W) or (N, 1, H, W), got {tuple(image.shape)}"
        )
    if not (image.is_floating_point() or image.dtype == torch.uint8):
        raise ValueError(f"{name} must be float or uint8, got {image.dtype}")


def _check_normalization(backbone: Backbone, calibration: released.Calibration) -> None:
    for key in ("mean", "std"):
        wanted, has = getattr(calibration, key), getattr(backbone, key).flatten()
        if wanted is not None and not torch.allclose(has, has.new_tensor(wanted)):
            raise ValueError(
                f"the calibration was made with {key}={wanted}, but the backbone normalises with "
                f"{has.tolist()}; "
                f"build it as Backbone({backbone.name!r}, mean={calibration.mean}, std={calibration.std})"
            )
