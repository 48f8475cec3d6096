"""Write tables with images in memory as files: BAPPS folders, or a manifest for people to fill in."""

import csv
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from PIL import Image

from perceptual.data.items.table import Table


def write_folder(table: Table, dst: str | Path) -> None:
    """Write `<dst>/<subset>/<role>/NNNNNN.png` and the answers as `.npy`, the layout of BAPPS.

    Raises:
        ValueError: `dst` exists.
    """
    with _new_folder(Path(dst)) as folder:
        for name, rows in _rows_by_subset(table):
            for role in table.roles:
                _write_images(table, role, rows, folder / name / role)
            answers = folder / name / table.on_disk
            answers.mkdir()
            for number, answer in enumerate(getattr(table, table.answer)[rows]):
                np.save(answers / f"{number:06}.npy", np.array([answer], np.float32))


def write_unjudged(table: Table, dst: str | Path) -> None:
    """Write `<dst>/<role>/NNNNNN.png` and a manifest, `<dst>/manifest.csv`, with empty answers.

    Raises:
        ValueError: `dst` exists.
    """
    with _new_folder(Path(dst)) as folder:
        for role in table.roles:
            _write_images(table, role, np.arange(len(table)), folder / role)
        with (folder / "manifest.csv").open("w", newline="", encoding="utf-8") as file:
            rows = csv.writer(file, lineterminator="\n")
            rows.writerow([*table.roles, table.on_disk, "subset"])
            for number, subset in enumerate(table.subset):
                images = [f"{role}/{number:06}.png" for role in table.roles]
                rows.writerow([*images, "", table.subsets[subset]])


def _rows_by_subset(table: Table) -> Iterator[tuple[str, np.ndarray]]:
    for number, name in enumerate(table.subsets):
        rows = np.flatnonzero(table.subset == number)
        if len(rows):
            yield name, rows


def _write_images(table: Table, role: str, rows: np.ndarray, folder: Path) -> None:
    folder.mkdir(parents=True)
    pixels = np.asarray(table.images)
    for number, image in enumerate(getattr(table, role)[rows]):
        Image.fromarray(pixels[image].transpose(1, 2, 0)).save(folder / f"{number:06}.png")


def refuse_existing(dst: str | Path) -> None:
    """Raise ValueError if there is such a file or folder."""
    if Path(dst).exists():
        raise ValueError(f"{dst} exists already; remove it or choose another place")


@contextmanager
def _new_folder(dst: Path) -> Iterator[Path]:
    """A folder to fill, which is renamed to `dst` at the end."""
    refuse_existing(dst)
    partial = dst.with_name(dst.name + ".partial")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    yield partial
    os.replace(partial, dst)
