"""Kinds of judgments: what people are shown, which images are compared, and what they answer."""

from dataclasses import dataclass

import numpy as np


# not frozen, which Lightning refuses as it converts batches; nor a tuple, whose parts loaders convert
@dataclass(unsafe_hash=True)
class Kind:
    """A question about a few images, and what its answers are."""

    name: str  # in results, studies and logs
    roles: tuple[str, ...]  # the images of an item: names of folders and columns
    compared: tuple[tuple[str, str], ...]  # pairs of roles whose distance the answer is about
    columns: tuple[str, ...]  # what results call these distances
    answer: str  # what people said, as stores and results call it
    on_disk: str  # the answer's folder or column
    plural: str  # the items, in prose and in stores
    low: float = 0.0
    high: float = 1.0  # range of the answer; finite ends mean a share of the people who were asked
    exchanged: tuple[str, str] | None = None  # roles that may change places, if the answer becomes 1 − answer
    by_role: bool = False  # an answer is a share for each role, (N, roles), and these sum to 1; not a number

    @property
    def is_share(self) -> bool:
        """True if an answer is the share of the people asked who said so."""
        return bool(np.isfinite(self.high))

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of an answer: () for a number."""
        return (len(self.roles),) if self.by_role else ()

    @property
    def cells(self) -> tuple[str, ...]:
        """Columns of a CSV that hold an answer."""
        return tuple(f"{self.on_disk}_{role}" for role in self.roles) if self.by_role else (self.on_disk,)

    def pairs(self) -> tuple[tuple[int, ...], tuple[int, ...]]:
        """Numbers of the roles that are compared: all first ones, all second ones."""
        first, second = zip(
            *((self.roles.index(a), self.roles.index(b)) for a, b in self.compared), strict=True
        )
        return first, second


# Which of two patches is nearer to a reference? The answer is the share who said p1.
TWO_AFC = Kind(
    name="2afc",
    roles=("ref", "p0", "p1"),
    compared=(("ref", "p0"), ("ref", "p1")),
    columns=("d0", "d1"),
    answer="judgment",
    on_disk="judge",
    plural="triplets",
    exchanged=("p0", "p1"),
)

# Columns of a manifest of triplets that name what made p0 and p1.
ALGORITHMS = ("algorithm0", "algorithm1")

# Are two patches the same? The answer is the share who said so.
JND = Kind(
    name="jnd",
    roles=("p0", "p1"),
    compared=(("p0", "p1"),),
    columns=("distance",),
    answer="same",
    on_disk="same",
    plural="pairs",
)

# How good is an image beside its reference? The answer is a difference mean opinion score (DMOS), larger =
# worse; a mean opinion score (MOS), where larger is better, is kept as its negative.
OPINION = Kind(
    name="opinion",
    roles=("ref", "dist"),
    compared=(("ref", "dist"),),
    columns=("distance",),
    answer="score",
    on_disk="score",
    plural="rated images",
    low=-np.inf,
    high=np.inf,
)

# Which of three images is the odd one? The answer is the share who chose each. The distances are in the order
# of the roles, each of the pair that is left without it: the smallest makes that role the odd one.
ODD_ONE_OUT = Kind(
    name="odd-one-out",
    roles=("a", "b", "c"),
    compared=(("b", "c"), ("a", "c"), ("a", "b")),
    columns=("bc", "ac", "ab"),
    answer="odd",
    on_disk="odd",
    plural="trios",
    by_role=True,
)

# Two images whose distance is wanted, which nobody has judged.
PAIR = Kind(
    name="pair",
    roles=("x", "y"),
    compared=(("x", "y"),),
    columns=("distance",),
    answer="",
    on_disk="",
    plural="pairs of images",
)

KINDS: dict[str, Kind] = {kind.name: kind for kind in (TWO_AFC, JND, OPINION, ODD_ONE_OUT)}
# Answers that are shares of people: what folders, stores and CSV files hold, the first that fits.
SHARES: tuple[Kind, ...] = tuple(kind for kind in KINDS.values() if kind.is_share)
