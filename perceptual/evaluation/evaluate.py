"""Score many methods on the same judged items, each into a result folder of its own."""

import glob
import math
import os
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torchmetrics import Metric

from perceptual.chance import FEWEST
from perceptual.data.batch import JudgedDataset, chunks_of_pairs
from perceptual.data.images import as_floats
from perceptual.data.kinds import OPINION, TWO_AFC
from perceptual.data.loading import Batches, loader
from perceptual.data.module import JudgedDataModule
from perceptual.distance.compiled import check_compiler
from perceptual.distance.differences import mean_differences, weigh
from perceptual.distance.lpips import LPIPS
from perceptual.evaluation import methods as grammar
from perceptual.evaluation import provenance
from perceptual.evaluation.begun import Begun
from perceptual.evaluation.identity import Asked, called
from perceptual.evaluation.opinion_protocol import opinion_protocol
from perceptual.evaluation.results import AGAIN, Arrays, DataResults, Row, folder_name
from perceptual.evaluation.scoring import Measured, as_numbers, in_pieces, measure
from perceptual.features.backbone import Precision, check_precision
from perceptual.files.messages import first_line
from perceptual.metrics import SCORES, MajorityAccuracy, OpinionCorrelations, PerSubset, opinion_correlations
from perceptual.names import Method

GROUP = 8  # networks held at once where images have to be decoded for every reading
RECURRING = 2  # how often pairs, or images, must recur on average to be computed by themselves
LARGE = 2**24  # pixels of three images that are compared in twos, to take less memory
SHOWN = 64  # pairs that the shares of the levels are averaged over


def evaluate(
    methods: Iterable[str | Method],
    data: JudgedDataModule,
    results: str | os.PathLike[str],
    device: torch.device | str = "cpu",
    precision: Precision = "32-true",
    compile: bool = False,
    build: Callable[[Method], nn.Module] | None = None,
) -> tuple[DataResults, list[str]]:
    """Score methods on validation items; what `results` has already is not computed again.

    A method that fails leaves its reason there and does not stop the others. Images are read once for all
    methods where they fit in memory, else once for `GROUP` of them. Where the same pairs of images occur in
    many triplets, each distance is computed once; where images occur in many pairs, each goes through the
    backbone of an LPIPS once.

    Args:
        methods: names, see `perceptual.names`.
        data: triplets, JND pairs or images with opinion scores, set up.
        results: folder of all results.
        device: where distances are computed.
        precision, compile: of deep features, see `methods.build`. Results of another precision are kept
            apart; compiled code changes no digit that counts.
        build: the distance of a method, in place of `methods.build` with these.

    Returns:
        the results on these items, and what the methods are called there (a path with a hash, a precision
        other than the default after `+`).

    Raises:
        ValueError: no such precision, or `compile` without a compiler.
    """
    check_precision(precision)
    if compile:
        check_compiler()
    judged = data.val_set
    batches = loader(judged, data.batch_size, data.num_workers, seed=0)
    place = place_of(data, results)
    place.write_items(*_items(judged, data.fingerprint(), data.describe()))
    if place.items().row["fingerprint"] != data.fingerprint():
        raise ValueError(f"{place.folder} holds results on other items; {AGAIN}")
    names = called(grammar.expand(methods), precision, place.row_of)
    missing = [name for name in names if not place.has(name)]
    build = build or partial(grammar.build, precision=precision, compile=compile)
    group = GROUP if judged.images.decodes else 1
    for start in range(0, len(missing), group):
        chosen = {name: names[name] for name in missing[start : start + group]}
        _evaluate_group(chosen, build, judged, batches, place, torch.device(device))
    return place, list(names)


def require_one(methods: Iterable[Method], results: str | os.PathLike[str], **speed: Any) -> None:
    """Refuse methods of which none can be built or is in `results`: called before data are read.

    Raises:
        ValueError: why not, of each method.
    """
    reasons = []
    for method in methods:
        try:
            if any(Path(results).glob(f"*/scored/{glob.escape(folder_name(str(method)))}*")):
                return
            grammar.build(method, **speed)
            return
        except Exception as error:  # whatever a network raises
            reasons.append(f"{method.text}: {first_line(error)}")
    raise ValueError("; ".join(reasons))


