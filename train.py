"""Train a perceptual metric on judgments: `python train.py`, or with any choice of `conf/`."""

import sys

from perceptual.cli import script_help

if __name__ == "__main__":
    script_help.answer(__file__, sys.argv[1:])  # before the imports below, which take many seconds

import traceback
from dataclasses import asdict
from pathlib import Path

import hydra
import pytorch_lightning as pl
from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from omegaconf import DictConfig
from omegaconf.errors import OmegaConfBaseException
from pytorch_lightning.utilities import rank_zero_only
from pytorch_lightning.utilities.exceptions import MisconfigurationException
from rich.console import Console

from callbacks.report import Trained, make_reports
from perceptual.cli.errors import one_line_errors, start
from perceptual.cli.words import by_name, resumed
from perceptual.config import Cache, build, check, data_arguments, recipe
from perceptual.evaluation import notice, people, runs
from perceptual.evaluation.scoring import columns_of, joined, score
from perceptual.evaluation.tables import score_tables
from perceptual.features.kmeans import initialize
from perceptual.files.messages import first_line
from perceptual.files.progress import run_number
from perceptual.names import KMEANS
from perceptual.training import run
from perceptual.training.cache import CachedDataModule
from perceptual.training.checkpoints import check_data, read_checkpoint
from perceptual.training.resume import AtomicCheckpointIO

Scores = dict[str, dict[str, float]]


def train(cfg: DictConfig) -> Scores:
    """Train and judge as `cfg` (conf/train.yaml) says.

    Returns:
        scores in [0, 1] by `uncalibrated` and `trained`, then 2AFC by subset, `mean` (macro) and `micro`, and
        JND likewise where there are pairs, see `perceptual.evaluation.scoring`.

    Raises:
        ValueError, OSError: what the user asked for cannot be done, before training starts.
    """
    run.quiet_lightning()
    pl.seed_everything(cfg.seed, workers=True, verbose=False)
    resume = run.find_checkpoint(cfg)
    run.refuse_used(Path(cfg.run_dir), resume)
    check(cfg)
    run.import_networks(cfg)
    callbacks = [build(node) for node in cfg.callbacks.values()]
    model = build(cfg.model)  # weights that are missing are missed before data are read

    described = data_arguments(cfg.data)
    data = build(described)
    data.setup("fit")
    if resume:
        check_data(read_checkpoint(resume), data.sides)
    # each process of several comes here; the first speaks and scores for all
    first = rank_zero_only.rank == 0  # type: ignore[attr-defined]
    console, number = Console(quiet=not first, highlight=False, markup=False), run_number()
    console.print(f"{number}Data      {data.describe()}", soft_wrap=True)
    if first:
        # for the model card of what is exported from this run
        sides = {side: about["sha256"] for side, about in data.sides.items()}
        run.prepare_folder(Path(cfg.run_dir), {"description": data.describe(), **sides})

    backbone = model.distance.backbone
    if backbone.info.spec["weights"] == KMEANS and not resume:
        initialize(backbone, run.training_images(data), cfg.seed)
    console.print(f"{number}Backbone  {backbone.name}, weights {backbone.source}", soft_wrap=True)
    if resume:
        console.print(f"{number}Resumed   {resume}", soft_wrap=True)
    cached = cfg.data.cache is Cache.on and backbone.frozen and not (model.robust.steps or data.masked)
    batches = CachedDataModule(data, model.distance, views=cfg.data.views) if cached else data
    views = f", {batches.views} views of each training image" if cached and batches.views else ""
    console.print(f"{number}Recipe    {recipe(cfg)}{views}", soft_wrap=True)
    if data.masked and cfg.data.cache is Cache.on:
        console.print(f"{number}Masks     honoured: images are read anew, features are not cached")
    if model.robust.steps:
        console.print(f"{number}Attacks   {model.robust}", soft_wrap=True)
    # evaluate.py finds in the checkpoint which data the score is of
    batches.save_hyperparameters(described)

    distances = {"uncalibrated": model.uncalibrated()}
    scores: Scores = {}
    if not cached:  # training may change the backbone; cached means come with fit, from all processes
        scores = score(distances, data.val_dataloader()) if first else {}
        distances = {}

    logger, plugins = build(cfg.logger), [AtomicCheckpointIO()]
    trainer = build(cfg.trainer, logger=logger, callbacks=callbacks, plugins=plugins)
    run.fit(trainer, model, batches, resume, cfg.run_dir)

    device = trainer.strategy.root_device
    model.to(device).eval()
    distances = {name: distance.to(device) for name, distance in distances.items()}
    # the one pass of the final weights over the validation items
    columns = columns_of({**distances, "trained": model.distance}, batches.val_dataloader())
    tables = [judged.table for judged in data.val_sets]
    scores |= {name: joined(found, tables) for name, found in columns.items()}
    run.write_json(Path(cfg.run_dir, "scores.json"), scores)
    meaning = next(filter(None, map(notice.of_table, tables, columns["trained"])), None)
    if meaning:  # for the model card too
        run.write_json(Path(cfg.run_dir, notice.FILE), asdict(meaning))
    make_reports(callbacks, Trained(trainer, model, data, columns["trained"][0]))
    if number:  # of a sweep, whose leaderboard comes at its end
        before, after = (100 * scores[name]["mean"] for name in ("uncalibrated", "trained"))
        console.print(f"{number}Score     {after:.1f} %, uncalibrated {before:.1f} %", soft_wrap=True)
        return scores
    table = people.with_ceiling(scores, data)
    console.print(score_tables(table, data.kind.name, f"Validation, {data.describe()}"))
    if near := people.sentence(scores["trained"]["mean"], data):
        console.print(f"Score     {near}", soft_wrap=True)
    if meaning:
        said = f"{meaning.threshold:.4g}, which {meaning.sentence(meaning.threshold)}"
        console.print(f"Distance  {said}", soft_wrap=True)
    console.print(f"Run       {cfg.run_dir}", soft_wrap=True)
    return scores


@hydra.main(version_base="1.3", config_path="conf", config_name="train")
def main(cfg: DictConfig) -> float | None:
    """Train.

    Returns:
        the macro mean of the trained metric, which a sweep maximises; None for a run of a sweep that failed,
        so that the others go on.
    """
    with one_line_errors(OmegaConfBaseException, MisconfigurationException):
        try:
            with run.recorded(), run.alone_in(Path(cfg.run_dir)):
                return train(cfg)["trained"]["mean"]
        except Exception as error:
            runs.keep_failure(cfg.run_dir, first_line(error))
            if HydraConfig.get().mode is not RunMode.MULTIRUN:
                raise
            Path(cfg.run_dir, "failed/traceback.txt").write_text(traceback.format_exc(), "utf-8")
            print(f"error: {cfg.run_dir}: {first_line(error)}", file=sys.stderr)
            return None


if __name__ == "__main__":
    start(main, lambda words: resumed(by_name(words)))
