"""LPIPS: how different two images look, as a weighted distance between deep features.

Zhang, Isola, Efros, Shechtman, Wang, "The Unreasonable Effectiveness of Deep Features as a Perceptual
Metric", CVPR 2018, https://arxiv.org/abs/1801.03924, equation 1.
"""

import math
import os
import shutil
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from perceptual.distance import calibration as calibrations
from perceptual.distance import pairwise, saved_folder
from perceptual.distance.level import all_pairs, compare, squared_differences, unit_normalize, weigh
from perceptual.features.backbone import Backbone

FORMS = ("per_position", "pooled")
PAIRS = 64  # whose maps are held at once, where features are shared


class LPIPS(nn.Module):
    """Learned Perceptual Image Patch Similarity: (x, y) → (N,), larger = more different, 0 if equal.

    d(x, y) = Σ_l 1/(H_l W_l) Σ_hw Σ_c lin_lc (x̂_lhwc − ŷ_lhwc)², with x̂, ŷ the features of level l,
    unit-normalised over channels; `level.py` has what a level adds. The metric is frozen: its weights ask for
    no gradient, images may.

    In the form `pooled`, x̂ and ŷ are one vector a level: the mean of its features over H×W, unit-normalised.
    What is in the images counts, not where (Kumar et al. 2022, "Do better ImageNet classifiers assess
    perceptual similarity better?", https://arxiv.org/abs/2203.04946, its normalised mean pool).

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
        form: `per_position`, means over H×W after the difference, as in the paper; or `pooled`, before it.
            The published calibrations were made per position.
        compile: have torch.compile make one loop of each level's comparison. The first call for a size of
            images takes some seconds; needs a C++ compiler.

    Attributes:
        saved: the folder that `from_pretrained` read it from, with what it says of the training; or None.

    Raises:
        ValueError: unknown backbone or calibration, or one that does not fit the other; an unknown form, or
            `pooled` with `spatial`; `compile` without a compiler.
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
        form: str = "per_position",
        compile: bool = False,
    ) -> None:
        super().__init__()
        if compile:
            check_compiler()
        _check_form(form, spatial)
        if not value_range[0] < value_range[1]:
            raise ValueError(f"value_range must be (black, white) with black < white, got {value_range}")
        name = backbone if isinstance(backbone, str) else backbone.name
        calibration = calibrations.Calibration([]) if lin is None else calibrations.load(name, lin)
        if isinstance(backbone, str):
            backbone = Backbone(backbone, mean=calibration.mean, std=calibration.std)
        self.backbone = backbone
        vectors = calibration.lin if lin is not None else [torch.ones(c) for c in backbone.channels]
        calibrations.check_fits(vectors, backbone.channels, name)
        _check_normalization(backbone, calibration)
        if calibration.saved is not None:
            _check_saved(calibration.saved, backbone, form)
        self.lin = nn.ParameterList(nn.Parameter(vector, requires_grad=False) for vector in vectors)
        self.dropout = nn.Dropout(dropout)
        self.form = form
        self.compiled = compile
        self.spatial = spatial
        self.value_range = value_range
        self.check_range = check_range
        self.saved: saved_folder.Saved | None = None
        self.eval()

    @classmethod
    def from_pretrained(
        cls,
        source: str | os.PathLike[str],
        *,
        revision: str | None = None,
        token: str | bool | None = None,
        cache_dir: str | Path | None = None,
        local_files_only: bool = False,
        spatial: bool = False,
        value_range: tuple[float, float] = (0, 1),
        check_range: bool = True,
    ) -> "LPIPS":
        """A saved distance: published (`alexnet-v0.1`), a folder, or the hub's (`owner/name`, Hugging Face).

        Args:
            source: name or folder; a folder is looked for before the hub.
            revision, token, cache_dir, local_files_only: as `huggingface_hub.snapshot_download` takes them.
            spatial, value_range, check_range: as `LPIPS` takes them; a folder does not hold them.

        Raises:
            FileNotFoundError: no such folder, or the hub or its weights cannot be had.
            ValueError: naming the file that was damaged or changed, or does not fit the backbone.
        """
        name, lin = calibrations.split_version(str(source))
        if lin is not None:
            return cls(name, lin, spatial, value_range, check_range)
        folder = saved_folder.find(
            source, revision=revision, token=token, cache_dir=cache_dir, local_files_only=local_files_only
        )
        saved = saved_folder.read(folder)
        form = saved.config["form"]
        metric = cls(saved.backbone(), None, spatial, value_range, check_range, form=form)
        calibrations.check_fits(saved.lin, metric.backbone.channels, metric.backbone.name)
        for vector, value in zip(metric.lin, saved.lin, strict=True):
            vector.data = value
        metric.saved = saved
        return metric

    def save_pretrained(
        self,
        folder: str | os.PathLike[str],
        *,
        ranking: nn.Module | None = None,
        record: Mapping[str, Any] | None = None,
    ) -> None:
        """Save the distance as a folder: safetensors, config.json and a model card; see `saved_folder.save`.

        A backbone that its name alone gives again is not stored, but recorded with its weights' SHA-256.

        Args:
            folder: made if it does not exist; an earlier save in it is replaced.
            ranking: the ranking network that was trained with it, to be saved beside it.
            record: what the card says of the training and the scores, see `perceptual.publish.record`.
        """
        saved_folder.save(folder, self.backbone, self.lin, self.form, ranking, record, self.saved)

    def push_to_hub(
        self,
        repo_id: str,
        *,
        private: bool | None = None,
        token: str | bool | None = None,
        ranking: nn.Module | None = None,
        record: Mapping[str, Any] | None = None,
    ) -> str:
        """Save to `owner/name` on the Hugging Face hub, as `save_pretrained` does to a folder; its URL."""
        with tempfile.TemporaryDirectory() as folder:
            self.save_pretrained(folder, ranking=ranking, record=record)
            return saved_folder.push(Path(folder), repo_id, private, token)

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
        return self._compare(self._levels(x, y), x.shape[-2:])

    def triplet(self, ref: Tensor, p0: Tensor, p1: Tensor) -> tuple[Tensor, Tensor]:
        """(d0, d1), the distances of p0 and of p1 from ref: `forward` twice, with one backbone pass an image.

        Takes and raises what `forward` does.
        """
        ref, p0, p1 = self._images(ref=ref, p0=p0, p1=p1)
        levels = self._compare(self._levels(ref, p0, p1), ref.shape[-2:])
        d0, d1 = levels.sum(1, keepdim=self.spatial).chunk(2)
        return d0, d1

    def among(self, images: Tensor, first: Tensor, second: Tensor) -> Tensor:
        """Distances (P,) of pairs of images that recur in them, with one backbone pass an image.

        In training the pairs are differences of one matrix product a level, which costs as much for few pairs
        as for all, and `dropout` drops channels, as `weigh` does; else each pair is compared as `forward`
        does. `spatial` and `compile` are without effect.

        Args:
            images: (M, 3, H, W), as `forward` takes them.
            first, second: (P,) int64, the rows of `images` that are compared.

        Raises:
            ValueError: what `forward` raises.
        """
        (rgb,) = self._images(images=images)
        parts = []
        with torch.autocast(self.backbone.mean.device.type, enabled=False):
            for (f,), lin in zip(self._levels(rgb), self.lin, strict=True):
                f = f.to(lin.dtype)
                if self.training:
                    parts.append(all_pairs(self.dropout(lin), f)[first, second])
                else:
                    chunks = zip(first.split(PAIRS), second.split(PAIRS), strict=True)
                    parts.append(torch.cat([compare(lin, f[i], f[j]).mean((0, 2, 3)) for i, j in chunks]))
        return torch.stack(parts).sum(0)

    def reference(self, y: Tensor) -> "Reference":
        """The distance from y alone: an object called as ref(x) → (N,), with the features of y held.

        For optimising many x against one y. Takes and raises what `forward` does.
        """
        return Reference(self, y)

    def embed(self, x: Tensor) -> Tensor:
        """Vectors (N, D) whose squared Euclidean distance is the distance of the images, to search with.

        They are √(lin_c / HW) · x̂ of all levels, one after the other; D depends on the size of the images.
        Neither `spatial` nor dropout acts on them. Takes and raises what `forward` does.

        Raises:
            ValueError: lin has negative weights, so that no such vectors exist.
        """
        (x,) = self._images(x=x)
        return self._vectors(x)

    @torch.no_grad()
    def pairwise(self, images: Tensor, other: Tensor | None = None, *, memory: int = 1 << 30) -> Tensor:
        """Distance of every image from every one of `other`, (N, M), or of `images`, (N, N); no gradient.

        Each image goes through the backbone once. All pairs of `images` are symmetric to the last bit, with 0
        on the diagonal; no distance is negative, and those of near-duplicates are as exact as others.

        Args:
            images, other: (N, 3, H, W) and (M, 3, H, W) of one size, or grey, as `forward` takes them.
            memory: bytes to work in, beyond the result and what one batch of one image needs. Vectors that
                take more than half of it wait in a temporary file.

        Raises:
            ValueError: what `embed` raises; sizes that differ; `memory` not positive.
        """
        self._check(images=images, **({} if other is None else {"other": other}))
        return pairwise.distances(lambda batch: self._vectors(self._to_rgb(batch)), images, other, memory)

    def unit(self, f: Tensor) -> Tensor:
        """What is compared of a level's features (N, C, H, W): unit-normalised, (N, C, 1, 1) if pooled."""
        return unit_normalize(self._form(f.to(self.lin[0].dtype)))  # not in bfloat16, see `level_map`

    def weigh(self, means: Tensor) -> Tensor:
        """Distances (…) from mean squared differences (…, C) of unit-normalised features.

        C counts the channels of all levels, see `differences.py`. `dropout` drops channels here, the same for
        all of `means`, where `forward` drops elements of the maps before their mean is taken. The scores are
        the same: on people's choices of materials (README, AlexNet, split by image, seeds 0, 1, 2) channels
        gained 1.30 points on average, elements 1.35, and no dropout 1.32.
        """
        # not a matrix product, which autocast would take in half precision and may sum equal rows unequally
        return (means * self.dropout(torch.cat(list(self.lin)))).sum(-1)

    @torch.no_grad()
    def project(self) -> None:
        """Project lin to ≥ 0, as after each training step: no difference may bring images nearer."""
        for vector in self.lin:
            vector.clamp_(min=0)

    def _compare(self, levels: Iterable[Sequence[Tensor]], size: Sequence[int]) -> Tensor:
        """What each level adds to the distance of the first batch from the second, then from the third …"""
        if self.compiled and not torch.compiler.is_compiling():
            return _compiled(self, list(levels), list(size))
        return self._parts(levels, size)

    def _parts(self, levels: Iterable[Sequence[Tensor]], size: Sequence[int]) -> Tensor:
        parts = []
        # autocast would round distances to the three digits of bfloat16, and make ties of preferences
        with torch.autocast(self.backbone.mean.device.type, enabled=False):
            for (x, *others), lin in zip(levels, self.lin, strict=True):
                if self.training and self.dropout.p:
                    differences = [squared_differences(x.to(lin.dtype), y.to(lin.dtype)) for y in others]
                    part = torch.cat([weigh(self.dropout(d), lin) for d in differences])
                else:
                    part = compare(lin, x, *others).flatten(0, 1)
                part = part.unsqueeze(1)
                if self.spatial:
                    parts.append(F.interpolate(part, list(size), mode="bilinear", align_corners=False))
                else:
                    parts.append(part.mean((2, 3)))
        return torch.cat(parts, dim=1)

    def _levels(self, *batches: Tensor) -> Iterator[list[Tensor]]:
        """Maps of each batch, level by level.

        One pass over all batches, unless that would give some a needless graph.
        """
        if len({batch.requires_grad for batch in batches}) > 1:
            for maps in zip(*(self.backbone(batch) for batch in batches), strict=True):
                yield [self._form(m) for m in maps]
        else:
            for m in self.backbone(torch.cat(batches)):
                yield [self._form(part) for part in m.unflatten(0, (len(batches), -1))]

    def _form(self, f: Tensor) -> Tensor:
        return f.mean((2, 3), keepdim=True, dtype=self.lin[0].dtype) if self.form == "pooled" else f

    def _vectors(self, rgb: Tensor) -> Tensor:
        if any((vector < 0).any() for vector in self.lin):
            raise ValueError(
                "lin has negative weights: no vectors have such distances; project() makes them 0"
            )
        parts = []
        for (f,), lin in zip(self._levels(rgb), self.lin, strict=True):
            u = unit_normalize(f.to(lin.dtype))
            scale = (lin.detach() / math.prod(u.shape[2:])).sqrt()
            parts.append((u * scale.view(-1, 1, 1)).flatten(1))
        return torch.cat(parts, dim=1)

    def _images(self, **images: Tensor) -> list[Tensor]:
        """Check images of one shape and bring them to RGB in [0, 1], in the precision of the backbone."""
        self._check(**images)
        first = next(iter(images))
        for name, image in images.items():
            if image.shape != images[first].shape:
                raise ValueError(
                    f"{first} and {name} must have one shape, got {tuple(images[first].shape)} "
                    f"and {tuple(image.shape)}"
                )
        return [self._to_rgb(image) for image in images.values()]

    def _check(self, **images: Tensor) -> None:
        for name, image in images.items():
            _check_image(name, image)
            if self.check_range and image.is_floating_point() and not torch.compiler.is_compiling():
                self._check_range(name, image)

    def _to_rgb(self, image: Tensor) -> Tensor:
        black, white = self.value_range if image.is_floating_point() else (0, 255)
        image = image.to(self.backbone.mean.dtype)
        unit = image if (black, white) == (0, 1) else (image - black) / (white - black)
        return unit.expand(-1, 3, -1, -1)

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


