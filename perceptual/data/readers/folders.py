"""Triplets, pairs and trios in the folders of BAPPS: one per role, with files joined by their stems."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from perceptual.data.kinds import JND, SHARES, TWO_AFC, Kind
from perceptual.data.readers.columns import read_columns, read_header
from perceptual.data.readers.manifests import read_manifest
from perceptual.data.readers.parquet import is_parquet, read_parquet
from perceptual.data.readers.published import NIGHTS, read_nights
from perceptual.data.readers.stores import is_store, read_store
from perceptual.data.table import Table, no_shares
from perceptual.files.messages import first_few
from perceptual.files.places import listed, nfc, place, walk

MADE = "made.csv"  # in a subset: what was done to synthetic items, by stem


def read_folder(
    root: str | Path, subsets: Sequence[str], kind: Kind = TWO_AFC, names: list[str] | None = None
) -> Table:
    """List `<root>/<subset>/{ref,p0,p1}/STEM.png` with `judge/STEM.npy`, joined by stem.

    Args:
        root: folder that holds the subsets.
        subsets: their paths, such as "val/cnn".
        kind: of the items: its roles and its answer name the folders of a subset.
        names: of the subsets; None: the last parts of their paths, "cnn".

    Raises:
        FileNotFoundError: the root, a subset or one of its folders is missing.
        ValueError: a folder is empty, a stem is not in all of them, or an answer is not one number in
            [0, 1]; of trios, three that sum to 1.
    """
    names = subset_names(subsets) if names is None else names
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
    """Return the last parts of the subsets' paths; raises ValueError if there are none or two are alike."""
    names = [] if isinstance(subsets, str) else [Path(subset).name for subset in subsets]
    if not names or len(set(names)) < len(names):
        raise ValueError(f"subsets must be a list of folders whose names differ, got {subsets!r}")
    return names


def join_stems(files: Mapping[str, Mapping[str, str]], where: object) -> dict[str, list[str]]:
    """Files by their stems, in the order of the folders.

    Args:
        files: of each folder, the files by stem.
        where: for the message.

    Raises:
        ValueError: a stem is not in all folders.
    """
    stems = sorted(set().union(*files.values()))
    gaps = [
        f"{stem} (not in {', '.join(absent)})"
        for stem in stems
        if (absent := [folder for folder, found in files.items() if stem not in found])
    ]
    if gaps:
        counts = ", ".join(f"{len(found):,} in {folder}" for folder, found in files.items())
        raise ValueError(
            f"{where}: {len(gaps):,} of {len(stems):,} stems are incomplete ({counts}): {first_few(gaps)}"
        )
    return {stem: [found[stem] for found in files.values()] for stem in stems}


def _read_subset(kind: Kind, folder: Path) -> tuple[list[list[str]], np.ndarray]:
    """Files of each role in the order of the stems, and the answers."""
    folders = (*kind.roles, kind.on_disk)
    joined = join_stems({role: _files_by_stem(folder, role) for role in folders}, folder)
    if not joined:
        raise ValueError(f"{folder} is empty: no file in any of {', '.join(folders)}")
    *images, answers = map(list, zip(*joined.values(), strict=True))
    return images, _read_answers(kind, answers)


def _read_made(root: str | Path, subsets: Sequence[str], files: list[list[str]]) -> np.ndarray | None:
    """Read what was done to synthetic items from `made.csv` in each subset; None if one has no such file."""
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
    """Say what a folder, or the nearest one that exists, holds, for messages about what is missing."""
    around = next(path for path in (folder, *folder.parents) if path.is_dir())
    there = first_few(sorted(entry.name for entry in around.iterdir())) or "nothing"
    return f"{around} holds {there}"


