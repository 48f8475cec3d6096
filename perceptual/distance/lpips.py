"""LPIPS: how different two images look, as a weighted distance between deep features.

Zhang, Isola, Efros, Shechtman, Wang, "The Unreasonable Effectiveness of Deep Features as a Perceptual
Metric", CVPR 2018, https://arxiv.org/abs/1801.03924, equation 1.
"""

import os
from collections.abc import Callable, Sequence
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from perceptual.distance import calibration as calibrations
from perceptual.distance import compiled, pairwise, tiles
from perceptual.distance import level as fast
from perceptual.distance.compiled import Compile
from perceptual.distance.inputs import check, to_rgb, to_weights
from perceptual.distance.level import FORMS, KERNELS, OUTSIDE, Form, Kernel, Outside, unit_normalize
from perceptual.distance.noticed import Noticed
from perceptual.distance.saving.hub import HubMixin
from perceptual.features.backbone import Precision, is_transformed
from perceptual.names import DEFAULT, Method

PAIRS = 64  # whose maps are held at once, where features are shared


class LPIPS(HubMixin, nn.Module):
    """Learned Perceptual Image Patch Similarity: (x, y) → (N,), larger = more different, 0 if equal.

    d(x, y) = Σ_l 1/(H_l W_l) Σ_hw Σ_c lin_lc (x̂_lhwc − ŷ_lhwc)², with x̂, ŷ the features of level l,
    unit-normalised over channels. The metric is frozen: its weights do not require a gradient, images may.
    Features have the precision of an ambient `torch.autocast`; distances are float32 all the same.

    Examples:
        >>> import torch
        >>> from perceptual import LPIPS, Backbone
        >>> metric = LPIPS(Backbone("test_resnet", weights=None))  # or LPIPS("alexnet"), LPIPS("vgg"), …
        >>> x, y = torch.rand(2, 4, 3, 64, 64)
        >>> metric(x, y).shape
        torch.Size([4])

    In the form `concatenated` they are one vector: the embeddings of all levels one after the other (those of
    several networks too), not normalised one by one (Fu et al. 2023, "DreamSim",
    https://arxiv.org/abs/2306.09344). Between vectors, with lin = 1, d is 2 (1 − cos).

    In the form `pooled`, x̂ and ŷ are one vector per level: the mean of its features over H×W, then
    unit-normalised. What is in the images counts, not where (Kumar et al. 2022, "Do better ImageNet
    classifiers assess perceptual similarity better?", https://arxiv.org/abs/2203.04946, its normalised mean
    pool).

    Args:
        backbone: name of a network (torchvision's `alexnet` and `squeezenet1_1`, any of timm; `alex`, `vgg`
            and `squeeze` as in the `lpips` package), a built `Backbone`, or any module that fulfils
            `FeatureNetwork`. `NAME-uncalibrated`, `NAME-v0.1`,
            `NAME-v0.0` and `NAME-random` name the calibration too.
        lin: `"default"`, the published calibration v0.1 where there is one for that network, else
            uncalibrated; `"v0.1"` or `"v0.0"` (v0.0 with its unscaled input); None for the uncalibrated
            distance, lin = 1; the path of a calibration; or one that was read.
        spatial: return a map (N, 1, H, W) of where images differ: the levels' maps, upsampled and summed.
        value_range: values of black and white in float images; uint8 images are always 0 … 255.
        check_range: refuse float images more than 1 % outside `value_range`. Skipped for images that require
            a gradient, under compile and export, and on a GPU after the first batch that is in range.
        dropout: probability of dropping an element of the squared differences in training mode (the paper's
            calibration uses 0.5).
        form: `per_position`, means over H×W after the difference, as in the paper; `pooled`, before it; or
            `concatenated`, of levels that are embeddings. The published calibrations were made per position.
        center: subtract from the concatenated vector the mean of its elements, as DreamSim does in use, and
            not in training.
        head: a module (N, D, 1, 1) → (N, D, 1, 1) that the concatenated vector goes through first, see
            `perceptual.distance.head`.
        outside: what the network sees outside of masks. `see`: what is there, which reaches the inside by
            receptive fields; `fill`: its mean colour, in both images, so that nothing there counts.
        compile: compile the comparison of each level by torch.compile, or with `full` all of the distance,
            the backbone too. The first call takes some seconds, with `full` perhaps minutes; needs a C++
            compiler.
        kernel: what compares the maps of a level: `triton`, one kernel that reads each map once, on GPUs of
            CUDA; `torch`, operations of PyTorch; or `auto`, the first where it can be used. `compile`, second
            gradients and transforms of functions take operations of PyTorch.
        memory: bytes that features may take, beyond images, results and weights: larger images are compared
            in tiles, with the same numbers, and each tile once more for a gradient. Networks that are not
            convolutional, and embeddings, cannot be cut and are refused; images that the network resizes are
            seen whole. `auto`: a quarter of what is free, and whole images where they cannot be cut.

    Attributes:
        calibration: `"v0.1"`, `"v0.0"` or the path that lin is from; None: uncalibrated.
        saved: the folder that it, or its lin, was read from, with what that says of the training; or None.

    Warns:
        UserWarning: a published calibration on other weights than it was made on, naming where they are from.

    Raises:
        ValueError: unknown backbone or calibration, or one that does not fit the other; an unknown form, or
            `pooled` with `spatial`; `compile` without a compiler; `memory` that is not positive.
        FileNotFoundError: weights or calibration that cannot be found.
    """

    @torch.inference_mode(False)  # whose tensors can take part in no gradient later
    def __init__(
        self,
        backbone: str | Method | nn.Module = "alexnet",
        lin: str | os.PathLike[str] | calibrations.Calibration | None = DEFAULT,
        *,
        spatial: bool = False,
        value_range: tuple[float, float] = (0, 1),
        check_range: bool = True,
        dropout: float = 0.0,
        form: Form = "per_position",
        center: bool = False,
        head: nn.Module | None = None,
        outside: Outside = "see",
        compile: Compile = False,
        kernel: Kernel = "auto",
        memory: tiles.Memory = None,
    ) -> None:
        super().__init__()
        compiled.check(compile)
        if form not in FORMS:
            raise ValueError(f"form must be one of {', '.join(FORMS)}, got {form!r}")
        if outside not in OUTSIDE:
            raise ValueError(f"outside must be one of {', '.join(OUTSIDE)}, got {outside!r}")
        if spatial and form != "per_position":
            raise ValueError(f"form={form!r} compares no positions, so it has no map: spatial must be False")
        if (center or head is not None) and form != "concatenated":
            raise ValueError(f"center and head are of form='concatenated', got form={form!r}")
        if kernel not in KERNELS:
            raise ValueError(f"kernel must be one of {', '.join(KERNELS)}, got {kernel!r}")
        tiles.check(memory)
        if not value_range[0] < value_range[1]:
            raise ValueError(f"value_range must be (black, white) with black < white, got {value_range}")
        self.backbone, calibration = calibrations.build(backbone, lin)
        vectors = calibration.vectors(self.backbone)
        if form == "concatenated" and not self.backbone.info.embeds:
            raise ValueError(
                f"form='concatenated' takes embeddings, and {self.backbone.name} gives maps: tap some of "
                "cls, embedding, patches alone, such as out_indices=[embedding]"
            )
        if calibration.saved is not None and (made := calibration.saved.config["form"]) != form:
            raise ValueError(f"lin={str(calibration.saved.folder)!r} was made in the form {made}, not {form}")
        self.lin = nn.ParameterList(nn.Parameter(vector, requires_grad=False) for vector in vectors)
        self.calibration = calibration.name
        self.dropout = nn.Dropout(dropout)
        self.form: Form = form
        self.center, self.head = center, head
        self.outside: Outside = outside
        self.compiled: Compile = compile
        self.kernel: Kernel = kernel
        self.memory: tiles.Memory = memory
        self.spatial = spatial
        self.value_range = value_range
        self.seen_range: tuple[float, float] | None = None  # that a batch was found in
        self.check_range = check_range
        self.saved = calibration.saved
        self.eval()

    def forward(self, x: Tensor, y: Tensor, mask: Tensor | None = None) -> Tensor:
        """Compute the distance of each pair, (N,), or with `spatial` its map (N, 1, H, W).

        Args:
            x, y: images (N, 3, H, W) or grey (N, 1, H, W) of one size: uint8, or float in `value_range`. One
                of them may be a single image, which is compared with each of the other.
            mask: what counts: (N, 1, H, W), or (1, 1, H, W) for all, float in [0, 1], bool, or uint8 in
                0 … 255. Each level takes the mean over its positions weighted by the mask, which is reduced
                to its size by areas. A `spatial` map is multiplied by it. See `outside`.

        Raises:
            TypeError: no tensor.
            ValueError: another shape, type or range, or images too small for the backbone; a mask that is 0
                everywhere.
        """
        return self._measure(mask, self.spatial, x=x, y=y).sum(1, keepdim=self.spatial)

    def per_level(
        self, x: Tensor, y: Tensor, mask: Tensor | None = None, *, spatial: bool | None = None
    ) -> Tensor:
        """Compute what each level adds to the distance: (N, L), or with `spatial` (N, L, H, W).

        Arguments and errors as in `forward`; `spatial` is that of the distance by default.
        """
        return self._measure(mask, self.spatial if spatial is None else spatial, x=x, y=y)

    def triplet(
        self, ref: Tensor, p0: Tensor, p1: Tensor, mask: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """Compute the distances (d0, d1) of p0 and p1 from ref, with one backbone pass per image.

        Arguments and errors as in `forward`.
        """
        levels = self._measure(mask, self.spatial, ref=ref, p0=p0, p1=p1)
        d0, d1 = levels.sum(1, keepdim=self.spatial).chunk(2)
        return d0, d1

    def compare(
        self,
        levels: Sequence[Sequence[Tensor]],
        size: Sequence[int],
        spatial: bool,
        mask: Tensor | None = None,
        compile: bool = True,
    ) -> Tensor:
        """Equation 1, level by level: distances of the first maps from the second, then from the third ….

        Args:
            levels: for each level, maps (N, C, h, w) of two or more batches of images.
            size: (H, W) of the images.
            spatial: upsample to maps, instead of taking the mean over positions.
            mask: (N, 1, H, W) or (1, 1, H, W), weights in [0, 1] of the positions.
            compile: run compiled code if the metric was made so.

        Returns:
            (K·N, L) for K batches after the first, or (K·N, L, H, W).
        """
        plain = torch.compiler.is_compiling() or is_transformed()
        if self.compiled and compile and not plain:
            # not once more within: where torch.compile gives up, it runs this as it is
            return compiled.call(LPIPS.compare, self, levels, size, spatial, mask, False)
        # autocast would round distances to the three digits of bfloat16, and make ties of preferences
        with torch.autocast(levels[0][0].device.type, enabled=False):
            means = not spatial and mask is None
            parts = [self._difference(*level, mean=means) for level in zip(self.weights, levels, strict=True)]
            return self._joined(parts, size, spatial, mask)

    def _difference(self, lin: Tensor, level: Sequence[Tensor], mean: bool) -> Tensor:
        """Σ_c lin_c (x̂_c − ŷ_c)² of a level, for K batches after the first: (K, N, h, w), or means (K, N)."""
        plain = torch.compiler.is_compiling() or is_transformed()
        if not plain and not (self.training and self.dropout.p):  # the same in less memory
            return fast.compare(lin, *level, mean=mean, kernel=self.kernel)
        u, *units = (unit_normalize(f.to(lin.dtype)) for f in level)
        squares = self.dropout(torch.cat([(u - v).square() for v in units]))  # (K·N, C, h, w)
        return (lin.view(-1, 1, 1) * squares).sum(1).view(len(units), *u.shape[:1], *u.shape[2:])

    @staticmethod
    def _joined(parts: Sequence[Tensor], size: Sequence[int], spatial: bool, mask: Tensor | None) -> Tensor:
        """What each level adds to distances, (K·N, L) or (K·N, L, H, W), from `_difference` of each."""
        if mask is not None:  # of each batch after the first
            mask = mask.repeat(len(parts[0]), 1, 1, 1)
        found = []
        for part in parts:
            part = part.flatten(0, 1).unsqueeze(1)
            if spatial:
                part = F.interpolate(part, list(size), mode="bilinear", align_corners=False)
                found.append(part if mask is None else part * mask)
            else:
                found.append(part if part.ndim == 2 else fast.mean(part, mask))
        return torch.cat(found, dim=1)

    def maps(self, rgb: Tensor, mask: Tensor | None = None) -> list[Tensor]:
        """Compute the maps (N, C, h, w) per level, 1×1 if pooled, of `rgb` (N, 3, H, W) in [0, 1]."""
        return [self._level(m, mask) for m in self.formed(self.backbone(rgb))]

    def formed(self, maps: list[Tensor]) -> list[Tensor]:
        """Make one vector (N, D, 1, 1) of the embeddings of all levels in the form `concatenated`."""
        if self.form != "concatenated":
            return maps
        # autocast would round what the distance is of
        with torch.autocast(maps[0].device.type, enabled=False):
            vector = torch.cat([m.to(self.lin[0].dtype) for m in maps], 1)
            if self.head is not None:
                vector = self.head(vector)
            return [vector - vector.mean(1, keepdim=True) if self.center else vector]

    @property
    def weights(self) -> list[Tensor]:
        """Channel weights of each comparison: of each level, or of the one vector of all."""
        return [torch.cat(list(self.lin))] if self.form == "concatenated" else list(self.lin)

    def masked(self, mask: Tensor | None, rgb: list[Tensor]) -> tuple[Tensor | None, list[Tensor]]:
        """Check a mask of images, as `to_rgb` returns them; give both as they are measured, see `outside`."""
        if mask is None:
            return None, rgb
        count = max(image.shape[0] for image in rgb)
        mask = to_weights(mask, count, rgb[0].shape[2:], rgb[0].dtype)
        return mask, [self.filled(mask, image) for image in rgb]

    def filled(self, mask: Tensor | None, rgb: Tensor) -> Tensor:
        """Give images the network's mean colour outside a mask that was checked, if `outside` says so."""
        if mask is None or self.outside == "see":
            return rgb
        return torch.where(mask > 0, rgb, self.backbone.mean)

    def _measure(self, mask: Tensor | None, spatial: bool, **images: Tensor) -> Tensor:
        """What each level adds to the distances of the first images from the others, see `compare`."""
        rgb = to_rgb(self, **images)
        if mask is not None:
            mask, rgb = self.masked(mask, rgb)
        if self.memory is not None and (cut := tiles.cut(self.backbone, rgb, self.memory)):
            return self._in_tiles(cut, rgb, spatial, mask)
        if self.compiled == "full" and not (torch.compiler.is_compiling() or is_transformed()):
            return compiled.call(LPIPS._whole, self, rgb, spatial, mask)
        return self.compare(self._levels(rgb, mask), rgb[0].shape[2:], spatial, mask)

    def _whole(self, rgb: Sequence[Tensor], spatial: bool, mask: Tensor | None) -> Tensor:
        """Features and their comparison as one function."""
        return self.compare(self._levels(rgb, mask), rgb[0].shape[2:], spatial, mask, compile=False)

    def _in_tiles(self, cut: tiles.Cut, rgb: Sequence[Tensor], spatial: bool, mask: Tensor | None) -> Tensor:
        """What `_measure` gives, of tiles side by side: maps of differences, or sums of features."""

        def compute(tile: tiles.Tile, *images: Tensor) -> list[Tensor]:
            found = []
            levels = zip(*map(self.backbone, images), strict=True)
            for number, (maps, lin) in enumerate(zip(levels, self.weights, strict=True)):
                with torch.autocast(lin.device.type, enabled=False):
                    if self.form == "pooled":
                        size = cut.sizes[number] if cut.sizes else maps[0].shape[2:]
                        ones = lin.new_ones(1, 1, *size)
                        weight = ones if mask is None else fast.reduced(tile.item(mask), ones)
                        weight = tile.of(number, weight / weight.sum((2, 3), keepdim=True))
                        sums = [(tile.kept(number, m) * weight).sum((2, 3), keepdim=True) for m in maps]
                        found.append(torch.stack(sums))
                    else:
                        found.append(tile.kept(number, self._difference(lin, maps, mean=False)))
            return found

        parts = cut.join(compute, rgb)
        if self.form != "pooled":
            return self._joined(parts, rgb[0].shape[2:], spatial, mask)
        levels = [part.sum((-2, -1), keepdim=True).unbind() for part in parts]
        return self.compare(levels, rgb[0].shape[2:], spatial, mask)

    def _level(self, maps: Tensor, mask: Tensor | None) -> Tensor:
        """Maps of a level as they are compared: 1×1 if pooled, the mean over their positions.

        Raises:
            ValueError: a mask that cannot act on a level of one position.
        """
        if mask is not None and self.outside == "see" and maps.shape[2:].numel() == 1:
            raise ValueError(
                f"a level of {self.backbone.name} has one position for the whole image, which no mask can "
                "divide; outside='fill' hides the rest from the network"
            )
        if self.form != "pooled":
            return maps
        return fast.mean(maps.to(self.lin[0].dtype), mask)[..., None, None]

    def _levels(self, batches: Sequence[Tensor], mask: Tensor | None = None) -> list[tuple[Tensor, ...]]:
        """`maps` of each batch, level by level, those of a single image repeated."""
        if len({batch.requires_grad for batch in batches}) > 1:  # one pass would give some a needless graph
            levels = list(zip(*(self.formed(self.backbone(batch)) for batch in batches), strict=True))
        else:
            sizes = [batch.shape[0] for batch in batches]  # len() would fix that of an exported program
            maps = self.backbone(torch.cat(list(batches)))
            maps = self.formed(maps) if self.form == "concatenated" else maps
            levels = [m.split(sizes) for m in maps]
        if mask is not None or self.form == "pooled":
            levels = [tuple(self._level(f, mask) for f in level) for level in levels]
        counts = [f.shape[0] for f in levels[0]]
        if any(count != counts[0] for count in counts):
            count = next(count for count in counts if count != 1)  # which may be 0
            levels = [tuple(f.expand(count, -1, -1, -1) for f in level) for level in levels]
        return levels

    def among(self, images: Tensor, first: Tensor, second: Tensor) -> Tensor:
        """Compute distances (P,) of pairs of images that recur in them, with one backbone pass per image.

        In training the pairs are entries of one matrix product per level, which costs as much for few pairs
        as for all, and `dropout` drops channels, the same of all pairs; else each pair is compared as
        `forward` does. `spatial` has no effect.

        Args:
            images: (M, 3, H, W), as `forward` takes them.
            first, second: (P,) int64, the rows of `images` that are compared.

        Raises:
            ValueError: what `forward` raises.
        """
        (rgb,) = to_rgb(self, images=images)
        maps = self.maps(rgb)
        if self.training:
            levels = zip(maps, self.weights, strict=True)
            parts = [pairwise.products(self.dropout(lin), f)[first, second] for f, lin in levels]
            return torch.stack(parts).sum(0)
        chunks = zip(first.split(PAIRS), second.split(PAIRS), strict=True)
        pairs = ([(f[i], f[j]) for f in maps] for i, j in chunks)
        return torch.cat([self.compare(levels, rgb.shape[2:], False).sum(1) for levels in pairs])

    @property
    def curve(self) -> Noticed | None:
        """How many people notice its distances, where a fit is saved with it, see `perceptual notice`."""
        said = self.saved.config["record"].get("noticed") if self.saved else None
        return Noticed(**said) if said else None

    def noticed(self, distance: Tensor | float) -> Tensor:
        """Share of people, in [0, 1], who notice distances (…) of this metric.

        Raises:
            ValueError: no fit is saved with it.
        """
        if self.curve is None:
            raise ValueError(
                "no fit is saved with this distance; `perceptual notice FOLDER data.root=…` makes one"
            )
        return self.curve.share(distance)

    def reference(self, y: Tensor, mask: Tensor | None = None) -> "Reference":
        """Hold the features of y: the object that is returned is called as ref(x) → (N,).

        For optimising many x against one y. Arguments and errors as in `forward`.
        """
        return Reference(self, y, mask)

    def embed(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        """Compute vectors (N, D) whose squared Euclidean distance is that of the images, to search with.

        They are √(lin_c / HW) · x̂ of all levels, one after the other; D depends on the size of the images.
        Neither `spatial` nor dropout acts on them. Arguments and errors as in `forward`; distances within a
        mask are those of vectors with one and the same mask.

        Raises:
            ValueError: lin has negative weights, so that no such vectors exist.
        """
        mask, (x,) = self.masked(mask, to_rgb(self, x=x))
        return pairwise.vectors(self.maps(x, mask), self.weights, mask)

    @torch.no_grad()
    def pairwise(
        self,
        images: Tensor,
        other: Tensor | None = None,
        mask: Tensor | None = None,
        *,
        memory: int = 1 << 30,
    ) -> Tensor:
        """Compute all distances, (N, M) from `other` or (N, N) among `images`; without a gradient.

        Each image goes through the backbone once. All pairs of `images` are symmetric to the last bit, with 0
        on the diagonal; no distance is negative, and those of near-duplicates are as exact as others.

        Args:
            images, other: (N, 3, H, W) and (M, 3, H, W) of one size, or grey, as `forward` takes them.
            mask: (1, 1, H, W), what counts of all, as `forward` takes it.
            memory: bytes to work in, beyond the result and what one batch of one image needs. Vectors that
                take more than half of it wait in a temporary file.

        Raises:
            ValueError: what `embed` raises; sizes that differ; `memory` not positive.
        """
        check(self, {"images": images} | ({} if other is None else {"other": other}))
        return pairwise.distances(partial(self.embed, mask=mask), images, other, memory)

    def accelerate(
        self, *, precision: Precision = "32-true", compile: Compile = False, memory: tiles.Memory = None
    ) -> "LPIPS":
        """Compute in another precision, by compiled code or in a budget of memory, from now on; itself.

        Args:
            precision: of the features, as `Backbone` takes it.
            compile, memory: as `LPIPS` takes them.

        Raises:
            ValueError: no such precision, `compile` without a compiler, or `memory` that is not positive.
        """
        compiled.check(compile)
        tiles.check(memory)
        self.backbone.set_precision(precision)
        self.compiled = compile
        self.memory = memory
        return self

    def graph(self, x: Tensor, y: Tensor) -> Callable[[Tensor, Tensor], Tensor]:
        """Record a CUDA graph of `forward`, whose replay starts all kernels at once: for many small batches.

        Args:
            x, y: images on a GPU of CUDA, of the shape, type and need of a gradient that all others will
                have. The range of these is checked, and of no others.

        Returns:
            (x, y) → what `forward` gives, with its first gradient; not for masks, `compile` or `memory`.

        Raises:
            ValueError: no GPU of CUDA, or what `forward` raises; later, images of another shape or type.
        """
        return compiled.graphed(self, x, y)

    @torch.no_grad()
    def project(self) -> None:
        """Project lin to ≥ 0, as after each training step: no difference may bring images nearer."""
        for vector in self.lin:
            vector.clamp_(min=0)

    def extra_repr(self) -> str:
        """Name the network, its weights and the calibration."""
        lin = "none" if self.calibration is None else self.calibration
        return f"{self.backbone.name}, weights {self.backbone.source}, calibration {lin}, {self.form}"


class Reference:
    """Distance of images from one target whose features are held: what `LPIPS.reference` returns."""

    def __init__(self, lpips: LPIPS, y: Tensor, mask: Tensor | None = None) -> None:
        # features made in inference mode could not take part in a gradient later
        with torch.inference_mode(False), torch.no_grad():
            self._y, self._given = y.clone() if y.is_inference() else y.detach(), mask
            self._mask, (rgb,) = lpips.masked(mask, to_rgb(lpips, y=self._y))
            # in a budget of memory the image is held, whose features may not fit
            self._maps = None if lpips.memory is not None else lpips.maps(rgb, self._mask)
        self._lpips = lpips
        self._shape = rgb.shape

    def __call__(self, x: Tensor) -> Tensor:
        """Compute `LPIPS(x, y)`, with a gradient to x only.

        Args:
            x: images (N, 3, H, W) of the size of y. y has N images too, or one, for all of x.

        Raises:
            ValueError: what `LPIPS.forward` raises.
        """
        lpips, count = self._lpips, self._shape[0]
        (rgb,) = to_rgb(lpips, x=x)
        if rgb.shape[1:] != self._shape[1:] or count not in (1, len(rgb)):
            raise ValueError(
                f"x must have the shape of the reference, {tuple(self._shape)}"
                f"{', with any number of images' if count == 1 else ''}, got {tuple(x.shape)}"
            )
        if self._maps is None:
            return lpips(x, self._y, self._given)
        mask = self._mask
        levels = [
            (f, held.expand(len(rgb), -1, -1, -1))
            for f, held in zip(lpips.maps(lpips.filled(mask, rgb), mask), self._maps, strict=True)
        ]
        return lpips.compare(levels, rgb.shape[2:], lpips.spatial, mask).sum(1, keepdim=lpips.spatial)
