"""Train a perceptual metric on judgments: `python train.py`, or with any choice of `conf/`."""

import json
import logging
import os
import signal
import sys
import time
import traceback
import warnings
from contextlib import suppress
from pathlib import Path

import hydra
import pytorch_lightning as pl
from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from omegaconf import DictConfig
from omegaconf.errors import OmegaConfBaseException
from pytorch_lightning.utilities import rank_zero_only
from pytorch_lightning.utilities.exceptions import MisconfigurationException, SIGTERMException
from rich.console import Console
from torch import distributed

from perceptual.cli.errors import one_line_errors
from perceptual.config import Cache, build, data_arguments, plain, register
from perceptual.data.loading import at_least
from perceptual.distance.lpips import LPIPS
from perceptual.evaluation import runs
from perceptual.evaluation.scoring import one_line, score
from perceptual.evaluation.tables import tables
from perceptual.training import fsdp
from perceptual.training.cache import CachedDataModule
from perceptual.training.checkpoints import read_checkpoint
from perceptual.training.module import PerceptualRanker
from perceptual.training.resume import AtomicCheckpointIO
from perceptual.training.settings import check_settings

# in which the first process may say what went wrong in all, and end the others
SECONDS_TO_SPEAK = 5
RESUMED = "PERCEPTUAL_RESUMED"  # tells the processes of a run what ckpt=last is
Scores = dict[str, dict[str, float]]


def train(cfg: DictConfig) -> Scores:
    """Train and judge as `cfg` (conf/train.yaml) says.

    Returns:
        scores in [0, 1] by `uncalibrated` and `trained`, then 2AFC by subset, `mean` (macro) and `micro`, and
        JND likewise where there are pairs, see `perceptual.evaluation.scoring`.

    Raises:
        ValueError, OSError: what the user asked for cannot be done, before training starts.
    """
    quiet_lightning()
    pl.seed_everything(cfg.seed, workers=True, verbose=False)
    resume = find_checkpoint(cfg.ckpt, Path(cfg.runs)) or begun(Path(cfg.run_dir))

    check(cfg)
    callbacks = [build(node) for node in cfg.callbacks.values()]

    described = data_arguments(cfg.data)
    data = build(described)
    data.setup("fit")
    # each process of several comes here; the first speaks and scores for all
    first = rank_zero_only.rank == 0
    console = Console(quiet=not first)
    console.print(f"Data      {data.describe()}", highlight=False)
    # for the model card of what is exported from this run
    about = {"description": data.describe(), "train": data.fingerprint("train"), "val": data.fingerprint()}
    if first:
        write_json(Path(cfg.run_dir, "data.json"), about)
        keep_logs(Path(cfg.run_dir))

    model = build(cfg.model)
    backbone = model.distance.backbone
    console.print(f"Backbone  {backbone.name}, weights {backbone.source}", highlight=False, soft_wrap=True)
    if resume:
        console.print(f"Resumed   {resume}", highlight=False, soft_wrap=True)
    batches = data
    if cfg.data.cache is Cache.on and backbone.frozen:
        batches = CachedDataModule(data, model.distance)
    # evaluate.py finds in the checkpoint which data the score is of
    batches.save_hyperparameters(described)
    distances = {"uncalibrated": LPIPS(backbone, lin=None, form=model.distance.form)}
    scores: Scores = {}
    if batches is data:  # training may change the backbone; cached means come with fit, from all processes
        scores = score(distances, data.val_dataloader(), data.subsets, data.jnd_subsets) if first else {}
        distances = {}

    plugins = [AtomicCheckpointIO()]
    trainer = build(cfg.trainer, logger=build(cfg.logger), callbacks=callbacks, plugins=plugins)
    fit(trainer, model, batches, resume, cfg.run_dir)

    distances["trained"] = model.distance.eval()
    scores |= score(distances, batches.val_dataloader(), data.subsets, data.jnd_subsets)
    write_json(Path(cfg.run_dir, "scores.json"), scores)
    console.print(tables(scores, title=f"Validation, {data.describe()}"))
    console.print(f"Run       {cfg.run_dir}", highlight=False, soft_wrap=True)
    return scores


