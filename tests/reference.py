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


def lpips_levels(features0, features1, lin):
    """Zhang et al. 2018, equation 1, of one pair: 1/HW Σ_hw Σ_c lin_c (f̂0 − f̂1)² for maps (C, H, W)."""
    return [
        np.mean(lpips_map(f0, f1, weights)) for f0, f1, weights in zip(features0, features1, lin, strict=True)
    ]


def pooled_levels(features0, features1, lin):
    """Kumar et al. 2022, normalised mean pool: Σ_c lin_c (f̄0/‖f̄0‖ − f̄1/‖f̄1‖)², f̄ the mean over positions."""
    levels = []
    for f0, f1, weights in zip(features0, features1, lin, strict=True):
        a, b = (np.array([np.mean(channel.astype(float)) for channel in f]) for f in (f0, f1))
        levels.append(np.sum(weights * (a / np.linalg.norm(a) - b / np.linalg.norm(b)) ** 2))
    return levels


def lpips_map(f0, f1, lin):
    """The distance of one level at each position, (H, W)."""
    _, height, width = f0.shape
    out = np.zeros((height, width))
    for i in range(height):
        for j in range(width):
            a, b = f0[:, i, j].astype(float), f1[:, i, j].astype(float)
            a = a / (np.sqrt(np.sum(a**2)) + 1e-10)
            b = b / (np.sqrt(np.sum(b**2)) + 1e-10)
            out[i, j] = np.sum(lin * (a - b) ** 2)
    return out


def enlarge(image, height, width):
    """Bilinear interpolation of (h, w) between the centres of pixels; beyond the outermost, theirs."""

    def matrix(many, few):
        rows = np.zeros((many, few))
        for row, x in enumerate(np.clip((np.arange(many) + 0.5) * few / many - 0.5, 0, few - 1)):
            left = min(int(x), few - 1)
            right = min(left + 1, few - 1)
            rows[row, left] += 1 - (x - left)
            rows[row, right] += x - left
        return rows

    return matrix(height, image.shape[0]) @ image @ matrix(width, image.shape[1]).T
