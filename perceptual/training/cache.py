"""The means of `differences`, computed once per backbone and data set and kept on disk.

A folder per backbone, weights, data, …: `means.npy`; `about.json`, what they are of; and a checksum per part.
"""

import json
import math
import os
import re
import shutil
import zlib
from collections import OrderedDict
from collections.abc import Callable, Iterator, Sequence
from hashlib import sha256
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytorch_lightning as pl
import torch
from filelock import FileLock, Timeout
from torch import Tensor
from torch.utils.data import Dataset

from perceptual.data.augmentation import replace_half, view
from perceptual.data.batch import JudgedDataset, chunks_of_pairs
from perceptual.data.images import as_floats
from perceptual.data.kinds import Kind
from perceptual.data.loading import Batches, loader, val_loaders
from perceptual.data.module import JudgedDataModule
from perceptual.distance.differences import mean_differences, weigh
from perceptual.distance.lpips import LPIPS
from perceptual.features.custom import BUILT
from perceptual.files.places import ELSEWHERE, cache_folder
from perceptual.files.progress import Progress
from perceptual.files.writing import new_array, write_text

# the most augmented views, and the most pixels in all of them, of which a first run makes features by default
VIEWS, PIXELS = 8, 20_000 * 64**2
VERSION = 3  # of the numbers and of the files; caches of another version are not read
IMAGES = 64  # embedded at once
Rows = Callable[[int, int], Iterator[Tensor]]  # rows from one to another, chunk by chunk
PART = 1024  # pairs that a process computes alone, checksums together, and loses at most when it is killed


class DifferenceBatch(NamedTuple):
    """N judged items as the mean squared differences of the unit-normalised features of their images."""

    kind: Kind
    means: Tensor
    """(N, K, C) float32, of the K pairs that an item compares; channels of all levels, shallow to deep."""
    answer: Tensor
    """(N,) float32, as `kind` says."""
    weight: Tensor
    """(N,) float32, weight in the loss."""
    subset: Tensor
    """(N,) int64, number of the subset."""

    def distances(self, distance: LPIPS) -> tuple[Tensor, ...]:
        """Distances (N,) of each pair, by an LPIPS on the backbone that the means are from."""
        return weigh(distance, self.means).unbind(1)

    def to(self, *args: Any, **kwargs: Any) -> "DifferenceBatch":
        """The batch on another device, as `Tensor.to`."""
        return DifferenceBatch(self.kind, *(part.to(*args, **kwargs) for part in self[1:]))

    def pieces(self, pixels: int) -> list["DifferenceBatch"]:
        """The batch alone: it has no images."""
        return [self]

    def swap(self, draws: Tensor) -> "DifferenceBatch":
        """Exchange p0 and p1, and so the judgment, of the triplets with draws (N, …) < ½."""
        means = replace_half(self.means, self.means.flip(1), draws)
        return self._replace(means=means, answer=replace_half(self.answer, 1 - self.answer, draws))


class EmbeddingBatch(NamedTuple):
    """N judged items as the embeddings of their images, which a head is trained on."""

    kind: Kind
    embeddings: Tensor
    """(N, R, D) float32, of the images of an item in the order of its roles; of all levels, as they come."""
    answer: Tensor
    """(N,) float32, as `kind` says."""
    weight: Tensor
    """(N,) float32, weight in the loss."""
    subset: Tensor
    """(N,) int64, number of the subset."""

    def distances(self, distance: LPIPS) -> tuple[Tensor, ...]:
        """Distances (N,) of each pair, by an LPIPS on the backbone that the embeddings are from."""
        (vectors,) = distance.formed([self.embeddings.flatten(0, 1)[..., None, None]])
        roles = vectors.unflatten(0, self.embeddings.shape[:2]).unbind(1)
        pairs = zip(*self.kind.pairs(), strict=True)
        return tuple(distance.compare([(roles[i], roles[j])], (1, 1), False).sum(1) for i, j in pairs)

    def to(self, *args: Any, **kwargs: Any) -> "EmbeddingBatch":
        """The batch on another device, as `Tensor.to`."""
        return EmbeddingBatch(self.kind, *(part.to(*args, **kwargs) for part in self[1:]))

    def pieces(self, pixels: int) -> list["EmbeddingBatch"]:
        """The batch alone: it has no images."""
        return [self]

    def swap(self, draws: Tensor) -> "EmbeddingBatch":
        """Exchange p0 and p1, and so the judgment, of the triplets with draws (N, …) < ½."""
        embeddings = replace_half(self.embeddings, self.embeddings[:, [0, 2, 1]], draws)
        return self._replace(embeddings=embeddings, answer=replace_half(self.answer, 1 - self.answer, draws))


