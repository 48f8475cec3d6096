"""Many judged sets in one table: is the best on one set good on the others?

Metrics tuned on one set often fail on the next (Zhang et al. 2024, "UniSim-Bench", https://arxiv.org/abs/2412.10594).
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import cache, partial
from operator import attrgetter
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from scipy.stats import rankdata

from perceptual.data.module import JudgedDataModule
from perceptual.evaluation import evaluate as evaluation
from perceptual.evaluation import methods as grammar
from perceptual.evaluation.board import bootstrapped
from perceptual.evaluation.results import FAILED, DataResults, Items, Result
from perceptual.evaluation.statistics import ends
from perceptual.files.messages import first_line
from perceptual.names import Method
from perceptual.training.checkpoints import read_checkpoint


class Suite(NamedTuple):
    """Scores of methods on many sets, each the mean over its subsets, in [0, 1] or a correlation."""

    sets: dict[str, Items]
    """What was judged, by the name of the set."""
    absent: dict[str, str]
    """Why there is nothing of a set."""
    columns: list[str]
    """Sets, then `mean KIND`, the plain mean of the sets of a kind, where it has several."""
    summaries: list[str]
    """One column for each kind: its mean, or its only set. Scores of two kinds have no common unit."""
    methods: list[str]
    """By `place`; those without a score on some set last."""
    place: np.ndarray
    """(M,), the mean over the kinds of a method's place by the summary, 1 = best; NaN without all of them."""
    score: np.ndarray
    """(M, columns); NaN where a method has no score."""
    low: np.ndarray
    """Lower ends of the 95 % intervals."""
    high: np.ndarray
    behind: np.ndarray
    """(M, K, 2), by summary, paired interval of the best method's minus this one's."""
    shared: dict[tuple[str, str], int]
    """How many images of a set a method was trained on, by method and set, where there are any."""
    failed: dict[str, str]
    """Why a method has no score on a set, by `method on set`."""


def evaluate(
    sets: Mapping[str, Callable[[], JudgedDataModule]],
    chosen: Iterable[str | Method],
    results: str,
    device: str,
    training: Callable[[Mapping[str, Any], str], JudgedDataModule] | None = None,
    **speed: Any,
) -> Suite:
    """Score methods on many sets; what `results` has already is not computed again.

    A set that cannot be read is told and does not stop the others. Methods are loaded once, eight at a time.

    Args:
        sets: what builds the data module of each, by name.
        chosen: methods, see `perceptual.names`.
        results: folder of all results.
        device: where distances are computed.
        training: builds a data module from what a checkpoint says of its data, and its path, to look for
            images that it was trained on; None: do not look.
        speed: `precision` and `compile`, see `methods.build`.
    """
    opened: dict[str, JudgedDataModule] = {}
    absent: dict[str, str] = {}
    for name, build in sets.items():
        try:
            data = build()
            data.setup("validate")
        except (ValueError, OSError) as error:
            absent[name] = first_line(error)
        else:
            opened[name] = data
    if not opened:
        raise ValueError(
            "no set of the suite can be read: " + "; ".join(f"{n} ({w})" for n, w in absent.items())
        )
    expanded = grammar.expand(chosen)
    places: dict[str, DataResults] = {}
    names: dict[str, Method] = {}
    for start in range(0, len(expanded), evaluation.GROUP):
        loaded = cache(partial(grammar.build, **speed))  # each method once for all sets
        group = expanded[start : start + evaluation.GROUP]
        for name, data in opened.items():
            places[name], called, *_ = evaluation.evaluate(
                group, data, results, device, build=loaded, **speed
            )
        names |= dict(zip(called, group, strict=False))
    shared = _shared(opened, names, training) if training else {}
    return tabulate(places, absent, list(names), shared)


