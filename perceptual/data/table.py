"""A table of judged items: which images each shows, and what people said."""

import json
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from hashlib import sha256
from typing import Literal, get_args

import numpy as np

from perceptual.data.images import Images, open_images, resolution_of
from perceptual.data.kinds import Kind
from perceptual.data.settings import Resize
from perceptual.files.messages import first_few

Split = Literal["train", "val", "test"]
SPLITS: tuple[Split, ...] = get_args(Split)
RESERVED = ("mean", "micro", "jnd")  # columns of scores
OPTIONAL = ("votes", "split", "made", "condition")  # columns that a table may have


@dataclass(frozen=True, eq=False, kw_only=True)
class Table:
    """N items over M distinct images, which several items may share.

    The images are files, `paths`, until `open` has read them.
    """

    kind: Kind
    items: np.ndarray  # (roles, N) int64, indices of the images, in the order of `kind.roles`
    answer: np.ndarray  # (N,) or (N, roles) float32, as `kind` says
    subset: np.ndarray  # (N,) int64, index into `subsets`; -1 if it is none of them
    subsets: list[str]
    paths: list[str] = field(default_factory=list)
    opened: Images | None = None
    votes: np.ndarray | None = None  # (N,) float32, people asked; None if not recorded
    split: np.ndarray | None = None  # (N,) "train", "val" or "test" as the source says; None if it does not
    condition: np.ndarray | None = None  # (N,) text, such as the light or the camera; None if not recorded
    made: np.ndarray | None = None  # (N,) bytes, what was done to synthetic items; None if not recorded
    mask: np.ndarray | None = None  # (N,) int64, indices of the images that say what counts; None: all

    def __post_init__(self) -> None:
        """Refuse names of subsets that are those of means in tables of scores."""
        if wrong := [name for name in self.subsets if name in RESERVED or name.startswith("jnd/")]:
            raise ValueError(f"a subset cannot be called {wrong[0]!r}, which is the name of another score")

    def __len__(self) -> int:
        return len(self.subset)

    @property
    def images(self) -> Images:
        """Images; raises RuntimeError before `open`."""
        if self.opened is None:
            raise RuntimeError("call open() before the images are used")
        return self.opened

    def role(self, role: str) -> np.ndarray:
        """Indices of the images of one role, (N,) int64."""
        found: np.ndarray = self.items[self.kind.roles.index(role)]
        return found

    @property
    def columns(self) -> dict[str, np.ndarray]:
        """Columns by the names that stores use; of optional ones those that are known."""
        known = {self.kind.answer: self.answer, "subset": self.subset}
        optional = {name: getattr(self, name) for name in OPTIONAL}
        return known | {name: column for name, column in optional.items() if column is not None}

    def open(self, size: int | None, shorter_side: int | None = None, resize: Resize = "bilinear") -> "Table":
        """Check the images, and return the table with them at size × size, or in their own sizes.

        Args:
            size: side of the square that images are resized to; None: they keep their sizes.
            shorter_side: without `size`, pixels to resize the shorter side of each to.
            resize: see `read_pixels`.

        Raises:
            ValueError: what `open_images` raises; images of an item differ in size; or they are open at
                another size, or resized otherwise.
        """
        if self.opened is None:
            opened = open_images(self.paths, size, shorter_side, resize)
            check_alike(self.shown, self.read, opened.sizes, self.paths)
            self._refuse_black(opened)
            return replace(self, opened=opened)
        if self.opened.resolution != resolution_of(size, shorter_side):
            asked = f"size={'null' if size is None else size}"
            asked += f" shorter_side={shorter_side}" if shorter_side else ""
            raise ValueError(
                f"{asked}, but the images are already open at {self.opened.resolution} (a store has the size "
                "it was packed at)"
            )
        if self.opened.resize != resize and (size or shorter_side):
            raise ValueError(
                f"resize={resize} is for files, as they are read; these images were made or packed before, "
                f"with {self.opened.resize}"
            )
        return self

    @property
    def shown(self) -> tuple[str, ...]:
        """The roles, then `mask` where there are masks."""
        return self.kind.roles if self.mask is None else (*self.kind.roles, "mask")

    @property
    def read(self) -> np.ndarray:
        """Indices of the images of each item, those of `shown`, (roles or one more, N) int64."""
        return self.items if self.mask is None else np.vstack([self.items, self.mask])

    def _refuse_black(self, opened: Images) -> None:
        black = [i for i in np.unique([] if self.mask is None else self.mask) if not opened.one(int(i)).any()]
        if black:
            raise ValueError(
                f"{len(black):,} masks are black: nothing of their items would count: "
                f"{first_few(self.paths[i] for i in black)}"
            )

    def same_content(self) -> "Table":
        """Replace images of the same pixels by the first of them; they must be open."""
        used = np.unique(self.items)
        content = self._contents(used)
        _, first, which = np.unique(content, axis=0, return_index=True, return_inverse=True)
        if len(first) == len(used):
            return self
        one = used[first[which.reshape(-1)]]
        return replace(self, items=one[np.searchsorted(used, self.items)])

    def _contents(self, used: np.ndarray) -> np.ndarray:
        """Return what tells images apart, (n, 32 or 48) uint8: a digest of pixels does not tell the shape."""
        content = self.images.digests_of(used)
        if self.images.square:
            return content
        return np.hstack([content, self.images.sizes[used].astype("<i8").view(np.uint8).reshape(-1, 16)])

    def sizes(self, crop: int | None = None) -> np.ndarray | None:
        """Height and width of the images of each item, (N, 2), where they keep their sizes; else None.

        Args:
            crop: side of squares that are cropped from them, which have one size then.

        Raises:
            ValueError: images of an item differ in size, or some are smaller than `crop`.
        """
        if crop is not None:
            used = np.unique(self.read)
            small = used[(self.images.sizes[used] < crop).any(axis=1)]
            if len(small):
                height, width = self.images.sizes[small[0]]
                raise ValueError(
                    f"crop={crop} needs images of at least {crop}×{crop} pixels; {len(small):,} are "
                    f"smaller, the first is {width}×{height}"
                )
            return None
        if self.images.square:
            return None
        check_alike(self.shown, self.read, self.images.sizes, [])
        found: np.ndarray = self.images.sizes[self.items[0]]
        return found

    def take(self, rows: np.ndarray) -> "Table":
        """Return the items that a mask (N,) or indices choose, over the same images."""
        columns = ("answer", "subset", "mask", *OPTIONAL)
        chosen = {name: column[rows] for name in columns if (column := getattr(self, name)) is not None}
        return replace(self, items=self.items[:, rows], **chosen)

    def of_votes(self, min_votes: int) -> "Table":
        """Return the items that at least so many people judged, without files that none of them shows.

        Raises:
            ValueError: votes are not recorded, or there is no such item.
        """
        if self.votes is None:
            raise ValueError(f"min_votes={min_votes} needs the votes of each item, which are not recorded")
        chosen = self.take(self.votes >= min_votes)
        if not len(chosen):
            raise ValueError(f"none of the {len(self):,} {self.kind.plural} has {min_votes} votes or more")
        if self.opened is not None:
            return chosen
        used = np.unique(chosen.read)
        mask = None if chosen.mask is None else np.searchsorted(used, chosen.mask)
        paths = [self.paths[i] for i in used]
        return replace(chosen, paths=paths, items=np.searchsorted(used, chosen.items), mask=mask)

    def only(self, subsets: Sequence[str], names: list[str]) -> "Table":
        """Return the items of some subsets, one subset after the other, under other names.

        Raises:
            ValueError: there is no such subset.
        """
        absent = [subset for subset in subsets if subset not in self.subsets]
        if absent:
            raise ValueError(f"no subset {', '.join(absent)}; there are {', '.join(self.subsets)}")
        rows = [np.flatnonzero(self.subset == self.subsets.index(subset)) for subset in subsets]
        number = np.repeat(np.arange(len(rows)), [len(part) for part in rows])
        return replace(self.take(np.concatenate(rows)), subset=number, subsets=names)

    def with_subsets(self, subsets: list[str]) -> "Table":
        """Number the subsets by another list of names; those it does not hold become -1."""
        number = np.array([subsets.index(name) if name in subsets else -1 for name in self.subsets] + [-1])
        return replace(self, subset=number[self.subset], subsets=subsets)  # a -1 before stays -1

    @cached_property
    def distinct_pairs(self) -> tuple[np.ndarray, np.ndarray]:
        """Pairs of images that items compare, once each, sorted; and which of them each item compares.

        Returns:
            (2, P) and (compared, N), int64.
        """
        first, second = self.kind.pairs()
        compared = np.stack([self.items[list(first)], self.items[list(second)]], axis=-1)
        pairs, which = np.unique(compared.reshape(-1, 2), axis=0, return_inverse=True)
        return pairs.T, which.reshape(len(first), -1)

    def fingerprint(self) -> str:
        """SHA-256, in hex, of what a score on this table depends on; its images must be open.

        That is the size (of each image, where they keep theirs), the names of the subsets, and, in the order
        of the items, the SHA-256 of each image's pixels, the answers, the subsets, the votes and the masks.
        The files' places and formats do not matter: a folder, a manifest and a store with the same items have
        the same fingerprint.
        """
        header = [self.kind.roles, self.kind.answer, self.images.shape, len(self), self.subsets]
        found = sha256(json.dumps(header).encode())
        if not self.images.square:  # a digest of pixels does not tell the shape
            found.update(self.images.sizes[self.items].astype("<i8").tobytes())
        for images in self.items:
            found.update(self.images.digests_of(images).tobytes())
        found.update(self.answer.astype("<f4").tobytes())
        found.update(self.subset.astype("<i8").tobytes())
        found.update(b"" if self.votes is None else self.votes.astype("<f4").tobytes())
        if self.mask is not None:
            found.update(b"mask" + self.images.digests_of(self.mask).tobytes())
        return found.hexdigest()


