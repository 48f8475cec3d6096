"""Evaluate many methods on the same judged items, each into a result folder of its own."""

import glob
import os
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, ClassVar, NamedTuple

import numpy as np
import torch
from torch import nn

from perceptual.data.batch import JudgedDataset, chunks_of_pairs
from perceptual.data.images import as_floats
from perceptual.data.loading import Batches, loader
from perceptual.data.module import JudgedDataModule
from perceptual.distance.compiled import Compile
from perceptual.distance.compiled import check as check_compile
from perceptual.distance.differences import mean_differences, weigh
from perceptual.distance.lpips import LPIPS
from perceptual.evaluation import methods as grammar
from perceptual.evaluation import people, provenance
from perceptual.evaluation.begun import Begun
from perceptual.evaluation.methods import Asked
from perceptual.evaluation.opinion_protocol import opinion_protocol
from perceptual.evaluation.results import AGAIN, FAILED, SCORED, DataResults, Items, Result
from perceptual.evaluation.scoring import (
    Columns,
    Measured,
    device_of,
    in_pieces,
    measure,
    scores_of,
)
from perceptual.evaluation.tables import score_table
from perceptual.features.backbone import Precision, check_precision
from perceptual.files.messages import first_line
from perceptual.files.places import safe_name
from perceptual.metrics import SCORES
from perceptual.names import Method

GROUP = 8  # networks held at once where images have to be decoded for every reading
RECURRING = 2  # how often pairs, or images, must recur on average to be computed by themselves
LARGE = 2**24  # pixels of three images that are compared in twos, to take less memory
SHOWN = 64  # pairs that the shares of the levels are averaged over

Build = Callable[[str], nn.Module]
"""The distance of a method by its name among results, on the device."""
Findings = Iterator[tuple[str, dict[str, Any] | Exception]]
"""By name, fields of `Result`, or why there are none."""


class Study:
    """What is found out of methods on judged items: a subclass says what.

    Args:
        data: judged items, set up.
    """

    part: ClassVar[str] = SCORED
    """The folder of its results."""
    group: int = 1
    """Methods that are held at once."""
    seed: int = 0
    attacks: str = "fast"

    def __init__(self, data: JudgedDataModule) -> None:
        self.data, self.judged, self.items = data, data.val_set, items_of(data)

    def begin(self, place: DataResults) -> None:
        """Prepare the folder of the results on these items."""

    def find(self, distances: dict[str, nn.Module], asked: Mapping[str, Asked], build: Build) -> Findings:
        """Study some distances, each to the end before the next where that is possible.

        Args:
            distances: by name among results, on the device.
            asked: all methods that were asked for.
            build: builds one of these.
        """
        raise NotImplementedError

    def show(self, results: Sequence[Result]) -> tuple[list[Any], dict[str, Any]]:
        """What the terminal shows; and files beside the results, text or pictures, by name."""
        raise NotImplementedError

    def numbers(self, result: Result) -> dict[str, float]:
        """The numbers of a result, by column."""
        return {column: estimate[0] for column, estimate in getattr(result, self.part).items()}