def tabulate(
    places: Mapping[str, DataResults],
    absent: Mapping[str, str],
    names: Sequence[str],
    shared: Mapping[tuple[str, str], int] | None = None,
    called: Callable[[Result], str] = attrgetter("method"),
) -> Suite:
    """The table of the results on several sets.

    Args:
        places: results by name of the set.
        absent: why there is nothing of other sets.
        names: methods as they are called in the results.
        shared: see `Suite`.
        called: what `names` calls the method of a result.
    """
    rows: dict[str, Items] = {}
    scores: list[np.ndarray] = []
    draws: list[np.ndarray | None] = []
    failed: dict[str, str] = {}
    for name, place in places.items():
        rows[name] = place.items()
        found = {called(result): result.arrays for result in place.all() if called(result) in names}
        failures = [one for one in place.all(FAILED) if one.method in names]
        failed |= {f"{one.method} on {name}": str(one.error) for one in failures}
        score = np.full(len(names), np.nan)
        drawn = None
        if found:
            intervals, _ = bootstrapped(rows[name], list(found.values()))
            macro = len(rows[name].subsets)
            at = [names.index(method) for method in found]
            score[at] = intervals.score[:, macro]
            drawn = np.full((len(intervals.draws), len(names)), np.nan)
            drawn[:, at] = intervals.draws[:, :, macro]
        scores.append(score)
        draws.append(drawn)
    length = max((len(drawn) for drawn in draws if drawn is not None), default=1)
    nothing = np.full((length, len(names)), np.nan)
    by_set = [nothing if drawn is None else drawn for drawn in draws]
    columns, summaries = list(rows), list[str]()
    kinds = [items.kind for items in rows.values()]
    for kind in dict.fromkeys(kinds):
        of_kind = [i for i, k in enumerate(kinds) if k == kind]
        summaries.append(columns[of_kind[0]] if len(of_kind) == 1 else f"mean {kind}")
        if len(of_kind) > 1:
            columns.append(summaries[-1])
            scores.append(np.mean([scores[i] for i in of_kind], axis=0))
            by_set.append(np.mean([by_set[i] for i in of_kind], axis=0))
    score, drawn = np.stack(scores, 1), np.stack(by_set, 2)
    summary = [columns.index(name) for name in summaries]
    known = np.isfinite(score[:, summary]).all(1)
    ranks = rankdata(-np.nan_to_num(score[:, summary], nan=-np.inf), method="min", axis=0)
    ranked = np.where(known, ranks.mean(1), np.nan)
    order = np.lexsort([-np.nan_to_num(score[:, summary[0]]), ranked])
    best = [int(np.nan_to_num(score[:, i], nan=-np.inf).argmax()) for i in summary]
    ahead = drawn[:, best, summary][:, None] - drawn[:, :, summary]
    low, high = ends(drawn)
    return Suite(
        sets=rows,
        absent=dict(absent),
        columns=columns,
        summaries=summaries,
        methods=[names[i] for i in order],
        place=ranked[order],
        score=score[order],
        low=low[order],
        high=high[order],
        behind=ends(ahead).transpose(1, 2, 0)[order],
        shared=dict(shared or {}),
        failed=failed,
    )


def _shared(
    opened: Mapping[str, JudgedDataModule],
    names: Mapping[str, Method],
    training: Callable[[Mapping[str, Any], str], JudgedDataModule],
) -> dict[tuple[str, str], int]:
    """Images of a set among those that a checkpoint was trained on, both at the resolution of the set."""
    shared: dict[tuple[str, str], int] = {}
    for called, method in names.items():
        if not method.text.endswith(".ckpt") or not Path(method.text).is_file():
            continue
        described = read_checkpoint(method.text).get("datamodule_hyper_parameters")
        if not isinstance(described, dict):
            continue
        for name, data in opened.items():
            try:
                at = {"size": data.size, "shorter_side": data.shorter_side, "resize": data.resize}
                at |= {"crop": None}
                trained = training({**described, **at}, method.text)
                trained.setup("fit")
            except (ValueError, OSError):
                continue  # its images are not here any more, or a store has another size
            if count := len(_digests(trained.train_set) & _digests(data.val_set)):
                shared[called, name] = count
    return shared


def _digests(judged: Any) -> set[bytes]:
    used = np.unique(judged.table.items)
    return {digest.tobytes() for digest in judged.images.digests_of(used)}
