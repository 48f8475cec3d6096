"""Sequences of steps that are done to a patch, and can be repeated from their record.

The record of an item is JSON: for each distorted patch a list of `[family, severity, seed]`. A family is one
of `FAMILIES`, `nuisance/TOP/LEFT` with a factor of lightness for its severity, or `cnn/NAME` for a
distorter. Applied to the reference patch of the item, its steps give the distorted patch, bit for bit.
"""

import json
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import pad

from perceptual.data.synthetic.distortions import FAMILIES

NUISANCE, CNN = "nuisance/", "cnn/"
LONGEST = 320  # characters of a record


class Step(NamedTuple):
    """One distortion."""

    family: str
    severity: float  # in [0, 1]; of a nuisance a factor
    seed: int


def drawn(family: str, severity: float, rng: np.random.Generator) -> Step:
    """A step with a seed; the severity is rounded, so that records are short and exact."""
    return Step(family, round(float(severity), 4), int(rng.integers(2**32)))


def nuisance(rng: np.random.Generator) -> Step:
    """Draw what people nearly ignore: a shift of up to 2 pixels, and lightness changed by up to 3 %."""
    top, left = rng.integers(0, 5, 2)
    return Step(f"{NUISANCE}{top}/{left}", float(rng.uniform(0.97, 1.03)), 0)


def apply(patch: Tensor, steps: Sequence[Step], distorters: Mapping[str, nn.Module]) -> Tensor:
    """Apply the steps to a patch (3, S, S).

    Raises:
        ValueError: a family, or a distorter, that there is none of.
    """
    for family, severity, seed in steps:
        if family.startswith(NUISANCE):
            top, left = map(int, family.removeprefix(NUISANCE).split("/"))
            padded = pad(patch[None], (2, 2, 2, 2), mode="reflect")[0]
            height, width = patch.shape[-2:]
            patch = padded[:, top : top + height, left : left + width] * severity
            continue
        generator = torch.Generator().manual_seed(seed)
        if family.startswith(CNN):
            name = family.removeprefix(CNN)
            if name not in distorters:
                raise ValueError(f"no distorter {name!r}; there are {', '.join(distorters) or 'none'}")
            with torch.no_grad():
                output = distorters[name](patch[None], generator)[0]
            patch = torch.lerp(patch, output, severity)
        else:
            if family not in FAMILIES:
                raise ValueError(f"no family of distortion {family!r}; there are {', '.join(FAMILIES)}")
            patch = FAMILIES[family](patch[None], torch.tensor([severity]), generator)[0]
    return patch


def record(patches: Sequence[Sequence[Step]]) -> bytes:
    """Write the steps of each distorted patch of an item as JSON."""
    return json.dumps(patches, separators=(",", ":")).encode()


def recorded(text: bytes | str) -> list[list[Step]]:
    """Read the steps of a record; raises ValueError if it is none."""
    try:
        return [
            [Step(str(family), float(severity), int(seed)) for family, severity, seed in steps]
            for steps in json.loads(text)
        ]
    except (ValueError, TypeError):
        raise ValueError(f"{text!r} is no record of distortions") from None