def check(cfg: DictConfig) -> None:
    """Refuse what no part refuses by itself, before an image is read.

    Raises:
        ValueError: naming the setting.
    """
    check_settings(plain(cfg.model))
    at_least("trainer.max_epochs", cfg.trainer.max_epochs, -1)
    at_least("trainer.accumulate_grad_batches", cfg.trainer.accumulate_grad_batches, 1)
    clip = cfg.trainer.gradient_clip_val
    if clip is not None and not clip > 0:
        raise ValueError(f"trainer.gradient_clip_val must be positive, got {clip:g}")
    if cfg.trainer.strategy == fsdp.NAME and clip is not None:
        raise ValueError(f"strategy={fsdp.NAME} does not clip gradients: leave out trainer.gradient_clip_val")
    if cfg.trainer.strategy == fsdp.NAME and "ema" in cfg.callbacks:
        raise ValueError(f"strategy={fsdp.NAME} does not average weights: leave out averaging")
    cached = cfg.data.cache is Cache.on and cfg.model.variant.name == "lin"
    if cached and set(cfg.model.augmentation) - {"swap"}:
        raise ValueError(
            f"augmentation={list(cfg.model.augmentation)} needs images, and a frozen backbone's features are "
            "cached: add data.cache=off"
        )


def write_json(path: Path, content: object) -> None:
    """Write a file of a run."""
    path.write_text(json.dumps(content, indent=1, ensure_ascii=False) + "\n", "utf-8")


def fit(
    trainer: pl.Trainer,
    model: PerceptualRanker,
    data: pl.LightningDataModule,
    resume: str | None,
    run_dir: str,
) -> None:
    """Train. A run that is stopped or fails says why, and where its last checkpoint is.

    Raises:
        SystemExit: it was interrupted, with the status that shells give to it; or this is not the first
            process, whose work ends here.
        ValueError: what went wrong, in one line; where, in `error.txt` in the run's folder.
    """
    last = Path(run_dir, "checkpoints/last.ckpt")
    goes_on = f"ckpt=last goes on from {last}"
    try:
        trainer.fit(model, datamodule=data, ckpt_path=resume)
    except SystemExit as stop:  # Ctrl-C or SIGTERM, after the checkpoint is saved
        if not trainer.is_global_zero:
            sys.exit()
        end_others(trainer)
        print("Interrupted:", goes_on if last.is_file() else "there was no checkpoint yet")
        status = 128 + (signal.SIGTERM if isinstance(stop, SIGTERMException) else signal.SIGINT)
        # Lightning's own for what it does not wait for, or LastCheckpoint's
        sys.exit(stop.code if isinstance(stop.code, int) and stop.code > 128 else status)
    except Exception as error:
        if trainer.is_global_zero:
            end_others(trainer)
        else:
            time.sleep(SECONDS_TO_SPEAK)
        with suppress(OSError):  # the disk may be what is wrong
            Path(run_dir, "error.txt").write_text(traceback.format_exc())
        known = isinstance(error, (ValueError, OSError, MisconfigurationException))
        reason = (
            f"{error}" if known else f"{type(error).__name__}: {error} (see {Path(run_dir, 'error.txt')})"
        )
        raise ValueError(f"{reason}; {goes_on}" if last.is_file() else reason) from error
    finally:
        close_wandb()
    if distributed.is_available() and distributed.is_initialized():
        distributed.destroy_process_group()
    if not trainer.is_global_zero:
        sys.exit()


def end_others(trainer: pl.Trainer) -> None:
    """End the processes that Lightning started: they would only wait for this one, or fail as it did."""
    processes = getattr(trainer.strategy.launcher, "procs", [])
    for process in processes:
        process.kill()
        process.wait()
    processes.clear()  # or Lightning, which watches them, ends this one


