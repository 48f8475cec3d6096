"""Read whatever a path holds: BAPPS folders, a manifest or NIGHTS."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from perceptual.data.kinds import JND, TWO_AFC, Kind
from perceptual.data.readers.csv_files import read_judged_manifest, read_pair_manifest
from perceptual.data.readers.folders import find_subsets, read_pair_folder, read_tree, subset_names
from perceptual.data.readers.nights import FILE, read_nights
from perceptual.data.readers.stores import is_store, read_store
from perceptual.data.table import Table
from perceptual.files.places import place, walk


def read_origin(path: str | Path) -> dict[str, Table]:
    """List the triplets and pairs of a BAPPS folder, a manifest or the folder of NIGHTS.

    Returns:
        `{"": table}`, or `{"2afc": triplets, "jnd": pairs}` for those of the two folders that a folder has.
        The subsets of a folder are named by their whole paths, such as "val/cnn".

    Raises:
        FileNotFoundError: there is nothing, or nothing of the kind.
        ValueError: it cannot be read, see `read_folder`, `read_manifest` and `read_nights`.
    """
    path = Path(path)
    if is_store(path):
        raise ValueError(f"{path} is a store already")
    if path.is_file():
        return {"": read_judged_manifest(path)}
    if not path.is_dir():
        raise FileNotFoundError(f"no file or folder {path}")
    if (path / FILE).is_file():
        return {"": read_nights(path)}
    halves = [kind for kind in (TWO_AFC, JND) if (path / kind.name).is_dir()]
    if halves:
        return {kind.name: _read_tree(kind, path / kind.name) for kind in halves}
    names = {name for _, below, _ in walk(path) for name in below}
    pairs = JND.on_disk in names and TWO_AFC.on_disk not in names
    return {"": _read_tree(JND if pairs else TWO_AFC, path)}


def read_pairs(root: Any, subsets: Sequence[str] | None = None) -> Table:
    """Read JND pairs from whatever holds them.

    Args:
        root: folder that holds `jnd/` with `<subset>/{p0,p1,same}`, or that folder itself; a CSV, see
            `read_pair_manifest`; or a store packed from one of them.
        subsets: paths of those to read, such as "val/cnn", named by the last part of each; None: all.

    Raises:
        FileNotFoundError, ValueError: folders and files that are missing, incomplete or cannot be used.
    """
    root = place(root)
    folder = root / JND.name if (root / JND.name).is_dir() else root
    if folder.is_dir() and not is_store(folder):
        return read_pair_folder(folder, subsets or find_subsets(JND, folder))
    table = read_store(JND, folder) if is_store(folder) else read_pair_manifest(folder)
    chosen = subsets or table.subsets
    return table.only(chosen, subset_names(chosen))


def _read_tree(kind: Kind, root: Path) -> Table:
    subsets = find_subsets(kind, root)
    return read_tree(kind, root, subsets, subsets)