def _read_answers(kind: Kind, paths: list[str]) -> np.ndarray:
    answers = np.full((len(paths), *kind.shape), np.nan, np.float32)
    for row, path in enumerate(paths):
        try:
            answer = np.load(path, allow_pickle=False)
            if answer.dtype.kind in "fiub":  # astype would take numbers written as text
                answers[row] = answer.astype(np.float32).reshape(kind.shape)
        except (ValueError, EOFError, OSError, AttributeError):  # text, pickles, empty files, arrays, .npz
            continue
    inside = (answers >= 0) & (answers <= 1)
    wrong, allowed = ~inside, "one number in [0, 1]"
    if kind.by_role:
        wrong = ~inside.all(1) | no_shares(answers)
        allowed = f"{len(kind.roles)} numbers in [0, 1] that sum to 1"
    if wrong.any():
        raise ValueError(
            f"{wrong.sum():,} of {len(paths):,} {kind.answer} files are not {allowed}: "
            + first_few(f"{paths[row]} ({_shown(answers[row])})" for row in np.flatnonzero(wrong))
        )
    return answers


def _shown(answer: np.ndarray) -> str:
    return ", ".join(f"{number:g}" for number in answer.ravel())


def read_origin(path: str | Path) -> dict[str, Table]:
    """List the triplets, pairs and trios of a BAPPS folder, a manifest or the folder of NIGHTS.

    Returns:
        `{"": table}`, or `{"2afc": triplets, "jnd": pairs, "odd-one-out": trios}` for those of these folders
        that a folder has.
        The subsets of a folder are named by their whole paths, such as "val/cnn".

    Raises:
        FileNotFoundError: there is nothing, or nothing of the kind.
        ValueError: it cannot be read, see `read_folder`, `read_manifest` and `read_nights`.
    """
    path = Path(path)
    if is_store(path):
        raise ValueError(f"{path} is a store already")
    if path.is_file():
        header = set(read_header(path))
        return {"": read_manifest(path, next((kind for kind in SHARES if header >= {*kind.cells}), TWO_AFC))}
    if not path.is_dir():
        raise FileNotFoundError(f"no file or folder {path}")
    if (path / NIGHTS).is_file():
        return {"": read_nights(path)}
    halves = [kind for kind in SHARES if (path / kind.name).is_dir()]
    if halves:
        return {kind.name: _read_all(kind, path / kind.name) for kind in halves}
    names = {name for _, below, _ in walk(path) for name in below}
    return {"": _read_all(next((kind for kind in SHARES if kind.on_disk in names), TWO_AFC), path)}


def read_pairs(
    root: Any, subsets: Sequence[str] | None = None, columns: Mapping[str, str] | None = None
) -> Table:
    """Read JND pairs from whatever holds them.

    Args:
        root: folder that holds `jnd/` with `<subset>/{p0,p1,same}`, or that folder itself; a CSV, see
            `read_manifest`; Parquet files, see `read_parquet`; or a store packed from one of them.
        subsets: paths of those to read, such as "val/cnn", named by the last part of each; None: all.
        columns: of Parquet files, names of columns that differ from ours.

    Raises:
        FileNotFoundError, ValueError: folders and files that are missing, incomplete or cannot be used.
    """
    return read_judged(JND, root, columns, subsets)


def read_judged(
    kind: Kind,
    root: Any,
    columns: Mapping[str, str] | None = None,
    subsets: Sequence[str] | None = None,
) -> Table:
    """Read items of one kind from whatever holds them, as `read_pairs` does."""
    if is_parquet(str(root)):
        table = read_parquet(str(root), columns, kind)
    else:
        if columns:
            raise ValueError(f"data.columns names columns of Parquet files, and {root} is none")
        root = place(root)
        folder = root / kind.name if (root / kind.name).is_dir() else root
        if folder.is_dir() and not is_store(folder):
            return read_folder(folder, subsets or find_subsets(kind, folder), kind)
        table = read_store(folder, kind) if is_store(folder) else read_manifest(folder, kind)
    chosen = subsets or table.subsets
    return table.only(chosen, subset_names(chosen))


def _read_all(kind: Kind, root: Path) -> Table:
    subsets = find_subsets(kind, root)
    return read_folder(root, subsets, kind, subsets)
