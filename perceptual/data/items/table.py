"""Base of the tables of triplets, pairs and opinions: choose rows, open images, take a fingerprint."""

import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from hashlib import sha256
from typing import Any, ClassVar, Literal, TypeVar, get_args

import numpy as np

from perceptual.data.images import Images, image_digests, open_images, sizes_of
from perceptual.data.native import NativeFiles, NativeImages, check_alike, resolution

AnyTable = TypeVar("AnyTable", bound="Table")
Split = Literal["train", "val", "test"]
SPLITS: tuple[Split, ...] = get_args(Split)
RESERVED = ("mean", "micro", "jnd")  # columns of scores


@dataclass(frozen=True, eq=False, kw_only=True)
class Table:
    """N items over M distinct images, which several items may share.

    A table has an int64 array (N,) of indices into `images` under each name in `roles`, and what people
    answered under the name in `answer`.
    """

    roles: ClassVar[tuple[str, ...]]
    answer: ClassVar[str]
    plural: ClassVar[str]  # what the items are called
    on_disk: ClassVar[str]  # the answer's folder or column

    images: list[str] | Images  # files until `open` has checked them
    subset: np.ndarray  # (N,) int64, index into `subsets`; -1 if it is none of them
    subsets: list[str]
    votes: np.ndarray | None = None  # (N,) float32, people asked; None if not recorded
    split: np.ndarray | None = None  # (N,) "train", "val" or "test" as the source says; None if it does not
    made: np.ndarray | None = None  # (N,) bytes, what was done to synthetic items; None if not recorded

    def __post_init__(self) -> None:
        """Refuse names of subsets that are those of means in tables of scores."""
        if wrong := [name for name in self.subsets if name in RESERVED or name.startswith("jnd/")]:
            raise ValueError(f"a subset cannot be called {wrong[0]!r}, which is the name of another score")

    def __len__(self) -> int:
        return len(self.subset)

    def items(self) -> np.ndarray:
        """Indices of the images, (roles, N) int64."""
        return np.stack([getattr(self, role) for role in self.roles])

    def open(self: AnyTable, size: int | None, shorter_side: int | None = None) -> AnyTable:
        """The same table with its images checked, at size × size, or in their own sizes.

        Args:
            size: side of the square that images are resized to; None: they keep their sizes.
            shorter_side: without `size`, pixels to resize the shorter side of each to.

        Raises:
            ValueError: what `open_images` raises; images of an item differ in size; or they are open at
                another size.
        """
        images = self.images
        if isinstance(images, list):
            opened = open_images(images, size, shorter_side)
            if isinstance(opened, (NativeImages, NativeFiles)):
                check_alike(self.roles, self.items(), opened.sizes, images)
            return replace(self, images=opened)
        asked = resolution(shorter_side) if size is None else size
        if at(images) != asked:
            raise ValueError(
                f"size={'null' if size is None else size}"
                + (f" shorter_side={shorter_side}" if shorter_side else "")
                + f", but the images are already open at {at(images)} (a store has the size it was packed at)"
            )
        return self

    def same_content(self: AnyTable) -> AnyTable:
        """The table with images of the same pixels taken for one, the first of them; they must be open."""
        if isinstance(self.images, list):
            raise RuntimeError("call open() before same_content()")
        used = np.unique(self.items())
        content = image_digests(self.images, used)
        if isinstance(self.images, (NativeImages, NativeFiles)):  # a digest of pixels does not tell the shape
            content = np.hstack(
                [content, self.images.sizes[used].astype("<i8").view(np.uint8).reshape(-1, 16)]
            )
        _, first, which = np.unique(content, axis=0, return_index=True, return_inverse=True)
        if len(first) == len(used):
            return self
        one = used[first[which.reshape(-1)]]
        roles = {role: one[np.searchsorted(used, getattr(self, role))] for role in self.roles}
        return replace(self, **roles)

    def sizes(self, crop: int | None = None) -> np.ndarray | None:
        """Height and width of the images of each item, (N, 2), where they keep their sizes; else None.

        Args:
            crop: side of squares that are cropped from them, which have one size then.

        Raises:
            ValueError: images of an item differ in size, or some are smaller than `crop`.
        """
        if isinstance(self.images, list):
            raise RuntimeError("call open() before sizes()")
        if crop is not None:
            small = (sizes_of(self.images) < crop).any(axis=1)
            small = small & np.isin(np.arange(self.images.shape[0]), self.items())
            if small.any():
                height, width = sizes_of(self.images)[small.argmax()]
                raise ValueError(
                    f"crop={crop} needs images of at least {crop}×{crop} pixels; {small.sum():,} are "
                    f"smaller, the first is {width}×{height}"
                )
            return None
        if not isinstance(self.images, (NativeImages, NativeFiles)):
            return None
        check_alike(self.roles, self.items(), self.images.sizes, [])
        return self.images.sizes[getattr(self, self.roles[0])]

    def take(self: AnyTable, rows: np.ndarray) -> AnyTable:
        """The items that a mask (N,) or indices choose, over the same images."""
        names = (*self.roles, self.answer, "subset", "votes", "split", "made")
        chosen = {name: column[rows] for name in names if (column := getattr(self, name)) is not None}
        return replace(self, **chosen)

    def of_votes(self: AnyTable, min_votes: int) -> AnyTable:
        """The items that at least so many people judged; files that none of them shows are left out.

        Raises:
            ValueError: votes are not recorded, or there is no such item.
        """
        if self.votes is None:
            raise ValueError(f"min_votes={min_votes} needs the votes of each item, which are not recorded")
        chosen = self.take(self.votes >= min_votes)
        if not len(chosen):
            raise ValueError(f"none of the {len(self):,} {self.plural} has {min_votes} votes or more")
        if not isinstance(self.images, list):
            return chosen
        used, items = np.unique(chosen.items(), return_inverse=True)
        roles: Any = dict(zip(self.roles, items.reshape(len(self.roles), -1), strict=True))
        return replace(chosen, images=[self.images[i] for i in used], **roles)

    def only(self: AnyTable, subsets: Sequence[str], names: list[str]) -> AnyTable:
        """The items of some subsets, one subset after the other, under other names.

        Raises:
            ValueError: there is no such subset.
        """
        absent = [subset for subset in subsets if subset not in self.subsets]
        if absent:
            raise ValueError(f"no subset {', '.join(absent)}; there are {', '.join(self.subsets)}")
        rows = [np.flatnonzero(self.subset == self.subsets.index(subset)) for subset in subsets]
        chosen = self.take(np.concatenate(rows))
        number = np.repeat(np.arange(len(rows)), [len(part) for part in rows])
        return replace(chosen, subset=number, subsets=names)

    def with_subsets(self: AnyTable, subsets: list[str]) -> AnyTable:
        """Number the subsets by another list of names; those it does not hold become -1."""
        number = np.array([subsets.index(name) if name in subsets else -1 for name in self.subsets] + [-1])
        return replace(self, subset=number[self.subset], subsets=subsets)  # a -1 before stays -1

    def fingerprint(self) -> str:
        """SHA-256, in hex, of what a score on this table depends on; its images must be open.

        That is the size (of each image, where they keep theirs), the names of the subsets, and, in the order
        of the items, the SHA-256 of each image's pixels, the answers, the subsets and the votes.
        The files' places and formats do not matter: a folder, a manifest and a store with the same items have
        the same fingerprint.
        """
        if isinstance(self.images, list):
            raise RuntimeError("call open() before fingerprint()")
        header = [self.roles, self.answer, list(self.images.shape[1:]), len(self), self.subsets]
        found = sha256(json.dumps(header).encode())
        if isinstance(self.images, (NativeImages, NativeFiles)):  # a digest of pixels does not tell the shape
            found.update(self.images.sizes[self.items()].astype("<i8").tobytes())
        for role in self.roles:
            found.update(image_digests(self.images, getattr(self, role)).tobytes())
        found.update(getattr(self, self.answer).astype("<f4").tobytes())
        found.update(self.subset.astype("<i8").tobytes())
        found.update(b"" if self.votes is None else self.votes.astype("<f4").tobytes())
        return found.hexdigest()


def no_people(answers: np.ndarray, votes: np.ndarray) -> np.ndarray:
    """Where answer · votes is no whole number of people, (N,) bool.

    The tolerance is for files that print shares with a few decimals; that of
    `perceptual.metrics.votes.counted` is the same.
    """
    share = answers.astype(np.float64) * votes
    return np.abs(share - share.round()) > 0.05


def at(images: Images) -> int | str:
    """The side of images that are squares of one size; "native" or "shorter side 384" of others."""
    return images.resolution if isinstance(images, (NativeImages, NativeFiles)) else int(images.shape[-1])