class CachedDataset(Dataset[DifferenceBatch | EmbeddingBatch]):
    """Judged items with cached numbers in place of images.

    Args:
        judged: N items.
        views: for each view of the images, (P, C) float32 each: side by side, those of all levels. A batch is
            of one view, which follows from its items.
        which: (N, K) int64, the rows of each item.
        batch: what a batch is made of.
    """

    def __init__(
        self,
        judged: JudgedDataset,
        views: Sequence[Sequence[Tensor]],
        which: Tensor,
        batch: type[DifferenceBatch] | type[EmbeddingBatch],
    ) -> None:
        self.table, self._judged, self._views = judged.table, judged, views
        self._which, self._batch = which, batch

    def __len__(self) -> int:
        return len(self.table)

    def __getitem__(self, index: int) -> DifferenceBatch | EmbeddingBatch:
        """A batch of one item."""
        return self.__getitems__([index])

    def __getitems__(self, indices: Sequence[int]) -> DifferenceBatch | EmbeddingBatch:
        """A batch of items, in the order of the indices."""
        rows = torch.as_tensor(indices)
        which = self._which[rows]
        # in training the sum is another each epoch; so a resumed run draws the same views
        chosen = self._views[int(rows.sum()) % len(self._views)]
        parts = [part.index_select(0, which.flatten()) for part in chosen]
        found = parts[0] if len(parts) == 1 else torch.cat(parts, 1)
        return self._batch(self.table.kind, found.view(*which.shape, -1), *self._judged.judged(rows))


class CachedDataModule(pl.LightningDataModule):
    """The batches of another data module with cached means in place of images.

    `setup`, which Lightning calls in every process, computes what is missing; the processes share the work.

    Args:
        data: the data module of images, set up for fit.
        lpips: the distance, with a frozen backbone.
        folder: the folder of all caches; `cache_folder()` if None.
        views: augmented views of every training image beside the image itself, see `augmentation.view`; each
            batch is of one of them. None: as many as a first run can afford, 8 of few images, none of many.

    Raises:
        ValueError: the backbone is trained, so its features change; or items have masks.
    """

    def __init__(
        self,
        data: JudgedDataModule,
        lpips: LPIPS,
        folder: str | os.PathLike[str] | None = None,
        views: int | None = 0,
    ) -> None:
        super().__init__()
        if not lpips.backbone.frozen:
            raise ValueError(f"the features of {lpips.backbone.name} cannot be cached: it is trained")
        if data.masked:
            raise ValueError(
                "features are cached of whole images, and these items have masks: data.cache=off"
            )
        self.data = data
        self.folder = Path(folder) if folder else cache_folder()
        self._lpips, self.views = lpips, _affordable(data) if views is None else views
        self.train_set: CachedDataset | None = None
        self.val_sets: list[CachedDataset] = []

    def setup(self, stage: str | None = None) -> None:
        """Read the means, or compute them on the trainer's device.

        Raises:
            OSError: the folder cannot be written, or the disk is full.
        """
        if self.train_set is not None:
            return
        data, backbone = self.data, self._lpips.backbone
        assert data.train_set is not None
        before = backbone.mean.device
        backbone.to(self.trainer.strategy.root_device if self.trainer else before)
        self.val_sets = [cached(self._lpips, judged, self.folder) for judged in data.val_sets]
        self.train_set = cached(self._lpips, data.train_set, self.folder, self.views)
        backbone.to(before)

    @property
    def sides(self) -> dict[str, dict[str, Any]]:
        """As that of the data module of images."""
        return self.data.sides

    def train_dataloader(self) -> Batches[Any]:
        """Training batches, in the order of the data module of images."""
        return loader(self.train_set, self.data.batch_size, 0, self.data.seed, shuffle=True)

    def val_dataloader(self) -> Batches[Any] | list[Batches[Any]]:
        """Validation batches of all subsets, in a fixed order; a list, where several kinds are validated."""
        return val_loaders(self.val_sets, self.data.batch_size, 0)