def number_subsets(*columns: Sequence[str]) -> tuple[np.ndarray, list[str]]:
    """Return the number of each item's subset, (N,) int64, and the distinct names, as they appear.

    Args:
        columns: names of the items, (N,) each; items of one subset have the same in all columns.
    """
    names = [", ".join(parts) for parts in zip(*columns, strict=True)]
    number = {name: i for i, name in enumerate(dict.fromkeys(names))}
    return np.array([number[name] for name in names], np.int64), list(number)


def number_images(rows: Sequence[Sequence[str]]) -> tuple[np.ndarray, list[str]]:
    """Indices of the images of each item, (roles, N) int64, and the distinct files, from (N, roles) files."""
    number = {path: i for i, path in enumerate(dict.fromkeys(path for row in rows for path in row))}
    return np.array([[number[path] for path in row] for row in rows], np.int64).T, list(number)


def check_alike(roles: Sequence[str], items: np.ndarray, sizes: np.ndarray, paths: Sequence[str]) -> None:
    """Refuse items whose images differ in size.

    Args:
        roles: what the rows of `items` are called.
        items: (roles, N) int64, indices of images.
        sizes: (M, 2), height and width of each image.
        paths: files of the images; empty: not known.

    Raises:
        ValueError: naming the first few items.
    """
    of_items = sizes[items]
    wrong = np.flatnonzero((of_items != of_items[:1]).any(axis=(0, 2)))
    if len(wrong):
        offenders = (
            f"item {row + 1} ("
            + ", ".join(
                f"{paths[image] if len(paths) else role} {sizes[image][1]}×{sizes[image][0]}"
                for role, image in zip(roles, items[:, row], strict=True)
            )
            + ")"
            for row in wrong
        )
        raise ValueError(
            f"{len(wrong):,} of {items.shape[1]:,} items have images that differ in size: "
            f"{first_few(offenders, 3)}; data.shorter_side=… resizes without changing the shape, data.size=… "
            "to squares"
        )


