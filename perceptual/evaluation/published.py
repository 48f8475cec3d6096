"""2AFC scores that Zhang et al. 2018 print in Table 5, for the validation set of BAPPS; none is ours."""

import numpy as np

from perceptual.data.bapps_subsets import VAL as BAPPS_VAL  # a set with just these numbers is BAPPS val
from perceptual.data.kinds import TWO_AFC
from perceptual.evaluation.results import Items

# percent; subsets in the order of BAPPS_VAL
TABLE_5 = {
    "Human": (80.8, 84.4, 73.4, 67.1, 68.8, 68.6),
    "L2": (59.9, 77.8, 64.7, 58.2, 63.5, 55.0),
    "SSIM": (60.3, 79.1, 65.1, 58.6, 58.1, 57.7),
    "FSIMc": (61.4, 78.6, 68.1, 59.5, 57.3, 57.7),
    "AlexNet, random": (60.5, 80.7, 64.9, 59.5, 62.8, 57.2),
    "SqueezeNet": (73.3, 82.6, 70.1, 60.1, 63.6, 62.0),
    "AlexNet": (70.6, 83.1, 71.7, 60.7, 65.0, 62.7),
    "VGG": (70.1, 81.3, 69.0, 59.0, 60.2, 62.1),
    "SqueezeNet, lin": (76.1, 83.5, 71.1, 60.8, 65.3, 63.2),
    "AlexNet, lin": (73.9, 83.4, 71.5, 61.2, 65.3, 63.2),
    "VGG, lin": (76.0, 82.8, 70.5, 60.5, 62.5, 63.0),
    "SqueezeNet, scratch": (74.9, 83.1, 71.1, 60.8, 63.0, 62.4),
    "AlexNet, scratch": (77.6, 82.8, 71.1, 61.0, 65.6, 63.3),
    "VGG, scratch": (77.9, 83.7, 71.1, 60.6, 64.0, 62.9),
    "SqueezeNet, tune": (76.7, 83.2, 70.4, 61.1, 63.2, 63.2),
    "AlexNet, tune": (77.7, 83.5, 69.1, 60.5, 64.8, 62.9),
    "VGG, tune": (79.3, 83.5, 69.8, 60.5, 63.4, 62.3),
}


def rows(data: Items) -> dict[str, list[float]]:
    """Published scores by method, a fraction for each subset of the data and their mean; empty elsewhere."""
    if data.kind != TWO_AFC.name or dict(zip(data.subsets, data.counts, strict=True)) != BAPPS_VAL:
        return {}
    places = [list(BAPPS_VAL).index(subset) for subset in data.subsets]
    return {
        name: [*(scores[i] / 100 for i in places), float(np.mean(scores)) / 100]
        for name, scores in TABLE_5.items()
    }