class Scores(Study):
    """How far distances agree with people; those that fail leave their reason among the results.

    Images are read once for all methods where they fit in memory, else once for `GROUP` of them. Where the
    same pairs of images occur in many items, each distance is computed once; where images occur in many
    pairs, each goes through the backbone of an LPIPS once.
    """

    def __init__(self, data: JudgedDataModule) -> None:
        super().__init__(data)
        self.batches = loader(self.judged, data.batch_size, data.num_workers, seed=0)
        self.group = GROUP if self.judged.images.decodes else 1

    def begin(self, place: DataResults) -> None:
        """Keep what was judged.

        Raises:
            ValueError: the folder is of other items.
        """
        place.write_items(self.items)
        if place.items().fingerprint != self.items.fingerprint:
            raise ValueError(f"{place.folder} holds results on other items; {AGAIN}")
        self.folder = place.folder

    def find(self, distances: dict[str, nn.Module], asked: Mapping[str, Asked], build: Build) -> Findings:
        """Score the distances."""
        names = self.judged.table.kind.columns
        for name, measured in _measure(distances, self.judged, self.batches, self.folder).items():
            try:
                if measured.error:
                    raise RuntimeError(measured.error)
                found = _scores(measured.columns, self.judged)
                found |= _cost(distances[name], measured, self.batches)
            except Exception as error:  # such as a distance that is not a number
                yield name, error
            else:
                arrays = dict(zip(names, measured.columns, strict=True))
                yield name, found | {"family": asked[name].method.family, "arrays": arrays}
                Begun(self.folder, "items").forget(name)

    def show(self, results: Sequence[Result]) -> tuple[list[Any], dict[str, Any]]:
        """A table of scores."""
        scores = people.with_ceiling({result.method: result.scores for result in results}, self.data)
        title = f"Validation, {self.items.description}"
        return [score_table(scores, title, SCORES[self.items.kind].heading)], {}

    def numbers(self, result: Result) -> dict[str, float]:
        """Scores by subset, then `mean` (macro) and `micro`."""
        return result.scores


class Evaluated(NamedTuple):
    """Methods that were asked for, on one set of judged items."""

    place: DataResults
    names: list[str]
    """What results call them: a path with a hash, a precision other than the default after `+`."""
    found: list[Result]
    lost: dict[str, str]
    """Why others have no result, by name."""


def evaluate(
    methods: Iterable[str | Method],
    data: JudgedDataModule,
    results: str | os.PathLike[str],
    device: torch.device | str = "cpu",
    precision: Precision = "32-true",
    compile: Compile = False,
    build: Callable[[Method], nn.Module] | None = None,
    study: Study | None = None,
) -> Evaluated:
    """Study methods on validation items; what `results` has already is not computed again.

    A method that fails does not stop the others. Images that would not fit in memory are compared in tiles.

    Args:
        methods: names, see `perceptual.names`.
        data: judged items, set up.
        results: folder of all results.
        device: where distances are computed.
        precision, compile: of deep features, see `methods.build`. Results of another precision are kept
            apart; compiled code changes no digit that counts.
        build: the distance of a method, in place of `methods.build` with these.
        study: of `data`, what is found out of them; None: their scores.

    Raises:
        ValueError: no such precision, `compile` without a compiler, or items that the study is not for.
    """
    check_precision(precision)
    check_compile(compile)
    study = study or Scores(data)
    place = place_of(study.items.fingerprint, results)
    study.begin(place)
    own: dict[str, Any] = {"seed": study.seed, "attacks": study.attacks}

    def known(name: str) -> Result | None:
        return place.find(name, study.part, **own)

    asked = grammar.called(grammar.expand(methods), precision, known)
    missing, lost = [name for name in asked if known(name) is None], dict[str, str]()
    build = build or partial(grammar.build, precision=precision, compile=compile, memory="auto")
    about: dict[str, Any] = {"size": study.items.size, **own}

    def build_named(name: str) -> nn.Module:
        return build(asked[name].method).to(device)

    def fail(name: str, error: Exception) -> None:
        lost[name] = first_line(error)
        if study.part == SCORED:
            made_on = provenance.surroundings(torch.device(device))
            place.write(Result(name, error=lost[name], **about, **made_on), FAILED)

    for start in range(0, len(missing), study.group):
        distances: dict[str, nn.Module] = {}
        for name in missing[start : start + study.group]:
            try:
                distances[name] = build_named(name)
            except Exception as error:  # whatever it is, the others go on
                fail(name, error)
        for name, found in study.find(distances, asked, build_named):
            if isinstance(found, Exception):
                fail(name, found)
                continue
            made_by = provenance.describe(distances[name]) | {"weights_file": asked[name].weights}
            made_on = provenance.surroundings(torch.device(device))
            place.write(Result(name, **about, **found, **made_by, **made_on), study.part)
    results_of = {name: result for name in asked if (result := known(name)) is not None}
    return Evaluated(place, list(asked), list(results_of.values()), lost)


