"""Read whatever a path holds: BAPPS folders, a manifest or NIGHTS."""

from pathlib import Path

from perceptual.data.items.pairs import PairTable
from perceptual.data.items.table import Table
from perceptual.data.items.triplets import TripletTable
from perceptual.data.places import walk
from perceptual.data.readers.csv_files import read_judged_manifest
from perceptual.data.readers.folders import find_subsets, read_tree
from perceptual.data.readers.nights import FILE, read_nights
from perceptual.data.readers.stores import is_store


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
    kinds = {"2afc": TripletTable, "jnd": PairTable}
    halves = {name: kind for name, kind in kinds.items() if (path / name).is_dir()}
    if halves:
        return {name: _read_tree(kind, path / name) for name, kind in halves.items()}
    names = {name for _, below, _ in walk(path) for name in below}
    pairs = PairTable.on_disk in names and TripletTable.on_disk not in names
    return {"": _read_tree(PairTable if pairs else TripletTable, path)}


def _read_tree(kind: type[Table], root: Path) -> Table:
    subsets = find_subsets(kind, root)
    return read_tree(kind, root, subsets, subsets)
