"""What a path given by a user holds: a BAPPS tree, a manifest, NIGHTS."""

import csv
from pathlib import Path

from perceptual.data.items.pairs import PairTable
from perceptual.data.items.table import Table
from perceptual.data.items.triplets import TripletTable
from perceptual.data.readers.csv_files import read_manifest, read_nights, read_pair_manifest
from perceptual.data.readers.folders import find_subsets, read_tree
from perceptual.data.readers.stores import is_store


def read_origin(path: str | Path) -> dict[str, Table]:
    """List the triplets and pairs of a BAPPS folder, a manifest or the folder of NIGHTS.

    Returns:
        `{"": table}`, or `{"2afc": triplets, "jnd": pairs}` for those of the two folders that a folder has.
        The subsets of a folder are named by their whole paths, such as "val/cnn".

    Raises:
        FileNotFoundError: if there is nothing, or nothing of the kind.
        ValueError: if it cannot be read, see `read_folder`, `read_manifest` and `read_nights`.
    """
    path = Path(path)
    if is_store(path):
        raise ValueError(f"{path} is a store already")
    if path.is_file():
        return {"": _read_csv(path)}
    if not path.is_dir():
        raise FileNotFoundError(f"no file or folder {path}")
    if (path / "data.csv").is_file():
        return {"": read_nights(path)}
    kinds = {"2afc": TripletTable, "jnd": PairTable}
    halves = {name: kind for name, kind in kinds.items() if (path / name).is_dir()}
    if halves:
        return {name: _read_tree(kind, path / name) for name, kind in halves.items()}
    pairs = not any(path.rglob(TripletTable.on_disk)) and any(path.rglob(PairTable.on_disk))
    return {"": _read_tree(PairTable if pairs else TripletTable, path)}


def _read_tree(kind: type[Table], root: Path) -> Table:
    subsets = find_subsets(kind, root)
    return read_tree(kind, root, subsets, subsets)


def _read_csv(path: Path) -> Table:
    with path.open(newline="", encoding="utf-8-sig", errors="replace") as file:
        header = [name.strip() for name in next(csv.reader(file), [])]
    return read_pair_manifest(path) if PairTable.on_disk in header else read_manifest(path)