def place_of(data: JudgedDataModule, results: str | os.PathLike[str]) -> DataResults:
    """The results on the validation items of `data`, in the folder of all results."""
    return DataResults(Path(results, data.fingerprint()[:12]))


def keep(
    results: str | os.PathLike[str],
    method: str,
    distance: nn.Module,
    data: JudgedDataModule,
    columns: tuple[np.ndarray, np.ndarray],
    known: Row,
) -> None:
    """Keep the result of a method whose distances are known, such as those at the end of a training run.

    Args:
        results: folder of results.
        method: its name there.
        distance: what was trained.
        data: triplets, set up.
        columns: d0 and d1, (N,) each, of the validation triplets in their order.
        known: what else the row shall say.
    """
    judged, fingerprint = data.val_set, data.fingerprint()
    place = place_of(data, results)
    place.write_items(*_items(judged, fingerprint, data.describe()))
    device = next(distance.parameters()).device
    row = _row(method, judged, device) | _scores(columns, judged) | provenance.describe(distance) | known
    place.write(row, dict(zip(("d0", "d1"), columns, strict=True)))


def _evaluate_group(
    methods: Mapping[str, Asked],
    build: Callable[[Method], nn.Module],
    data: JudgedDataset,
    batches: Batches[Any],
    place: DataResults,
    device: torch.device,
) -> None:
    distances: dict[str, nn.Module] = {}
    for method, asked in methods.items():
        try:
            distances[method] = build(asked.method).to(device)
        except Exception as error:  # whatever it is, the others go on
            place.write_failure(_row(method, data, device) | {"error": first_line(error)})
    for method, measured in _measure(distances, data, batches, place.folder).items():
        row = _row(method, data, device)
        try:
            if measured.error:
                raise RuntimeError(measured.error)
            asked = methods[method]
            row |= {"family": asked.method.family, "weights_file": asked.weights}
            row |= _scores(measured.columns, data) | provenance.describe(distances[method])
            row |= _cost(distances[method], measured, batches, device)
        except Exception as error:  # such as a distance that is not a number
            place.write_failure(row | {"error": first_line(error)})
        else:
            place.write(row, dict(zip(data.table.kind.columns, measured.columns, strict=True)))
            Begun(place.folder, "items").forget(method)


def _measure(
    distances: dict[str, nn.Module], data: JudgedDataset, batches: Batches[Any], folder: Path | None = None
) -> dict[str, Measured]:
    """Distances of the items by each method; in `folder` is kept what a run that is stopped had computed."""
    pairs, (_, which) = data.pairs(), data.table.distinct_pairs
    images_recur = len(pairs.items.unique()) * RECURRING <= pairs.items.numel()
    in_memory = not data.images.decodes
    by_pair = {
        name: _measure_by_image(distance, pairs)
        for name, distance in distances.items()
        if isinstance(distance, LPIPS) and images_recur and in_memory
    }
    others = {name: distance for name, distance in distances.items() if name not in by_pair}
    by_item: dict[str, Measured] = {}
    by_pairs = len(pairs) * RECURRING <= which.size
    if pairs.sizes is not None:
        by_pairs = by_pairs or 3 * pairs.sizes.prod(1).max() > LARGE
    if others and by_pairs:
        begun = Begun(folder, "pairs") if folder else None
        ahead = data.images.read_ahead
        loaded: Batches[Any] = Batches(pairs, batches.batch_size or 1, shared=False, ahead=ahead)
        by_pair |= measure(others, loaded, begun)
    elif others:  # without any, the images need not be read
        by_item = measure(others, batches, Begun(folder, "items") if folder else None)
    for result in by_pair.values():
        if not result.error:
            result.columns = list(result.columns[0][which])
    return by_pair | by_item


def _measure_by_image(distance: LPIPS, pairs: JudgedDataset) -> Measured:
    """Distances of the pairs, with the features of each image computed once."""
    measured, start = Measured(), time.perf_counter()
    try:
        device = distance.lin[0].device
        found = mean_differences(
            distance, chunks_of_pairs(pairs), lambda index: as_floats(pairs.images.checked(index))
        )
        means = (chunk.to(device) for chunk in found)
        measured.columns = [torch.cat([weigh(distance, chunk).cpu() for chunk in means]).numpy()]
    except Exception as error:  # as in `measure`: it must not stop the others
        measured.error = first_line(error)
    measured.seconds = time.perf_counter() - start
    return measured