def quiet_lightning() -> None:
    """Silence what Lightning says on every run and nobody can act on."""
    logging.getLogger("pytorch_lightning").setLevel(logging.WARNING)
    # images that sit in memory need no workers
    warnings.filterwarnings("ignore", message=".*does not have many workers.*")
    # a frozen backbone is meant to stay in eval mode
    warnings.filterwarnings("ignore", message=".*in eval mode at the start of training.*")
    # a resumed run has a folder of its own, which only the last checkpoint does not mind
    warnings.filterwarnings("ignore", message="The dirpath has changed from.*")
    # validation scores are those of all processes before they are logged
    warnings.filterwarnings("ignore", message=".*recommended to use .*sync_dist=True.*")
    # Lightning's own use of PyTorch
    warnings.filterwarnings("ignore", message=".*LeafSpec.*")


def close_wandb() -> None:
    """End the run at Weights & Biases, if there is one, however training ended."""
    wandb = sys.modules.get("wandb")
    if wandb is not None and wandb.run is not None:
        wandb.finish()


def find_checkpoint(ckpt: str | None, runs: Path) -> str | None:
    """The path of the checkpoint to resume from; `last` is the newest below `runs`.

    Raises:
        FileNotFoundError: there is none.
        ValueError: the file is no checkpoint of training.
    """
    if ckpt is None:
        return None
    if ckpt == "last":
        started = os.environ.get("LOCAL_RANK", "0") != "0"
        if started and RESUMED in os.environ:
            return os.environ[RESUMED]  # what the first process chose: there may be a newer one now
        found = sorted(runs.glob("**/checkpoints/last.ckpt"), key=lambda path: path.stat().st_mtime)
        if not found:
            raise FileNotFoundError(f"ckpt=last, but there is no checkpoint below {str(runs)!r}")
        if not started:
            os.environ[RESUMED] = str(found[-1])
        return str(found[-1])
    read_checkpoint(ckpt)  # refuses what is no checkpoint before any image is read
    return ckpt


def begun(run_dir: Path) -> str | None:
    """The newest checkpoint in the folder of a run, if this is a SLURM job and there is one.

    SLURM starts a job again after preemption and where a node has failed, with the number it had:
    `hydra.run.dir=runs/$SLURM_JOB_ID` is the folder it had, too.
    """
    found = [*run_dir.glob("checkpoints/last.ckpt"), *run_dir.glob("hpc_ckpt_*.ckpt")]
    if "SLURM_JOB_ID" not in os.environ or not found:
        return None
    # as it should be
    warnings.filterwarnings("ignore", message="Checkpoint directory .* exists and is not empty")
    return str(max(found, key=lambda path: path.stat().st_mtime))


def keep_logs(run_dir: Path) -> None:
    """Move the logs of an earlier start in the same folder aside, which the logger would delete."""
    if (logs := run_dir / "logs").is_dir():
        logs.rename(run_dir / f"logs-{len(list(run_dir.glob('logs-*'))) + 1}")


@hydra.main(version_base="1.3", config_path="conf", config_name="train")
def main(cfg: DictConfig) -> float | None:
    """Entry point: errors of the user are one line.

    Returns:
        the macro mean of the trained metric, which a sweep maximises; None for a run of a sweep that failed,
        so that the others go on.
    """
    with one_line_errors(OmegaConfBaseException, MisconfigurationException):
        try:
            return train(cfg)["trained"]["mean"]
        except Exception as error:
            runs.keep_failure(cfg.run_dir, one_line(error))
            if HydraConfig.get().mode is not RunMode.MULTIRUN:
                raise
            Path(cfg.run_dir, "failed/traceback.txt").write_text(traceback.format_exc(), "utf-8")
            print(f"error: {cfg.run_dir}: {one_line(error)}", file=sys.stderr)
            return None


if __name__ == "__main__":
    register()
    main()