def _affordable(data: JudgedDataModule) -> int:
    """Views of the training images that add little to the time of a first run."""
    assert data.train_set is not None
    images = len(np.unique(data.train_set.table.items))
    return min(VIEWS, PIXELS // (images * data.size**2)) if data.size else 0


def cached(lpips: LPIPS, judged: JudgedDataset, folder: Path, views: int = 0) -> CachedDataset:
    """The items with their means, from `folder` if it has them, else computed and kept there.

    Under a head they are the embeddings of the images, in place of means of pairs.
    So are those of `views` augmented views, see `augmentation.view`.

    Processes that call it at once, ranks of one run or runs of a sweep, share the work part by part. An
    interrupted computation continues where it stopped; parts with a wrong checksum are computed again.

    Raises:
        OSError: the folder cannot be written, or the disk is full.
    """
    headed, found = lpips.head is not None, list[list[Tensor]]()
    rows = len(judged.images) if headed else len(judged.pairs())
    for number in range(views + 1):
        found.append([])
        for part in _parts(lpips):
            about = describe(part, judged) | ({"view": number} if number else {})
            cache = _Cache(folder, about, (rows, sum(part.backbone.channels)), number)
            cache.open()
            cache.complete(part.backbone.mean.device, _rows(part, judged, headed, number))
            found[-1].append(torch.from_numpy(cache.means()))
    if headed:
        return CachedDataset(judged, found, judged.items.T.contiguous(), EmbeddingBatch)
    which = torch.from_numpy(judged.table.distinct_pairs[1].T.copy())
    return CachedDataset(judged, found, which, DifferenceBatch)


def _rows(lpips: LPIPS, judged: JudgedDataset, headed: bool, number: int) -> Rows:
    """What computes rows from one to another, chunk by chunk: means of pairs, or embeddings of images."""
    held: OrderedDict[int, list[Tensor]] = OrderedDict()
    pairs = judged.pairs()

    def read(index: Tensor) -> Tensor:
        return view(as_floats(judged.images.checked(index)), number)

    @torch.no_grad()
    def embeddings(first: int, last: int) -> Iterator[Tensor]:
        size = IMAGES if judged.images.square else 1
        for index in torch.arange(first, min(last, len(judged.images))).split(size):
            maps = lpips.backbone(read(index).to(lpips.backbone.mean))
            yield torch.cat([m.flatten(1) for m in maps], 1).float().cpu()

    def means(first: int, last: int) -> Iterator[Tensor]:
        return mean_differences(lpips, chunks_of_pairs(pairs, first, last), read, held)

    return embeddings if headed else means


def _parts(lpips: LPIPS) -> list[LPIPS]:
    """The distances whose means follow one another: of each network of several as one, to be shared."""
    members = lpips.backbone.members
    if len(members) == 1 or lpips.form == "concatenated":  # one vector of all
        return [lpips]
    device = lpips.backbone.mean.device
    return [LPIPS(member, lin=None, form=lpips.form).to(device) for member in members]


def describe(lpips: LPIPS, judged: JudgedDataset) -> dict[str, Any]:
    """Everything the means depend on, for JSON; pixels enter as they are after resizing."""
    backbone = lpips.backbone
    # two networks of the user's with one name and the same weights may still compute differently
    tried = {"tried": backbone.try_out()} if BUILT in backbone.info.spec else {}
    return tried | {
        "version": VERSION,
        "backbone": backbone.name,
        "weights": backbone.fingerprint(),
        "levels": list(backbone.out_indices),
        "input_size": list(backbone.input_size) if backbone.input_size else None,
        "mean": backbone.mean.flatten().tolist(),
        "std": backbone.std.flatten().tolist(),
        "precision": backbone.precision,
        "form": lpips.form,
        "data": judged.table.fingerprint(),
        **({"center": True} if lpips.center else {}),
        **({"embeddings": True} if lpips.head is not None else {}),
    }


class _Cache:
    """One folder of means: `means.npy`, `about.json`, and a checksum of each part that is complete."""

    def __init__(self, folder: Path, about: dict[str, Any], shape: tuple[int, int], view: int = 0) -> None:
        self.about, self.name = json.dumps(about, indent=1), about["backbone"]
        readable = re.sub(r"[^\w.-]+", "-", self.name)  # a name may have slashes
        self.folder = folder / f"{readable}-{sha256(self.about.encode()).hexdigest()[:16]}"
        self.shape, self.view = shape, view
        self.parts = range(0, shape[0], PART)

    def open(self) -> None:
        """Make the folder, or check its contents: what is damaged is forgotten.

        Raises:
            OSError: the folder cannot be written, or the disk is full.
        """
        try:
            self.folder.parent.mkdir(parents=True, exist_ok=True)
            with FileLock(f"{self.folder}.lock"):
                if self._fits():
                    self._forget_damaged_parts()
                else:
                    self._begin()
        except OSError as error:
            size = 4 * math.prod(self.shape) / 1e6
            raise OSError(
                f"cannot keep {size:,.0f} MB of features of {self.name} in the cache folder "
                f"{str(self.folder.parent)!r}: {error.strerror}; {ELSEWHERE}, data.cache=off does without"
            ) from error

    def complete(self, device: torch.device, compute: Rows) -> None:
        """Compute the parts that are missing and that no other process computes; then wait for those."""
        total = self.shape[0]
        missing = {part: min(PART, total - part) for part in self.parts if not self._is_there(part)}
        if not missing:
            return
        label = f"Features of {self.name}" + (f", view {self.view}" if self.view else "")
        shown = Progress(label, total, done=total - sum(missing.values()))
        # the folder is of the backbone's precision, whatever surrounds this
        with torch.autocast(device.type, enabled=False), shown as progress:
            # first what no process works on, then what one did that may have been killed
            for timeout in (0, -1):
                for part, size in missing.items():
                    if self._is_there(part):
                        progress.advance(size if timeout == 0 else 0)
                        continue
                    try:
                        with FileLock(f"{self._record(part)}.lock", timeout=timeout):
                            if not self._is_there(part):
                                for count in self._compute(compute, part):
                                    progress.advance(count)
                    except Timeout:
                        continue

    def means(self) -> np.ndarray:
        """The array, memory-mapped; copy on write, so that the file does not change."""
        means: np.ndarray = np.load(self.folder / "means.npy", mmap_mode="c")
        return means

    def _compute(self, compute: Rows, part: int) -> Iterator[int]:
        means = np.lib.format.open_memmap(self.folder / "means.npy", "r+")
        row = part
        for chunk in compute(part, part + PART):
            means[row : row + len(chunk)] = chunk.numpy()
            row += len(chunk)
            yield len(chunk)
        means.flush()
        write_text(self._record(part), str(self._checksum(means, part)))

    def _fits(self) -> bool:
        """Whether the folder is of these means and the array is complete."""
        try:
            means = self.means()
            about = (self.folder / "about.json").read_text()
        except (OSError, ValueError, EOFError):
            return False
        return about == self.about and means.shape == self.shape and means.dtype == np.float32

    def _begin(self) -> None:
        shutil.rmtree(self.folder, ignore_errors=True)
        self.folder.mkdir()
        try:
            new_array(self.folder / "means.npy", np.float32, self.shape)
            (self.folder / "about.json").write_text(self.about)
        except OSError:
            shutil.rmtree(self.folder, ignore_errors=True)
            raise

    def _forget_damaged_parts(self) -> None:
        means = self.means()
        for part in self.parts:
            if self._is_there(part) and self._recorded_sum(part) != self._checksum(means, part):
                self._record(part).unlink()

    def _record(self, part: int) -> Path:
        return self.folder / f"{part}.crc32"

    def _is_there(self, part: int) -> bool:
        return self._record(part).is_file()

    def _recorded_sum(self, part: int) -> int | None:
        text = self._record(part).read_text()
        return int(text) if text.isdecimal() else None

    def _checksum(self, means: np.ndarray, part: int) -> int:
        # of what they are of, too: means of something else may have the same shape
        of = zlib.crc32(f"{self.about} {part}".encode())
        return zlib.crc32(np.ascontiguousarray(means[part : part + PART]).data, of)