def _scores(columns: Sequence[np.ndarray], data: JudgedDataset) -> Row:
    """Scores by subset with their means, by the metrics that training uses: in [0, 1], or correlations."""
    tensors = [torch.from_numpy(column) for column in columns]
    table = data.table
    answer = torch.from_numpy(table.answer)
    if table.kind == OPINION:
        reference = table.same_content().items[0]
        protocol = opinion_protocol(columns[0], answer.numpy(), reference)
        return {
            **_correlations(tensors[0], answer, torch.from_numpy(table.subset), table.subsets),
            "protocol": {name: {by: list(e) for by, e in of.items()} for name, of in protocol.items()},
        }
    metrics: dict[str, Metric] = {"scores": SCORES[table.kind.name].metric()}
    if table.kind == TWO_AFC:
        metrics["majority"] = MajorityAccuracy()
    row = {}
    for name, metric in metrics.items():
        by_subset = PerSubset(metric, table.subsets)
        for part in by_subset.modules():
            if isinstance(part, Metric):  # this process has all items, and others may be gone
                part.distributed_available_fn = lambda: False
        by_subset.update(*tensors, answer, subset=torch.from_numpy(table.subset))
        row[name] = as_numbers(by_subset)
    return row


def _correlations(distance: Tensor, score: Tensor, subset: Tensor, subsets: Sequence[str]) -> Row:
    """SRCC as `scores`, then `krcc` and `plcc`: each by subset, with `mean` (macro) and `micro`."""
    parts = [_correlated(distance[subset == i], score[subset == i]) for i in range(len(subsets))]
    whole = _correlated(distance, score)
    return {
        "scores" if name == "srcc" else name: {
            **dict(zip(subsets, column, strict=True)),
            "mean": float(np.mean(column)),
            "micro": getattr(whole, name),
        }
        for name, column in zip(whole._fields, zip(*parts, strict=True), strict=True)
    }


def _correlated(distance: Tensor, score: Tensor) -> OpinionCorrelations:
    """`opinion_correlations`, NaN of too few images."""
    if len(score) < FEWEST:
        return OpinionCorrelations(math.nan, math.nan, math.nan)
    return opinion_correlations(distance, score)


def _cost(distance: nn.Module, measured: Measured, batches: Batches[Any], device: torch.device) -> Row:
    sampler = batches.sampler
    if getattr(batches.dataset, "sizes", None) is not None:  # images of the middle size, not the largest
        sampler.wanted = np.isin(np.arange(sampler.items), sampler.order()[sampler.items // 2])
    batch = next(iter(batches))
    sampler.wanted = None
    # the last pair that is compared, as (ref, p1) of triplets
    x, y = (batch.role(role)[:SHOWN].to(device) for role in batch.kind.compared[-1])
    at_once = len(in_pieces(batch, device)[0].answer)
    return {
        "seconds": round(measured.seconds, 3),
        **provenance.inspect(distance, x, y),
        # separately, on the same pairs for all: features once per image, or three per triplet, favour LPIPS
        "images_per_second": round(provenance.throughput(distance, x[:at_once], y[:at_once]), 1),
    }


def _row(method: str, data: JudgedDataset, device: torch.device) -> Row:
    return {
        "method": method,
        "size": data.images.resolution,
        **provenance.surroundings(device),
    }


def _items(data: JudgedDataset, fingerprint: str, description: str) -> tuple[Row, Arrays]:
    table = data.table
    row = {
        "kind": table.kind.name,
        "name": f"{table.kind.name}-{fingerprint[:8]}",
        "fingerprint": fingerprint,
        "description": description,
        "size": data.images.resolution,
        "subsets": list(table.subsets),
        "counts": np.bincount(table.subset, minlength=len(table.subsets)).tolist(),
    }
    arrays = {
        table.kind.answer: table.answer,
        "subset": table.subset,
        "cluster": table.same_content().items[0],
    }
    if table.votes is not None:
        arrays["votes"] = table.votes
    return row, arrays