def no_people(answers: np.ndarray, votes: np.ndarray) -> np.ndarray:
    """Return where answers (N,) or (N, K) times votes are no whole numbers of people, (N,) bool.

    The tolerance is for files that print shares with a few decimals; that of
    `perceptual.metrics.votes.counted` is the same.
    """
    share = answers.T.astype(np.float64) * votes
    wrong: np.ndarray = (np.abs(share - share.round()) > 0.05).reshape(-1, len(votes)).any(0)
    return wrong


def no_shares(answers: np.ndarray) -> np.ndarray:
    """Return where the shares (N, K) of an item do not sum to 1, (N,) bool; a few decimals are enough."""
    wrong: np.ndarray = np.abs(answers.astype(np.float64).sum(1) - 1) > 0.01
    return wrong


def as_shares(
    answers: np.ndarray, votes: np.ndarray | None
) -> tuple[np.ndarray, np.ndarray | None, np.ndarray]:
    """Read answers (N, K) as shares, or, where not all sum to 1 and `votes` is None, as numbers of people.

    Returns:
        shares (N, K); the votes of each item, (N,), if they are known; where it is neither, (N,) bool.
    """
    wrong, total = no_shares(answers), answers.sum(1)
    if votes is not None or not wrong.any():
        return answers, votes, wrong
    wrong = (answers != answers.round()).any(1) | (total == 0)
    return answers / np.where(total == 0, 1, total)[:, None], total, wrong
