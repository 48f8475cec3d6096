"""A run of train.py around the training itself: its checks, folder, checkpoint, signals and processes."""

import logging
import os
import signal
import sys
import time
import traceback
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytorch_lightning as pl
import torch
from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf
from pytorch_lightning.utilities import rank_zero_only
from pytorch_lightning.utilities.exceptions import MisconfigurationException, SIGTERMException
from torch import Tensor, distributed

from perceptual.data import JudgedDataModule
from perceptual.data.images import as_floats, crops
from perceptual.features import custom
from perceptual.features.build import describe
from perceptual.files.records import to_json
from perceptual.files.writing import alone, write_text
from perceptual.training.checkpoints import differences, read_checkpoint, refuse

# in which the first process may say what went wrong in all, and end the others
SECONDS_TO_SPEAK = 5
MOVABLE = ("path", "root", "jnd", "num_workers")  # of the data, what a resumed run may have otherwise
IMAGES = 512  # that weights=kmeans is made of
FAILED, KILLED = 1, 255  # exit codes by which Weights & Biases tells how a run ended
SQUARE = 64  # pixels of squares of larger images


def import_networks(cfg: DictConfig) -> None:
    """Import the modules that `imports` and `backbone._target_` name: the user wrote both.

    Raises:
        ValueError: naming the module, and what is wrong in it.
    """
    target = cfg.backbone.get(custom.TARGET)
    modules = [str(target).rpartition(".")[0]] if target else []
    custom.import_modules(filter(None, [*cfg.imports, *modules]))


