"""Exact resumption of a killed run: complete checkpoint files, its position, its random generators."""

import os
import random
from pathlib import Path
from typing import Any

import numpy as np
import pytorch_lightning as pl
import torch
from pytorch_lightning.plugins.io import TorchCheckpointIO


class AtomicCheckpointIO(TorchCheckpointIO):
    """Lightning's checkpoint files, replaced atomically.

    A checkpoint is written to a temporary file beside its place, flushed to the disk, and renamed: if the
    process or the machine dies, or the disk is full, the file is the old one or the new one, complete.

    Raises:
        OSError: the file cannot be written; the one before it stays.
    """

    def save_checkpoint(
        self, checkpoint: dict[str, Any], path: str | os.PathLike[str], storage_options: Any = None
    ) -> None:
        """Write `checkpoint` to `path`, completely or not at all."""
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
        except (OSError, RuntimeError) as error:  # torch raises RuntimeError when the disk is full
            fresh.unlink(missing_ok=True)
            kept = "; the one before is complete" if place.is_file() else ""
            raise OSError(f"cannot write checkpoint {str(path)!r}: {_reason(error)}{kept}") from error


class RandomState(pl.Callback):
    """Saves the random generators of every process, so that a resumed run draws the same numbers.

    `PerceptualRanker` configures it. Without a checkpoint, each process begins with a different seed: dropout
    on different items should differ.
    """

    def __init__(self) -> None:
        self._loaded: list[dict[str, Any]] = []

    def state_dict(self) -> dict[str, Any]:
        """The states of all processes, gathered in each."""
        states: list[Any] = [random_state()]
        if torch.distributed.is_available() and torch.distributed.is_initialized():
            states = states * torch.distributed.get_world_size()
            torch.distributed.all_gather_object(states, random_state())
        return {"processes": states}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Keep the states until training starts: what runs before may draw numbers."""
        self._loaded = state_dict["processes"]

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Restore the generators."""
        if trainer.global_rank < len(self._loaded):
            set_random_state(self._loaded[trainer.global_rank])
        elif trainer.global_rank:
            torch.manual_seed(torch.initial_seed() + trainer.global_rank)
        self._loaded = []


class Position(pl.Callback):
    """Restores the position of a run where Lightning does not; `PerceptualRanker` configures it.

    With `max_steps`, Lightning assumes that a run always stops within an epoch, and counts the epoch before a
    checkpoint at an epoch's end twice. And a schedule that needs the number of steps sets up the batches
    before their position is restored.
    """

    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        """Take from the progress in a checkpoint whether it is from within an epoch."""
        trainer.fit_loop._iteration_based_training = lambda: False  # type: ignore[method-assign]

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Restore the position of the batches, of which none has been read yet."""
        trainer.fit_loop._load_combined_loader_states()


def random_state() -> dict[str, Any]:
    """State of the generators of torch, NumPy and Python, in types that `torch.load` reads without pickle."""
    name, keys, *rest = np.random.get_state()  # noqa: NPY002  # the global generator, which libraries use
    return {
        "torch": torch.get_rng_state(),
        "cuda": torch.cuda.get_rng_state_all() if torch.cuda.is_available() else [],
        "numpy": [name, torch.from_numpy(np.asarray(keys).astype(np.int64)), *rest],
        "python": random.getstate(),
    }


def set_random_state(state: dict[str, Any]) -> None:
    """Set the generators to a state from `random_state`."""
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
    """Flush the new name of a renamed file to the disk."""
    if os.name == "posix":
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
