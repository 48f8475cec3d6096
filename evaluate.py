"""Score perceptual distances on judgments: `python evaluate.py ckpt=runs/…/last.ckpt`, or `methods=[…]`."""

import sys
from collections.abc import Sequence
from typing import Any

import hydra
import torch
from hydra.core.hydra_config import HydraConfig
from hydra.errors import CompactHydraException
from hydra.types import RunMode
from omegaconf import DictConfig
from omegaconf.errors import OmegaConfBaseException
from rich.console import Console

from perceptual.cli.errors import one_line_errors, start
from perceptual.config import build, data_arguments
from perceptual.data import JNDDataModule, OpinionDataModule, PhotosDataModule, TwoAFCDataModule
from perceptual.data.items.triplets import TripletDataset
from perceptual.evaluation import evaluate as evaluation
from perceptual.evaluation import methods, people
from perceptual.evaluation.scoring import one_line, score
from perceptual.evaluation.tables import NAMES, table, tables
from perceptual.features.custom import import_modules
from perceptual.training.checkpoints import read_checkpoint

PUBLISHED = ("alexnet-v0.1", "squeezenet1_1-v0.1", "vgg16-v0.1")
Scores = dict[str, dict[str, float]]
Data = TwoAFCDataModule | JNDDataModule | OpinionDataModule


def evaluate(cfg: DictConfig) -> Scores:
    """Score as `cfg` (conf/evaluate.yaml) says: a checkpoint as training did, or methods into `cfg.results`.

    Returns:
        scores in [0, 1] by method, then by subset, `mean` (macro) and `micro`.

    Raises:
        ValueError, OSError: what the user asked for cannot be done, or no method could be scored.
    """
    import_modules(cfg.imports)
    speed = {"precision": cfg.precision.name, "compile": cfg.compile}
    distance = methods.build(cfg.ckpt, **speed) if cfg.ckpt else None
    data = data_of(cfg)
    data.setup("validate")
    if cfg.conditions:
        return under_conditions(
            listed(cfg.methods) or ([cfg.ckpt] if cfg.ckpt else list(PUBLISHED)), data, speed
        )
    if cfg.robustness:
        return examine(
            listed(cfg.methods) or ([cfg.ckpt] if cfg.ckpt else list(PUBLISHED)), data, cfg, **speed
        )
    if distance is None:
        return evaluate_methods(listed(cfg.methods) or list(PUBLISHED), data, cfg.results, **speed)
    if not isinstance(data, TwoAFCDataModule):
        raise ValueError(f"ckpt= repeats the scores of training; on other data, methods=[{cfg.ckpt}]")
    scores = score({cfg.ckpt: distance}, data.val_dataloader(), data.subsets, data.jnd_subsets)
    console = Console()
    console.print(tables(people.with_ceiling(scores, data), title=f"Validation, {data.describe()}"))
    if near := people.sentence(scores[cfg.ckpt]["mean"], data):
        console.print(f"Score     {near}", highlight=False, soft_wrap=True)
    return scores


def evaluate_methods(chosen: list[str], data: Data, results: str, **speed: Any) -> Scores:
    """Score methods that `results` does not have yet, and show all that were asked for.

    `speed` is `precision` and `compile`, see `perceptual.evaluation.methods.build`.
    """
    device = "cuda" if torch.cuda.is_available() else "cpu"
    place, names = evaluation.evaluate(chosen, data, results, device, **speed)
    rows = {result.row["method"]: result.row for result in place.scored()}
    scores = {name: rows[name]["scores"] for name in names if name in rows}
    failed = [f"{row['method']}: {row['error']}" for row in place.failed() if row["method"] in names]
    if not scores:
        raise ValueError("; ".join(failed))
    console = Console()
    header = NAMES[place.items().row["kind"]]
    shown = people.with_ceiling(scores, data)
    console.print(table(shown, title=f"Validation, {data.describe()}", header=header))
    for reason in failed:
        console.print(f"Failed    {reason}", highlight=False, soft_wrap=True)
    console.print(f"Results   {place.folder}", highlight=False, soft_wrap=True)
    return scores


def under_conditions(chosen: list[str], data: Data, speed: dict[str, Any]) -> Scores:
    """Score methods on triplets as they were judged, and under simulated conditions; show a table."""
    from perceptual.evaluation.conditions import score_under

    if not isinstance(data.val_set, TripletDataset):
        raise ValueError("conditions=true needs judged triplets; these items are none")
    device = "cuda" if torch.cuda.is_available() else "cpu"
    distances = {name: methods.build(name, **speed).to(device) for name in methods.expand(chosen)}
    scores = score_under(distances, data.val_set)
    rows = {
        condition: {name: scores[name][condition] for name in scores}
        for condition in next(iter(scores.values()))
    }
    Console().print(table(rows, title=f"Under conditions, {data.describe()}"))
    return scores


def examine(chosen: list[str], data: Data, cfg: DictConfig, **speed: Any) -> Scores:
    """Make trust reports that `cfg.results` does not have yet, and show all that were asked for.

    Returns:
        by method, the share of decisions that flip, or another mean, by column.
    """
    from perceptual.evaluation import trust_report

    device = "cuda" if torch.cuda.is_available() else "cpu"
    rows, lost = trust_report.report(chosen, data, cfg.results, device, seed=cfg.seed, **speed)
    if not rows:
        raise ValueError("; ".join(f"{name}: {reason}" for name, reason in lost.items()))
    console = Console()
    for line in trust_report.shown(rows, lost):
        console.print(line, highlight=False, markup=False, soft_wrap=True)
    folder = evaluation.place_of(data, cfg.results).folder
    (folder / "trust.md").write_text(trust_report.markdown(rows, f"Trust, {data.describe()}"), "utf-8")
    trust_report.picture(rows, folder / "trust.png")
    console.print(f"Results   {folder}/trust.md, trust.png", highlight=False, soft_wrap=True)
    return {row["method"]: {key: value[0] for key, value in row["trust"].items()} for row in rows}


def listed(methods: str | Sequence[str] | None) -> list[str]:
    """The methods that were asked for; one alone is a list of one."""
    return [methods] if isinstance(methods, str) else list(methods or [])


def data_of(cfg: DictConfig) -> Data:
    """The data that `data=` chose, else those that the checkpoint was scored on in training."""
    if cfg.data is not None:
        return build(data_arguments(cfg.data))
    if cfg.ckpt is None:
        return PhotosDataModule(seed=cfg.seed)
    described = read_checkpoint(cfg.ckpt).get("datamodule_hyper_parameters")
    if described is None:
        raise ValueError(f"{cfg.ckpt!r} does not say which data it was trained on; choose data=…")
    return build(described)


@hydra.main(version_base="1.3", config_path="conf", config_name="evaluate")
def main(cfg: DictConfig) -> None:
    """Score.

    Raises:
        CompactHydraException: in a multirun, nothing could be scored; it is reported when all are done.
    """
    with one_line_errors(OmegaConfBaseException):
        try:
            evaluate(cfg)
        except (ValueError, OSError, OmegaConfBaseException) as error:
            if HydraConfig.get().mode is not RunMode.MULTIRUN:
                raise
            print(f"error: {one_line(error)}", file=sys.stderr)
            raise CompactHydraException("a run of the multirun gave no score") from None


if __name__ == "__main__":
    start(main)