def training_images(data: JudgedDataModule) -> Tensor:
    """References of training triplets, at most `IMAGES` and evenly spread, float (N, 3, H, W) in [0, 1].

    Of trios, their first images.
    Of references in their own sizes, squares from random places that are as large as all of them are.
    """
    assert data.train_set is not None
    references = np.unique(data.train_set.table.items[0])
    chosen = references[:: -(-len(references) // IMAGES)]
    images, index = data.train_set.images, torch.from_numpy(chosen)
    if images.square:
        return as_floats(images.batch(index))
    places = torch.from_numpy(np.random.default_rng(0).integers(2**31, size=(len(chosen), 2)))
    return crops(images, index, places, min(SQUARE, int(images.sizes[chosen].min())))


def find_checkpoint(cfg: DictConfig) -> str | None:
    """The path of the checkpoint to resume from, if any.

    Raises:
        FileNotFoundError: it does not exist.
        ValueError: it is not a checkpoint of training, or contradicts the configuration.
    """
    found = begun(Path(cfg.run_dir)) if cfg.ckpt is None else str(Path(cfg.ckpt).expanduser())
    if found is not None:
        checkpoint = read_checkpoint(found)  # refuses another file before any image is read
        check_same_run(checkpoint, cfg)
    return found


def check_same_run(checkpoint: Mapping[str, Any], cfg: DictConfig) -> None:
    """Refuse to go on with other data, another model or another optimiser than those of a checkpoint.

    Data may lie in another place: their fingerprints tell whether they are the same.

    Raises:
        ValueError: naming what differs.
    """
    model: Any = OmegaConf.to_container(cfg.model, resolve=True, enum_to_str=True)
    data: Any = OmegaConf.to_container(cfg.data, resolve=True, enum_to_str=True)
    theirs = checkpoint["hyper_parameters"]
    networks = [dict(describe(one["backbone"])) for one in (theirs, model)]
    every = dict.fromkeys(key for network in networks for key in network)
    averaged = [
        "ema" if there else None for there in ("current_model_state" in checkpoint, "ema" in cfg.callbacks)
    ]
    refuse(
        [
            *differences({**every, **networks[0]}, {**every, **networks[1]}, "backbone.", ["weights"]),
            *differences(theirs, model, "model.", ["backbone"]),
            *differences(checkpoint.get("datamodule_hyper_parameters") or {}, data, "data.", MOVABLE),
            *differences({"averaging": averaged[0]}, {"averaging": averaged[1]}),
        ]
    )


def begun(run_dir: Path) -> str | None:
    """The newest checkpoint in the folder of a run, if this is a SLURM job and there is one.

    SLURM starts a job again after preemption and where a node has failed, with the number it had:
    `hydra.run.dir=runs/$SLURM_JOB_ID` is the folder it had, too.
    """
    found = [*run_dir.glob("checkpoints/last.ckpt"), *run_dir.glob("hpc_ckpt_*.ckpt")]
    if "SLURM_JOB_ID" not in os.environ or not found:
        return None
    return str(max(found, key=lambda path: path.stat().st_mtime))


def refuse_used(run_dir: Path, resume: str | None) -> None:
    """Refuse the folder of another run, unless that goes on: its checkpoints and scores would be mixed.

    Raises:
        ValueError: naming the folder.
    """
    used = any(run_dir.glob("checkpoints/*.ckpt"))
    if used and resume is not None:  # as it should be
        warnings.filterwarnings("ignore", message="Checkpoint directory .* exists and is not empty")
    elif used and os.environ.get("LOCAL_RANK", "0") == "0":
        raise ValueError(
            f"hydra.run.dir={run_dir} holds a run already: choose another folder, or add "
            f"ckpt={run_dir / 'checkpoints/last.ckpt'} to go on with it"
        )


@contextmanager
def alone_in(run_dir: Path) -> Iterator[None]:
    """Keep other runs out of a folder; the first process does it for all of one run.

    Raises:
        ValueError: another run is training there.
    """
    if rank_zero_only.rank:  # type: ignore[attr-defined]
        yield
        return
    with alone(run_dir / "train.lock", f"hydra.run.dir={run_dir}: another process is training there"):
        yield


def prepare_folder(run_dir: Path, about: dict[str, Any]) -> None:
    """Write what the run is of, and move the logs of an earlier start aside, which the logger would delete.

    Hydra notes the command too, but also that of a start that was refused.
    """
    if HydraConfig.initialized():
        hydra = HydraConfig.get()
        about |= {"command": list(hydra.overrides.task), "sweep": hydra.mode is RunMode.MULTIRUN}
    write_json(run_dir / "data.json", about)
    if (logs := run_dir / "logs").is_dir():
        logs.rename(run_dir / f"logs-{len(list(run_dir.glob('logs-*'))) + 1}")


def write_json(path: Path, content: object) -> None:
    """Write a file of a run."""
    write_text(path, to_json(content))


def fit(
    trainer: pl.Trainer,
    model: pl.LightningModule,
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
            Path(run_dir, "error.txt").write_text(traceback.format_exc(), encoding="utf-8")
        known = isinstance(error, (ValueError, OSError, MisconfigurationException))
        reason = (
            f"{error}" if known else f"{type(error).__name__}: {error} (see {Path(run_dir, 'error.txt')})"
        )
        raise ValueError(f"{reason}; {goes_on}" if last.is_file() else reason) from error
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


@contextmanager
def recorded() -> Iterator[None]:
    """End the run at Weights & Biases, if there is one, as what W&B calls finished, failed or killed."""
    status = 0
    try:
        yield
    except BaseException as stop:
        status = KILLED if _interrupted(stop) else FAILED
        if isinstance(stop, SystemExit) and stop.code in (0, None):  # the work of this process ends
            status = 0
        raise
    finally:
        wandb = sys.modules.get("wandb")
        if wandb is not None and wandb.run is not None:
            wandb.finish(exit_code=status)


def _interrupted(stop: BaseException) -> bool:
    """Whether it is Ctrl-C or a signal, which `fit` exits with as shells do."""
    code = stop.code if isinstance(stop, SystemExit) else None
    return isinstance(stop, KeyboardInterrupt) or (isinstance(code, int) and code > 128)