class Reference:
    """Distance of images from one target whose features are held: what `LPIPS.reference` returns."""

    def __init__(self, lpips: LPIPS, y: Tensor) -> None:
        with torch.no_grad():
            (rgb,) = lpips._images(y=y)
            self._maps = [f for (f,) in lpips._levels(rgb)]
        self._lpips = lpips
        self._shape = rgb.shape

    def __call__(self, x: Tensor) -> Tensor:
        """What `LPIPS(x, y)` gives, with a gradient to x only.

        Args:
            x: images (N, 3, H, W) of the size of y. y has N images too, or one, for all of x.

        Raises:
            ValueError: what `forward` raises.
        """
        (rgb,) = self._lpips._images(x=x)
        count, *size = self._shape
        if list(rgb.shape[1:]) != size or count not in (1, len(rgb)):
            raise ValueError(
                f"x must have the shape of the reference, {tuple(self._shape)}"
                f"{', with any number of images' if count == 1 else ''}, got {tuple(x.shape)}"
            )
        levels = (
            (f, held.expand_as(f)) for (f,), held in zip(self._lpips._levels(rgb), self._maps, strict=True)
        )
        return self._lpips._compare(levels, size[1:]).sum(1, keepdim=self._lpips.spatial)


@cache
def _compiled_parts() -> Callable[[LPIPS, list[Sequence[Tensor]], list[int]], Tensor]:
    """`LPIPS._parts` compiled, for all distances: kept here, so that these can be copied and pickled."""
    return torch.compile(LPIPS._parts)


