"""Subsets of BAPPS (Zhang et al. 2018, https://arxiv.org/abs/1801.03924), as folders in its archives.

Numbers are the items of a subset, None where no exact number is published.
"""

# 2AFC triplets to train on, in `2afc/train`
TRAIN: dict[str, int | None] = {"traditional": None, "cnn": None, "mix": None}
# 2AFC triplets to score on, in `2afc/val`, in the order of the paper's tables
VAL = {
    "traditional": 4720,
    "cnn": 4720,
    "superres": 10856,
    "deblur": 9440,
    "color": 4720,
    "frameinterp": 1888,
}
# pairs, in `jnd`
JND: dict[str, int | None] = {"val/traditional": None, "val/cnn": None}
