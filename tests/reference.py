"""Plain NumPy versions, written from the papers and not from our code, slow and obvious."""

import numpy as np


def two_afc_score(d0, d1, judgment):
    """Zhang et al. 2018, section 3: the fraction of people that the distance agrees with, ties ½."""
    agreement = []
    for a, b, j in zip(d0, d1, judgment, strict=True):
        if a == b:
            agreement.append(0.5)
        else:
            agreement.append(j if b < a else 1 - j)
    return np.mean(agreement)


def majority_accuracy(d0, d1, judgment):
    right = []
    for a, b, j in zip(d0, d1, judgment, strict=True):
        if j != 0.5:
            right.append(0.5 if a == b else float((b < a) == (j > 0.5)))
    return np.mean(right)


def two_people_agreement(judgment, votes):
    """List the votes of each item and compare every voter with every other."""
    agreement = []
    for j, n in zip(judgment, votes, strict=True):
        ballots = np.arange(n) < round(j * n)
        same = ballots[:, None] == ballots[None, :]
        if n > 1:
            agreement.append((same.sum() - n) / (n * n - n))
    return np.mean(agreement)


def jnd_average_precision(distance, same):
    """For each threshold, precision and recall of "closer than this"; then the area under the envelope."""
    distance, same = np.asarray(distance), np.asarray(same, dtype=float)
    curve = []
    for threshold in np.unique(distance):
        retrieved = same[distance <= threshold]
        curve.append((retrieved.sum() / same.sum(), retrieved.mean()))
    area = previous = 0.0
    for recall, _ in curve:
        area += (recall - previous) * max(p for r, p in curve if r >= recall)
        previous = recall
    return area
