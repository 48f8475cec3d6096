"""Write tables with open images as files: BAPPS folders, or a manifest for people to fill in."""

import io
import os
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from PIL import Image

from perceptual.data.images import Images
from perceptual.data.readers.folders import MADE
from perceptual.data.table import Table
from perceptual.data.workers import all_done
from perceptual.files import csv_cells
from perceptual.files.writing import refuse_existing, whole_folder

FORMS = ("folder", "unjudged")
FAST = 3  # of zlib: of patches, two thirds of the default level's time, and files no larger
_CHUNK = 256  # images per task

Files = list[tuple[str, int]]  # path of each file, and the image it holds


def write_new(table: Table, dst: str | Path, form: str) -> None:
    """Write a table, over open images, into a new folder; see `write_files`.

    Raises:
        ValueError: `dst` exists.
    """
    refuse_existing(dst)
    with whole_folder(Path(dst)) as folder:
        write_files(table, folder, form, workers=1)


def write_files(table: Table, folder: Path, form: str, workers: int) -> None:
    """Write a table, over open images, into a folder; files that an earlier run left there are kept.

    Args:
        table: the items.
        folder: where the files go.
        form: `folder`, the layout of BAPPS, `<subset>/<role>/NNNNNN.png` and the answers as `.npy`, where
            NNNNNN is the number of the item in the table, and `<subset>/made.csv` says what was done to
            synthetic ones; or `unjudged`, `<role>/NNNNNN.png` and `manifest.csv` with empty answers.
        workers: processes to write them in, where the images are those of a store.
    """
    files: list[Files] = []
    for name, rows in _rows_by_subset(table) if form == "folder" else [("", np.arange(len(table)))]:
        for role in table.kind.roles:
            place = folder / name / role
            place.mkdir(parents=True, exist_ok=True)
            images = table.role(role)[rows].tolist()
            paths = [str(place / f"{row:06}.png") for row in rows]
            listed = list(zip(paths, images, strict=True))
            files += [listed[start : start + _CHUNK] for start in range(0, len(listed), _CHUNK)]
    tasks = [(table.images, part) for part in files]
    shared = table.images.folder is not None
    all_done(_write_images, tasks, workers if shared else 1, "Writing images")
    if form == "folder":
        _write_answers(table, folder)
    else:
        _write_manifest(table, folder / "manifest.csv")


def _write_answers(table: Table, folder: Path) -> None:
    for name, rows in _rows_by_subset(table):
        answers = folder / name / table.kind.on_disk
        answers.mkdir(exist_ok=True)
        for row, answer in zip(rows, table.answer[rows], strict=True):
            np.save(answers / f"{row:06}.npy", np.array(answer, np.float32, ndmin=1))
        if table.made is not None:
            made = ((f"{row:06}", table.made[row].decode()) for row in rows)
            csv_cells.write_file(folder / name / MADE, ["stem", "made"], made)


def _write_manifest(table: Table, path: Path) -> None:
    columns = [*table.kind.roles, *table.kind.cells, "subset"]
    rows = [
        [
            *(f"{role}/{row:06}.png" for role in table.kind.roles),
            *[""] * len(table.kind.cells),
            table.subsets[subset],
        ]
        for row, subset in enumerate(table.subset)
    ]
    if table.made is not None:
        columns.append("made")
        rows = [[*row, made.decode()] for row, made in zip(rows, table.made, strict=True)]
    csv_cells.write_file(path, columns, rows)


def _rows_by_subset(table: Table) -> Iterator[tuple[str, np.ndarray]]:
    for number, name in enumerate(table.subsets):
        rows = np.flatnonzero(table.subset == number)
        if len(rows):
            yield name, rows


def _write_images(images: Images, files: Files) -> None:
    missing = [(path, image) for path, image in files if not os.path.exists(path)]
    if not missing:
        return
    for path, number in missing:
        encoded, image = io.BytesIO(), images.one(number).numpy()
        Image.fromarray(np.ascontiguousarray(image.transpose(1, 2, 0))).save(
            encoded, "PNG", compress_level=FAST
        )
        Path(f"{path}.partial").write_bytes(encoded.getvalue())
        os.replace(f"{path}.partial", path)  # a file that is there is whole
