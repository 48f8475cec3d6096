"""Sets of "which is closer?" in the files that their authors publish, as triplets; nothing is downloaded.

| name | answers | an answer says |
|---|---|---|
| `mucped23` | `answers.csv`: methodA, methodB, originalName, answerValue | which is *farther*, `A` or `B` |
| `clic` | `oracle.csv` or `validation.csv`, no header: original, A, B, answer | 0: A is closer, 1: B |
| `pieapp` | `labels/<split>/<ref>_pairwise_labels.csv` | the share that preferred A |
"""

import csv
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np

from perceptual.data.kinds import TWO_AFC
from perceptual.data.readers.columns import Columns, read_columns
from perceptual.data.readers.published import needed
from perceptual.data.table import Table, number_images
from perceptual.files.places import as_on_disk

ENDINGS = (".png", ".jpg", ".bmp")


def read_mucped23(root: str | Path) -> Table:
    """mucped23: `answers.csv` beside the folders of the methods and `originals`.

    Rows of one question are votes. `answerValue` is the image that looks farther from the original: mostly
    that of the lower quality, where two settings of one codec are compared.
    """
    root = Path(root)
    path = root / "answers.csv"
    needed("mucped23", path)
    columns = read_columns(path, ("methoda", "methodb", "originalname", "answervalue"), None)
    farther = columns.words("answervalue", ("A", "B"))
    cells = zip(*(columns.cells[name] for name in ("originalname", "methoda", "methodb")), strict=True)
    questions = [
        (f"originals/{name}", f"{first}/{name}", f"{second}/{name}") for name, first, second in cells
    ]
    return _triplets(root, questions, (farther == "A").astype(np.float32), "mucped23")


def read_clic(root: str | Path) -> Table:
    """CLIC's perceptual track: rows of original, A, B and 0 (A is closer) or 1, in the folder."""
    root = Path(root)
    path = next(
        (root / name for name in ("oracle.csv", "validation.csv") if (root / name).is_file()),
        root / "oracle.csv",
    )
    needed("clic", path)
    with path.open(newline="", encoding="utf-8-sig") as file:
        rows = [[cell.strip() for cell in row] for row in csv.reader(file) if any(row)]
    wrong = [i for i, row in enumerate(rows, 1) if len(row) != 4 or row[3] not in ("0", "1", "0.0", "1.0")]
    if wrong or not rows:
        raise ValueError(
            f"{path}: rows must be original, A, B and 0 or 1; {len(wrong)} of {len(rows)} are not"
            + (f", the first is line {wrong[0]}" if wrong else "")
        )
    questions = [(row[0], row[1], row[2]) for row in rows]
    return _triplets(root, questions, np.array([float(row[3]) for row in rows], np.float32), "clic")


def read_pieapp(root: str | Path) -> Table:
    """PieAPP: the pairwise labels of its three splits; comparisons with the reference itself are left out.

    The preference is the processed one where there is one (training), else the raw one.
    """
    root = Path(root)
    needed("pieapp", root / "labels")
    questions: list[tuple[str, str, str]] = []
    judgments: list[float] = []
    splits: list[str] = []
    for split in ("train", "val", "test"):
        for path in sorted((root / "labels" / split).glob("[!.]*_pairwise_labels.csv")):
            columns = read_columns(path, ("ref. image", "distorted image a", "distorted image b"), None)
            preferred = _preference(columns)
            of = path.name.removesuffix("_pairwise_labels.csv")
            cells = (columns.cells[n] for n in ("ref. image", "distorted image a", "distorted image b"))
            for (ref, first, second), share in zip(zip(*cells, strict=True), preferred.tolist(), strict=True):
                if ref not in (first, second):
                    questions.append(
                        (
                            f"reference_images/{split}/{ref}",
                            f"distorted_images/{split}/{of}/{first}",
                            f"distorted_images/{split}/{of}/{second}",
                        )
                    )
                    judgments.append(1 - share)
                    splits.append(split)
    table = _triplets(root, questions, np.array(judgments, np.float32), "pieapp", join=False)
    return replace(table, split=np.array(splits))


def _preference(columns: Columns) -> np.ndarray:
    """The share that preferred A, (N,)."""
    names = [name for name in columns.cells if "preference" in name]
    chosen = next((name for name in names if "processed" in name), names[0] if names else None)
    if chosen is None:
        raise ValueError(
            f"{columns.path}: no column with a preference for A; it has {', '.join(columns.cells)}"
        )
    return columns.numbers(chosen, 0, 1)


def _triplets(
    root: Path, questions: list[tuple[str, str, str]], judgment: np.ndarray, name: str, join: bool = True
) -> Table:
    """Triplets of questions by their files; with `join`, rows of one question are its votes."""
    if not questions:
        raise ValueError(f"{root} holds no answers of {name}")
    votes = None
    if join:
        place = {question: i for i, question in enumerate(dict.fromkeys(questions))}
        which = np.array([place[question] for question in questions])
        votes = np.bincount(which).astype(np.float32)
        judgment = (np.bincount(which, weights=judgment) / votes).astype(np.float32)
        questions = list(place)
    items, files = number_images(questions)
    return Table(
        kind=TWO_AFC,
        paths=as_on_disk(_file(root, path) for path in files),
        items=items,
        answer=judgment,
        subset=np.zeros(len(questions), np.int64),
        subsets=[name],
        votes=votes,
    )


def _file(root: Path, name: str) -> str:
    """The file of that name, or the one with one of `ENDINGS`; that it is missing is said as it is read."""
    path = root / name
    if path.suffix.lower() in ENDINGS:
        return str(path)
    found = (Path(f"{path}{ending}") for ending in ENDINGS)
    return str(next((candidate for candidate in found if candidate.is_file()), Path(f"{path}.png")))


ANSWERS: dict[str, Callable[[str | Path], Table]] = {
    "mucped23": read_mucped23,
    "clic": read_clic,
    "pieapp": read_pieapp,
}
