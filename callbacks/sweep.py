"""The end of a sweep, told: which setting was best and why, and which runs gave no score."""

import functools
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from hydra.experimental.callback import Callback
from omegaconf import DictConfig

from perceptual.cli.output import say
from perceptual.config import build_data
from perceptual.data import ManifestDataModule
from perceptual.evaluation.board import Entry, make
from perceptual.evaluation.leaderboard import best_setting, leaderboard, of_sweep
from perceptual.evaluation.methods import build
from perceptual.evaluation.results import find
from perceptual.evaluation.runs import without_score
from perceptual.evaluation.scoring import score
from perceptual.evaluation.suite_tables import left_out
from perceptual.evaluation.tables import markdown
from perceptual.files.writing import write_text
from perceptual.training.checkpoints import read_checkpoint


class SweepReport(Callback):
    """Hydra's callback at the end of a multirun, whichever sweeper and launcher ran it."""

    def on_multirun_start(self, config: DictConfig, **kwargs: Any) -> None:
        """Let a search in which every run failed end as other sweeps do; Optuna's asks for its best run."""
        if "optuna" in config.hydra.sweeper._target_:
            from hydra_plugins.hydra_optuna_sweeper import _impl

            impl: Any = _impl.OptunaSweeperImpl
            impl.sweep = _lenient(impl.sweep)

    def on_multirun_end(self, config: DictConfig, **kwargs: Any) -> None:
        """Print the best runs, write `leaderboard.md`, and name each run that failed.

        Raises:
            SystemExit: some run gave no score.
        """
        folder = Path(config.hydra.sweep.dir)
        lost = without_score(folder)
        if len(lost) < len(list(folder.rglob(".hydra/config.yaml"))):
            places = find(folder)
            boards = [make(found, lost) for found in places]
            for board in boards:
                say(of_sweep(board))
                if best := best_setting(board):
                    say(best)
                if held_out := on_test_rows(board.entries[0]):
                    say(held_out)
            tables = [table for board in boards for table in leaderboard(board)]
            if by_condition := left_out(places):
                say(by_condition)
                tables = [by_condition, *tables]
            write_text(folder / "leaderboard.md", markdown(*tables))
            say(f"Sweep     {folder}/leaderboard.md")
        for failure in lost:
            say(f"Failed    {failure.method}: {failure.error}")
        if lost:
            sys.exit(f"error: {len(lost)} of the runs gave no score")


def on_test_rows(best: Entry) -> str | None:
    """How the best run scores on rows that chose no run, those of the split "test"; None if there are none.

    Of several seeds of one setting, it is the run of the first.
    """
    checkpoint = str(Path(best.result.method, "checkpoints/last.ckpt"))
    try:
        described = read_checkpoint(checkpoint)["datamodule_hyper_parameters"]
        data = build_data({**described, "val_split": "test", "jnd": None}, checkpoint)
        assert isinstance(data, ManifestDataModule)
        data.setup("validate")
    except (ValueError, OSError, KeyError):  # other data, or no such rows
        return None
    scores = score({"best": build(checkpoint)}, data.val_dataloader())
    return (
        f"Held out  {100 * scores['best']['mean']:.1f} % on {len(data.val_set):,} test triplets, which "
        f"chose no run"
    )


def _lenient(sweep: Callable[..., None]) -> Callable[..., None]:
    @functools.wraps(sweep)
    def search(*arguments: Any) -> None:
        try:
            sweep(*arguments)
        except ValueError as error:
            if str(error) != "No trials are completed yet.":
                raise

    return search
