"""What a run that was killed needs to go on exactly: whole checkpoint files, its position, its generators."""

import os
import random
from pathlib import Path
from typing import Any

import numpy as np
import pytorch_lightning as pl
import torch
from pytorch_lightning.plugins.io import TorchCheckpointIO


class AtomicCheckpointIO(TorchCheckpointIO):
    """Lightning's checkpoint files, of which there is always a whole one under the name.

    A checkpoint is written beside its place, forced to the disk, and renamed: whenever the process or the
    machine dies, or the disk is full, the file is the old one or the new one.

    Raises:
        OSError: the file cannot be written; the one before it stays.
    """

    def save_checkpoint(
        self, checkpoint: dict[str, Any], path: str | os.PathLike[str], storage_options: Any = None
    ) -> None:
        """Write `checkpoint` to `path`, whole or not at all."""
        place = Path(path)
        fresh = place.with_name(f"{place.name}.part")
        try:
            place.parent.mkdir(parents=True, exist_ok=True)
            with fresh.open("wb") as file:
                torch.save(checkpoint, file)
                file.flush()
                os.fsync(file.fileno())
            os.replace(fresh, place)
            _sync_folder(place.parent)
        except (OSError, RuntimeError) as error:  # the writer of torch turns a full disk into the latter
            fresh.unlink(missing_ok=True)
            kept = "; the one before is whole" if place.is_file() else ""
            raise OSError(f"cannot write checkpoint {str(path)!r}: {_reason(error)}{kept}") from error


class RandomState(pl.Callback):
    """Random generators of every process in the checkpoint, so that a resumed run drops what it would have.

    `PerceptualRanker` brings it along. Without a checkpoint, processes but the first begin with a seed of
    their own: dropout on different items is to be different.
    """

    def __init__(self) -> None:
        self._loaded: list[dict[str, Any]] = []

    def state_dict(self) -> dict[str, Any]:
        """The states of all processes; each takes part, as in saving a checkpoint."""
        states: list[Any] = [random_state()]
        if torch.distributed.is_available() and torch.distributed.is_initialized():
            states = states * torch.distributed.get_world_size()
            torch.distributed.all_gather_object(states, random_state())
        return {"processes": states}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Keep the states until training starts: what comes before may draw numbers."""
        self._loaded = state_dict["processes"]

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Put the generators where they were."""
        if trainer.global_rank < len(self._loaded):
            set_random_state(self._loaded[trainer.global_rank])
        elif trainer.global_rank:
            torch.manual_seed(torch.initial_seed() + trainer.global_rank)
        self._loaded = []


class Position(pl.Callback):
    """Where a run stands, in two cases in which Lightning loses it; `PerceptualRanker` brings it along.

    It takes a run with `max_steps` for one that always stops within an epoch, and counts the epoch before a
    checkpoint at an epoch's end twice. And a schedule that asks for the steps of a run has the batches set up
    before it is known which of them were given out.
    """

    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        """Let the progress of a checkpoint alone say whether it is from within an epoch."""
        trainer.fit_loop._iteration_based_training = lambda: False  # type: ignore[method-assign]

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Tell the batches their position, if that is still to be done; none has been read yet."""
        trainer.fit_loop._load_combined_loader_states()


def random_state() -> dict[str, Any]:
    """State of the generators of torch, NumPy and Python, of types that `torch.load` reads without pickle."""
    name, keys, *rest = np.random.get_state()  # noqa: NPY002  # the global one, which libraries draw from
    return {
        "torch": torch.get_rng_state(),
        "cuda": torch.cuda.get_rng_state_all() if torch.cuda.is_available() else [],
        "numpy": [name, torch.from_numpy(np.asarray(keys).astype(np.int64)), *rest],
        "python": random.getstate(),
    }


def set_random_state(state: dict[str, Any]) -> None:
    """Put the generators into a state that `random_state` gave."""
    torch.set_rng_state(state["torch"])
    if len(state["cuda"]) == torch.cuda.device_count():
        torch.cuda.set_rng_state_all(state["cuda"])
    name, keys, *rest = state["numpy"]
    np.random.set_state((name, keys.numpy().astype(np.uint32), *rest))  # noqa: NPY002
    version, numbers, gauss = state["python"]
    random.setstate((version, tuple(numbers), gauss))


def _reason(error: Exception) -> str:
    number = next((e.errno for e in (error, error.__context__) if isinstance(e, OSError) and e.errno), None)
    return os.strerror(number) if number else " ".join(str(error).split())


def _sync_folder(folder: Path) -> None:
    """Force a renamed file's new name to the disk, where folders can be opened."""
    if os.name == "posix":
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
