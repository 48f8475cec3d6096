"""Score distances on judgments: `python evaluate.py ckpt=…/last.ckpt`, `methods=[…]` or `suite=…`."""

import sys

from perceptual.cli import script_help

if __name__ == "__main__":
    script_help.answer(__file__, sys.argv[1:])  # before the imports below, which take many seconds

from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import hydra
import torch
from hydra import compose
from hydra.core.hydra_config import HydraConfig
from hydra.errors import CompactHydraException, HydraException
from hydra.types import RunMode
from omegaconf import DictConfig
from omegaconf.errors import OmegaConfBaseException

from perceptual.cli.errors import one_line_errors, start
from perceptual.cli.output import say
from perceptual.config import build, build_data, data_arguments
from perceptual.data import TWO_AFC, JudgedDataModule, PhotosDataModule
from perceptual.evaluation import evaluate as evaluation
from perceptual.evaluation import methods, people, suite_tables, suites
from perceptual.evaluation.score_table import estimate, table, tables
from perceptual.evaluation.scoring import score
from perceptual.features.custom import import_modules
from perceptual.files.messages import first_line
from perceptual.files.records import read_yaml
from perceptual.files.writing import write_text
from perceptual.metrics import SCORES
from perceptual.names import Method
from perceptual.training.checkpoints import read_checkpoint

PUBLISHED = ("alexnet-v0.1", "squeezenet1_1-v0.1", "vgg16-v0.1")
Scores = dict[str, dict[str, float]]


def evaluate(cfg: DictConfig) -> Scores:
    """Score as `cfg` (conf/evaluate.yaml) says: a checkpoint as training did, or methods into `cfg.results`.

    Returns:
        scores in [0, 1] by method, then by subset, `mean` (macro) and `micro`.

    Raises:
        ValueError, OSError: what the user asked for cannot be done, or no method could be scored.
    """
    import_modules(cfg.imports)
    if cfg.suite:
        return evaluate_suite(cfg)
    speed = {"precision": cfg.precision.name, "compile": cfg.compile}
    distance = methods.build(cfg.ckpt, **speed) if cfg.ckpt else None
    chosen = methods.expand(listed(cfg.methods) or ([cfg.ckpt] if cfg.ckpt else PUBLISHED))
    if distance is None:
        evaluation.require_one(chosen, cfg.results, **speed)
    data = data_of(cfg)
    data.setup("validate")
    if cfg.conditions:
        return under_conditions(chosen, data, cfg.results, **speed)
    if cfg.robustness:
        return examine(chosen, data, cfg, **speed)
    if distance is None:
        return evaluate_methods(chosen, data, cfg.results, **speed)
    if data.kind != TWO_AFC:
        raise ValueError(f"ckpt= repeats the scores of training; on other data, methods=[{cfg.ckpt}]")
    scores = score({cfg.ckpt: distance}, data.val_dataloader())
    say(tables(people.with_ceiling(scores, data), title=f"Validation, {data.describe()}"))
    if near := people.sentence(scores[cfg.ckpt]["mean"], data):
        say(f"Score     {near}")
    return scores


def evaluate_methods(chosen: list[Method], data: JudgedDataModule, results: str, **speed: Any) -> Scores:
    """Score methods that `results` does not have yet, and show all that were asked for.

    `speed` is `precision` and `compile`, see `perceptual.evaluation.methods.build`.
    """
    place, names = evaluation.evaluate(chosen, data, results, device(), **speed)
    rows = {result.row["method"]: result.row for result in place.scored()}
    scores = {name: rows[name]["scores"] for name in names if name in rows}
    failed = [f"{row['method']}: {row['error']}" for row in place.failed() if row["method"] in names]
    if not scores:
        raise ValueError("; ".join(failed))
    header = SCORES[place.items().row["kind"]].heading
    shown = people.with_ceiling(scores, data)
    say(table(shown, title=f"Validation, {data.describe()}", header=header))
    for reason in failed:
        say(f"Failed    {reason}")
    say(f"Results   {place.folder}")
    return scores


def evaluate_suite(cfg: DictConfig) -> Scores:
    """Score methods on every set of `cfg.suite`, a YAML file, and write and show one table.

    Raises:
        ValueError, OSError: the file cannot be read as a suite, or no set of it can be read.
    """
    if cfg.data is not None or cfg.ckpt is not None:
        raise ValueError(
            "suite=… says which data: leave out data=… and ckpt=…; methods=[…] takes checkpoints"
        )
    speed = {"precision": cfg.precision.name, "compile": cfg.compile}
    sets = {
        name: partial(build_set, Path(cfg.suite).parent, name, of)
        for name, of in read_suite(cfg.suite).items()
    }
    chosen = methods.expand(listed(cfg.methods) or PUBLISHED)
    evaluation.require_one(chosen, cfg.results, **speed)
    suite = suites.evaluate(sets, chosen, cfg.results, device(), build_data, **speed)
    say(suite_tables.terminal(suite))
    for line in suite_tables.notes(suite):
        say(line)
    for path in suite_tables.write(suite, Path(cfg.results), Path(cfg.suite).stem):
        say(f"Written   {path}")
    scores = zip(suite.methods, suite.score.tolist(), strict=True)
    return {method: dict(zip(suite.columns, row, strict=True)) for method, row in scores}


