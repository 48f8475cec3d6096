"""Designs: which distortions the patches of an item get, and how the observer judges them.

`paper` is the traditional subset of Zhang et al. 2018, section 2.1: both patches are distorted independently,
each by one family or by two in sequence. `cnn` takes the outputs of two networks of a population of
distorters, `mix` either kind or a network's output distorted further; all three are judged by the rule of
`perceptual.data.synthetic.observer`. `severity` is one family at two severities, judged by the severities.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from perceptual.data.synthetic.distortions import FAMILIES, GROUPS, RANGES
from perceptual.data.synthetic.observer import JUST_NOTICEABLE_SEVERITY
from perceptual.data.synthetic.steps import CNN, Step, drawn, nuisance

FAINTEST = 0.02  # share of a range that the severities of pairs begin at

Patches = list[list[Step]]  # steps of each distorted patch
# (rng, names of distorters, whether patches differ as they should) → number of the subset, steps
DrawTriplet = Callable[[np.random.Generator, Sequence[str], Callable[[Patches], bool]], tuple[int, Patches]]
DrawPair = Callable[[np.random.Generator, Sequence[str]], tuple[int, Patches]]


@dataclass(frozen=True)
class Design:
    """Settings of how items are made."""

    subsets: tuple[str, ...]
    triplet: DrawTriplet  # steps of p0 and of p1
    pair: DrawPair  # steps of p1 only; faint
    by_severity: bool = False  # how the observer judges
    needs_distorters: bool = False


def _differing(draw: Callable[[np.random.Generator, Sequence[str]], Patches]) -> DrawTriplet:
    """A draw that is made anew, up to 20 times, if its patches do not differ, as saturation leaves grey."""

    def drawn(
        rng: np.random.Generator, distorters: Sequence[str], accept: Callable[[Patches], bool]
    ) -> tuple[int, Patches]:
        for _ in range(20):
            patches = draw(rng, distorters)
            if accept(patches):
                break
        return 0, patches

    return drawn


def _paper(rng: np.random.Generator, distorters: Sequence[str]) -> Patches:
    return [_traditional(rng) for _ in range(2)]


def _paper_pair(rng: np.random.Generator, distorters: Sequence[str]) -> tuple[int, Patches]:
    return 0, [_traditional(rng, faint=True)]


def _cnn(rng: np.random.Generator, distorters: Sequence[str]) -> Patches:
    return [[_network(rng, distorters[which])] for which in rng.permutation(len(distorters))[:2]]


def _cnn_pair(rng: np.random.Generator, distorters: Sequence[str]) -> tuple[int, Patches]:
    return 0, [[_network(rng, rng.choice(distorters), FAINTEST)]]


def _mix(rng: np.random.Generator, distorters: Sequence[str]) -> Patches:
    return [_either(rng, distorters) for _ in range(2)]


def _mix_pair(rng: np.random.Generator, distorters: Sequence[str]) -> tuple[int, Patches]:
    return (_paper_pair, _cnn_pair)[rng.integers(2)](rng, distorters)


def _either(rng: np.random.Generator, distorters: Sequence[str]) -> list[Step]:
    kind = rng.integers(3)
    if kind == 0:
        return _traditional(rng)
    steps = [_network(rng, rng.choice(distorters))]
    return steps if kind == 1 else steps + _traditional(rng)[:1]


def _traditional(rng: np.random.Generator, faint: bool = False) -> list[Step]:
    """One family, or two different ones in sequence."""
    families = list(FAMILIES)
    chosen = rng.permutation(len(families))[: rng.integers(1, 3)]
    steps = []
    for number in chosen:
        low, high = RANGES[families[number]]
        low, high = (FAINTEST * high, high / 2) if faint else (low, high)
        steps.append(drawn(families[number], rng.uniform(low, high), rng))
    return steps


def _network(rng: np.random.Generator, name: str, lowest: float = 1.0) -> Step:
    return drawn(f"{CNN}{name}", rng.uniform(lowest, 1), rng)


def _severity(
    rng: np.random.Generator, distorters: Sequence[str], accept: Callable[[Patches], bool]
) -> tuple[int, Patches]:
    """One family at two severities in [.05, 1], often close to each other; and for each a nuisance.

    Another order of the draws would make other triplets of the same seed.
    """
    middle = rng.uniform(0.25, 0.8)
    half = np.clip(rng.normal(0, 0.12), -0.2, 0.2)
    for _ in range(20):
        group, step = _of_a_group(rng, float(middle - half))
        other = step._replace(severity=float(middle + half))  # the same direction or noise
        if accept([[step], [other]]):
            break
    return group, [[each, nuisance(rng)] for each in (step, other)]


def _severity_pair(rng: np.random.Generator, distorters: Sequence[str]) -> tuple[int, Patches]:
    group, step = _of_a_group(rng, rng.uniform(0, 2.5 * JUST_NOTICEABLE_SEVERITY))
    return group, [[step]]


def _of_a_group(rng: np.random.Generator, severity: float) -> tuple[int, Step]:
    group = int(rng.integers(len(GROUPS)))
    families = list(GROUPS.values())[group]
    family = families[int(rng.integers(len(families)))].__name__
    return group, Step(family, severity, int(rng.integers(2**63)))


DESIGNS: dict[str, Design] = {
    "paper": Design(("traditional",), _differing(_paper), _paper_pair),
    "severity": Design(tuple(GROUPS), _severity, _severity_pair, by_severity=True),
    "cnn": Design(("cnn",), _differing(_cnn), _cnn_pair, needs_distorters=True),
    "mix": Design(("mix",), _differing(_mix), _mix_pair, needs_distorters=True),
}