def _compiled(lpips: LPIPS, levels: list[Sequence[Tensor]], size: list[int]) -> Tensor:
    from torch._dynamo.exc import BackendCompilerFailed

    try:
        return _compiled_parts()(lpips, levels, size)
    except BackendCompilerFailed as error:
        inner = error.inner_exception
        reason = next(iter(str(inner).strip().splitlines()), type(inner).__name__)
        raise ValueError(
            f"compile=True failed: the C++ compiler {_compiler()!r} cannot compile the comparison "
            f"({type(inner).__name__}: {reason}); mend it, name another in CXX, or leave compile=False"
        ) from error


def _compiler() -> str:
    return os.environ.get("CXX", "g++")


def check_compiler() -> None:
    """Refuse to compile where there is no C++ compiler, which torch.compile needs.

    Raises:
        ValueError: saying where one was looked for.
    """
    if not shutil.which(_compiler()):
        raise ValueError(
            f"compile=True needs a C++ compiler, and there is no {_compiler()!r}; install g++, name another "
            "in the environment variable CXX, or leave compile=False"
        )


def _check_form(form: str, spatial: bool) -> None:
    if form not in FORMS:
        raise ValueError(f"form must be one of {', '.join(FORMS)}, got {form!r}")
    if spatial and form == "pooled":
        raise ValueError("form='pooled' compares no positions, so it has no map: spatial must be False")