def read_suite(path: str) -> dict[str, dict[str, Any]]:
    """The sets of a suite file by name: for each, `data`, a choice of `conf/data`, and its settings.

    Raises:
        ValueError: the file is not a suite, or names what to call, which no file may; names the file.
        FileNotFoundError: there is none.
    """
    if not Path(path).is_file():
        raise FileNotFoundError(f"no suite {path}")
    sets = read_yaml(Path(path))
    if not isinstance(sets, dict) or not sets:
        raise ValueError(f"{path} must list sets by name, each with data: and its settings")
    for name, of in sets.items():
        if not (isinstance(of, dict) and isinstance(of.get("data"), str) and of["data"].isidentifier()):
            raise ValueError(
                f"{path}: {name!r} must have data:, a word, and its settings, got {str(of)[:60]}"
            )
        plain = [str(key) for key in of if str(key).startswith("_")]
        if plain or "${" in str(of):
            raise ValueError(
                f"{path}: {name!r} must have plain settings, got {plain[0] if plain else '${…}'}"
            )
    return sets


def build_set(folder: Path, name: str, of: dict[str, Any]) -> JudgedDataModule:
    """The data module of a set; its paths are relative to the folder of the suite.

    Raises:
        ValueError: naming the set and what is wrong with its settings.
    """
    kind, settings = of["data"], {key: value for key, value in of.items() if key != "data"}
    for key in ("path", "root", "jnd"):
        if isinstance(settings.get(key), str):
            settings[key] = str(folder / Path(settings[key]).expanduser())
    try:
        node = compose("evaluate", [f"data={kind}"]).data
        node.merge_with(settings)
        return build(data_arguments(node))
    except (OmegaConfBaseException, HydraException) as error:
        raise ValueError(f"{name}: {first_line(error)}") from None


def under_conditions(chosen: list[Method], data: JudgedDataModule, results: str, **speed: Any) -> Scores:
    """Score methods under simulated conditions that `results` does not have yet, and show all.

    Returns:
        by method, the 2AFC score by condition, then their `mean`.
    """
    from perceptual.evaluation import conditions

    rows, lost = conditions.report(chosen, data, results, device(), **speed)
    if not rows:
        raise ValueError("; ".join(f"{name}: {reason}" for name, reason in lost.items()))
    scores = {row["method"]: {key: value[0] for key, value in row["conditions"].items()} for row in rows}
    by_condition = {key: {name: scores[name][key] for name in scores} for key in rows[0]["conditions"]}
    title = f"Under conditions, {data.describe()}"
    say(table(by_condition, title=title))
    for row in rows:
        value, low, high = (100 * part for part in row["conditions"]["mean"])
        say(f"Mean      {row['method']}: {estimate(value, low, high, 1)}")
    for name, reason in lost.items():
        say(f"Failed    {name}: {reason}")
    path = evaluation.place_of(data, results).folder / "conditions.md"
    write_text(path, conditions.markdown(rows, title))
    say(f"Results   {path}")
    return scores


def examine(chosen: list[Method], data: JudgedDataModule, cfg: DictConfig, **speed: Any) -> Scores:
    """Make trust reports that `cfg.results` does not have yet, and show all that were asked for.

    Returns:
        by method, the share of decisions that flip, or another mean, by column.
    """
    from perceptual.evaluation import trust_report

    rows, lost = trust_report.report(chosen, data, cfg.results, device(), seed=cfg.seed, **speed)
    if not rows:
        raise ValueError("; ".join(f"{name}: {reason}" for name, reason in lost.items()))
    for line in trust_report.shown(rows, lost):
        say(line)
    folder = evaluation.place_of(data, cfg.results).folder
    title = f"Trust, {data.describe()}"
    write_text(folder / "trust.md", trust_report.markdown(rows, title))
    trust_report.picture(rows, title, folder / "trust.png")
    say(f"Results   {folder}/trust.md, trust.png")
    return {row["method"]: {key: value[0] for key, value in row["trust"].items()} for row in rows}


def device() -> str:
    """Where distances are computed: on a GPU if there is one."""
    return "cuda" if torch.cuda.is_available() else "cpu"


def listed(methods: str | Sequence[str] | None) -> list[str]:
    """The methods that were asked for; one alone is a list of one."""
    return [methods] if isinstance(methods, str) else list(methods or [])


def data_of(cfg: DictConfig) -> JudgedDataModule:
    """The data that `data=` chose, else those that the checkpoint was scored on in training."""
    if cfg.data is not None:
        return build(data_arguments(cfg.data))
    if cfg.ckpt is None:
        return PhotosDataModule(seed=cfg.seed)
    described = read_checkpoint(cfg.ckpt).get("datamodule_hyper_parameters")
    if described is None:
        raise ValueError(f"{cfg.ckpt!r} does not say which data it was trained on; choose data=…")
    return build_data(described, cfg.ckpt)


@hydra.main(version_base="1.3", config_path="conf", config_name="evaluate")
def main(cfg: DictConfig) -> None:
    """Score.

    Raises:
        CompactHydraException: in a multirun, nothing could be scored; it is reported when all are done.
    """
    with one_line_errors(OmegaConfBaseException):
        try:
            evaluate(cfg)
        except KeyboardInterrupt:
            if not Path(cfg.results).is_dir():
                raise
            kept = f"what was scored is kept in {cfg.results}, and the same command goes on from there"
            print(f"Interrupted: {kept}", file=sys.stderr)
            sys.exit(130)
        except (ValueError, OSError, OmegaConfBaseException) as error:
            if HydraConfig.get().mode is not RunMode.MULTIRUN:
                raise
            print(f"error: {first_line(error)}", file=sys.stderr)
            raise CompactHydraException("a run of the multirun gave no score") from None


if __name__ == "__main__":
    start(main)