def require_one(methods: Iterable[Method], results: str | os.PathLike[str], **speed: Any) -> None:
    """Refuse methods of which none can be built or is in `results`: called before data are read.

    Raises:
        ValueError: why not, of each method.
    """
    reasons = []
    for method in methods:
        try:
            if any(Path(results).glob(f"*/scored/{glob.escape(safe_name(str(method)))}*")):
                return
            grammar.build(method, **speed)
            return
        except Exception as error:  # whatever a network raises
            reasons.append(f"{method.text}: {first_line(error)}")
    raise ValueError("; ".join(reasons))


def place_of(fingerprint: str, results: str | os.PathLike[str]) -> DataResults:
    """The results on items with that fingerprint, in the folder of all results."""
    return DataResults(Path(results, fingerprint[:12]))


def keep(
    results: str | os.PathLike[str],
    method: str,
    distance: nn.Module,
    data: JudgedDataModule,
    columns: Columns,
    **known: Any,
) -> None:
    """Keep the result of a method whose distances are known, such as those at the end of a training run.

    Args:
        results: folder of results.
        method: its name there.
        distance: what was trained.
        data: triplets, set up.
        columns: d0 and d1, (N,) each, of the validation triplets in their order.
        known: other fields of `Result`.
    """
    judged, items = data.val_set, items_of(data)
    place = place_of(items.fingerprint, results)
    place.write_items(items)
    made = provenance.describe(distance) | provenance.surroundings(device_of(distance))
    found = _scores(columns, judged) | {"size": items.size}
    arrays = dict(zip(judged.table.kind.columns, columns, strict=True))
    place.write(Result(method, **found, **made, **known, arrays=arrays))


def _measure(
    distances: dict[str, nn.Module], data: JudgedDataset, batches: Batches[Any], folder: Path | None = None
) -> dict[str, Measured]:
    """Distances of the items by each method; in `folder` is kept what a run that is stopped had computed."""
    pairs, (_, which) = data.pairs(), data.table.distinct_pairs
    masked = data.table.mask is not None  # what counts of a pair depends on the item
    images_recur = not masked and len(pairs.items.unique()) * RECURRING <= pairs.items.numel()
    large = pairs.sizes is not None and 3 * pairs.sizes.prod(1).max() > LARGE
    # features are held from pair to pair
    by_image = images_recur and not data.images.decodes and not large
    by_pair = {
        name: _measure_by_image(distance, pairs)
        for name, distance in distances.items()
        if isinstance(distance, LPIPS) and by_image
    }
    others = {name: distance for name, distance in distances.items() if name not in by_pair}
    by_item: dict[str, Measured] = {}
    by_pairs = large or len(pairs) * RECURRING <= which.size
    if others and by_pairs and not masked:
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


def _scores(columns: Columns, data: JudgedDataset) -> dict[str, Any]:
    """Scores by subset, and of answers that are no shares what studies report of them."""
    table = data.table
    found: dict[str, Any] = dict(scores_of(columns, table))
    if not table.kind.is_share:
        found["protocol"] = opinion_protocol(columns[0], table.answer, table.same_content().items[0])
    return found


def _cost(distance: nn.Module, measured: Measured, batches: Batches[Any]) -> dict[str, Any]:
    sampler, device = batches.sampler, device_of(distance)
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


def items_of(data: JudgedDataModule) -> Items:
    """What is judged in the validation items of `data`."""
    table, fingerprint = data.val_set.table, data.fingerprint()
    arrays = {
        table.kind.answer: table.answer,
        "subset": table.subset,
        "cluster": table.same_content().items[0],
    }
    return Items(
        kind=table.kind.name,
        name=f"{table.kind.name}-{fingerprint[:8]}",
        fingerprint=fingerprint,
        description=data.describe(),
        size=data.val_set.images.resolution,
        subsets=list(table.subsets),
        counts=np.bincount(table.subset, minlength=len(table.subsets)).tolist(),
        arrays=arrays if table.votes is None else arrays | {"votes": table.votes},
    )
