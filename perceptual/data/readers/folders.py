"""Triplets and pairs in the folders of BAPPS: one per role, with files joined by their stems."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from perceptual.data.kinds import JND, TWO_AFC, Kind
from perceptual.data.readers.columns import read_columns
from perceptual.data.table import Table
from perceptual.files.messages import first_few
from perceptual.files.places import listed, nfc, walk

MADE = "made.csv"  # in a subset: what was done to synthetic items, by stem


def read_folder(root: str | Path, subsets: Sequence[str]) -> Table:
    """List `<root>/<subset>/{ref,p0,p1}/STEM.png` with `judge/STEM.npy`, joined by stem.

    Args:
        root: folder that holds the subsets.
        subsets: their paths, such as "val/cnn"; a subset is named by the last part, "cnn".

    Raises:
        FileNotFoundError: the root, a subset or one of its four folders is missing.
        ValueError: a folder is empty, a stem is not in all four, or a judgment is not one number in [0, 1].
    """
    return read_tree(TWO_AFC, root, subsets, subset_names(subsets))


def read_pair_folder(root: str | Path, subsets: Sequence[str]) -> Table:
    """List `<root>/<subset>/{p0,p1}/STEM.png` with `same/STEM.npy`; otherwise as `read_folder`."""
    return read_tree(JND, root, subsets, subset_names(subsets))


def read_tree(kind: Kind, root: str | Path, subsets: Sequence[str], names: list[str]) -> Table:
    """Table of the items of several subsets, under the given names; raises as `read_folder`."""
    parts = [_read_subset(kind, Path(root) / subset) for subset in subsets]
    counts = [len(answers) for _, answers in parts]
    paths = [path for role in range(len(kind.roles)) for files, _ in parts for path in files[role]]
    return Table(
        kind=kind,
        paths=paths,
        items=np.arange(len(paths)).reshape(len(kind.roles), -1),
        answer=np.concatenate([answers for _, answers in parts]),
        subset=np.repeat(np.arange(len(names)), counts),
        subsets=names,
        made=_read_made(root, subsets, [files[0] for files, _ in parts]),
    )


def find_subsets(kind: Kind, root: str | Path) -> list[str]:
    """Paths, below the root, of the folders that hold one of the answers of such items, sorted.

    Raises:
        FileNotFoundError: there is none.
    """
    found = []
    for folder, below, _ in walk(root) if Path(root).is_dir() else ():
        if kind.on_disk in below:
            found.append(folder.relative_to(root).as_posix())
            below.clear()  # not into the folders of the images
    if not found:
        folders = ", ".join((*kind.roles, kind.on_disk))
        raise FileNotFoundError(f"no folder with {folders} in {root}; {_around(Path(root))}")
    return sorted(found)


def subset_names(subsets: Sequence[str]) -> list[str]:
    """The last parts of the subsets' paths; raises ValueError if there are none or two are the same."""
    names = [] if isinstance(subsets, str) else [Path(subset).name for subset in subsets]
    if not names or len(set(names)) < len(names):
        raise ValueError(f"subsets must be a list of folders whose names differ, got {subsets!r}")
    return names


def _read_subset(kind: Kind, folder: Path) -> tuple[list[list[str]], np.ndarray]:
    """Files of each role in the order of the stems, and the answers."""
    folders = (*kind.roles, kind.on_disk)
    by_stem = {role: _files_by_stem(folder, role) for role in folders}
    stems = sorted(set().union(*by_stem.values()))
    if not stems:
        raise ValueError(f"{folder} is empty: no file in any of {', '.join(folders)}")
    gaps = [
        f"{stem} (not in {', '.join(absent)})"
        for stem in stems
        if (absent := [role for role in folders if stem not in by_stem[role]])
    ]
    if gaps:
        counts = ", ".join(f"{len(files):,} in {role}" for role, files in by_stem.items())
        raise ValueError(
            f"{folder}: {len(gaps):,} of {len(stems):,} stems are incomplete ({counts}): {first_few(gaps)}"
        )
    *images, answers = ([by_stem[role][stem] for stem in stems] for role in folders)
    return images, _read_answers(kind.answer, answers)


def _read_made(root: str | Path, subsets: Sequence[str], files: list[list[str]]) -> np.ndarray | None:
    """What was done to synthetic items, of `made.csv` in each subset; None where one has no such file."""
    found: list[bytes] = []
    for subset, paths in zip(subsets, files, strict=True):
        file = Path(root) / subset / MADE
        if not file.is_file():
            return None
        columns = read_columns(file, ("stem", "made"), ())
        of_stem = dict(zip(map(nfc, columns.cells["stem"]), columns.cells["made"], strict=True))
        stems = [nfc(Path(path).stem) for path in paths]
        if absent := [stem for stem in stems if stem not in of_stem]:
            raise ValueError(f"{file} lacks {len(absent):,} of {len(paths):,} stems: {first_few(absent)}")
        found += [of_stem[stem].encode() for stem in stems]
    return np.array(found)


def _files_by_stem(folder: Path, role: str) -> dict[str, str]:
    if not (folder / role).is_dir():
        raise FileNotFoundError(f"no folder {folder / role}; {_around(folder)}")
    paths = [entry.path for entry in listed(folder / role)]
    files = {nfc(Path(path).stem): path for path in paths}
    if len(files) < len(paths):
        repeated = sorted(set(paths) - set(files.values()))
        raise ValueError(f"{folder / role}: {len(repeated):,} stems occur twice: {first_few(repeated)}")
    return files


def _around(folder: Path) -> str:
    """What a folder, or the nearest one that exists, holds, for messages about what it lacks."""
    around = next(path for path in (folder, *folder.parents) if path.is_dir())
    there = first_few(sorted(entry.name for entry in around.iterdir())) or "nothing"
    return f"{around} holds {there}"


def _read_answers(name: str, paths: list[str]) -> np.ndarray:
    answers = np.full(len(paths), np.nan, np.float32)
    for row, path in enumerate(paths):
        try:
            answer = np.load(path, allow_pickle=False)
            if answer.dtype.kind in "fiub":  # astype would take numbers written as text
                answers[row] = answer.astype(np.float32).item()
        except (ValueError, EOFError, OSError, AttributeError):  # text, pickles, empty files, arrays, .npz
            continue
    wrong = ~((answers >= 0) & (answers <= 1))
    if wrong.any():
        raise ValueError(
            f"{wrong.sum():,} of {len(paths):,} {name} files are not one number in [0, 1]: "
            + first_few(f"{paths[row]} ({answers[row]:g})" for row in np.flatnonzero(wrong))
        )
    return answers