def _check_image(name: str, image: Tensor) -> None:
    if image.ndim != 4 or image.shape[1] not in (1, 3):
        raise ValueError(
            f"{name} must be images of shape (N, 3, H, W) or (N, 1, H, W), got {tuple(image.shape)}"
        )
    if not (image.is_floating_point() or image.dtype == torch.uint8):
        raise ValueError(f"{name} must be float or uint8, got {image.dtype}")


def _check_saved(saved: saved_folder.Saved, backbone: Backbone, form: str) -> None:
    saved_folder.check_backbone(
        saved.config["backbone"], backbone, backbone.fingerprint(), f"lin={str(saved.folder)!r}"
    )
    if saved.config["form"] != form:
        raise ValueError(f"lin={str(saved.folder)!r} was made in the form {saved.config['form']}, not {form}")


def _check_normalization(backbone: Backbone, calibration: calibrations.Calibration) -> None:
    for key in ("mean", "std"):
        wanted, has = getattr(calibration, key), getattr(backbone, key).flatten()
        if wanted is not None and not torch.allclose(has, has.new_tensor(wanted)):
            raise ValueError(
                f"the calibration was made with {key}={wanted}, but the backbone normalises with "
                f"{has.tolist()}; "
                f"build it as Backbone({backbone.name!r}, mean={calibration.mean}, std={calibration.std})"
            )
