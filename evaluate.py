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
from hydra import compose
from hydra.core.hydra_config import HydraConfig
from hydra.errors import CompactHydraException, HydraException
from hydra.types import RunMode
from omegaconf import DictConfig
from omegaconf.errors import OmegaConfBaseException
from torch import nn

from perceptual.cli.errors import one_line_errors, start
from perceptual.cli.output import say
from perceptual.config import build, build_data, data_arguments
from perceptual.data import JudgedDataModule, PhotosDataModule
from perceptual.evaluation import evaluate as evaluation
from perceptual.evaluation import methods, people, suite_tables, suites
from perceptual.evaluation.evaluate import Scores, Study
from perceptual.evaluation.robustness.conditions import UnderConditions
from perceptual.evaluation.robustness.report import Robustness
from perceptual.evaluation.scoring import score
from perceptual.evaluation.tables import score_tables
from perceptual.features.custom import import_modules
from perceptual.files.messages import first_line
from perceptual.files.records import read_yaml
from perceptual.files.writing import save_picture, write_text
from perceptual.training.checkpoints import read_checkpoint

PUBLISHED = ("alexnet-v0.1", "squeezenet1_1-v0.1", "vgg16-v0.1")
Numbers = dict[str, dict[str, float]]


def evaluate(cfg: DictConfig) -> Numbers:
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
    distance = methods.build(cfg.ckpt, memory="auto", **speed) if cfg.ckpt else None
    chosen = methods.expand(listed(cfg.methods) or ([cfg.ckpt] if cfg.ckpt else PUBLISHED))
    if distance is None:
        evaluation.require_one(chosen, cfg.results, **speed)
    data = data_of(cfg)
    data.setup("validate")
    if distance is not None and not (cfg.conditions or cfg.robustness):
        return repeat(cfg.ckpt, distance, data)
    if cfg.conditions:
        study: Study = UnderConditions(data)
    else:
        study = Robustness(data, cfg.seed, cfg.attacks.name) if cfg.robustness else Scores(data)
    evaluated = evaluation.evaluate(chosen, data, cfg.results, methods.device(), study=study, **speed)
    if not evaluated.found:
        raise ValueError("; ".join(f"{name}: {reason}" for name, reason in evaluated.lost.items()))
    shown, files = study.show(evaluated.found)
    for part in shown:
        say(part)
    for name, reason in evaluated.lost.items():
        say(f"Failed    {name}: {reason}")
    folder = evaluated.place.folder
    for name, content in files.items():
        if isinstance(content, str):
            write_text(folder / name, content)
        else:
            save_picture(content, folder / name)
    say(f"Results   {folder / ', '.join(files)}")
    return {result.method: study.numbers(result) for result in evaluated.found}


def repeat(ckpt: str, distance: nn.Module, data: JudgedDataModule) -> Numbers:
    """Repeat the scores of training of a checkpoint, and show them.

    Raises:
        ValueError: no checkpoint is trained on data of this kind.
    """
    if not data.trains:
        raise ValueError(f"ckpt= repeats the scores of training; on other data, methods=[{ckpt}]")
    scores = score({ckpt: distance}, data.val_dataloader())
    table = people.with_ceiling(scores, data)
    say(score_tables(table, data.kind.name, f"Validation, {data.describe()}"))
    if near := people.sentence(scores[ckpt]["mean"], data):
        say(f"Score     {near}")
    return scores


def evaluate_suite(cfg: DictConfig) -> Numbers:
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
    suite = suites.evaluate(sets, chosen, cfg.results, methods.device(), build_data, **speed)
    say(suite_tables.table(suite))
    for line in suite_tables.notes(suite):
        say(line)
    for path in suite_tables.write(suite, Path(cfg.results), Path(cfg.suite).stem):
        say(f"Written   {path}")
    scores = zip(suite.methods, suite.score.tolist(), strict=True)
    return {method: dict(zip(suite.columns, row, strict=True)) for method, row in scores}


def read_suite(path: str) -> dict[str, dict[str, Any]]:
    """The sets of a suite file by name, each with `data`, as on the command line, and its settings.

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
