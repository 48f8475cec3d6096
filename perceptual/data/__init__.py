"""Images that people judged, as triplets, pairs, trios and opinions: read, packed, split and batched."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from perceptual.data.batch import Batch as Batch
    from perceptual.data.batch import JudgedDataset as JudgedDataset
    from perceptual.data.kinds import JND as JND
    from perceptual.data.kinds import ODD_ONE_OUT as ODD_ONE_OUT
    from perceptual.data.kinds import OPINION as OPINION
    from perceptual.data.kinds import TWO_AFC as TWO_AFC
    from perceptual.data.kinds import Kind as Kind
    from perceptual.data.module import JudgedDataModule as JudgedDataModule
    from perceptual.data.modules import BAPPSDataModule as BAPPSDataModule
    from perceptual.data.modules import JNDDataModule as JNDDataModule
    from perceptual.data.modules import ManifestDataModule as ManifestDataModule
    from perceptual.data.modules import OddOneOutDataModule as OddOneOutDataModule
    from perceptual.data.modules import OpinionDataModule as OpinionDataModule
    from perceptual.data.modules import ParquetDataModule as ParquetDataModule
    from perceptual.data.modules import PhotosDataModule as PhotosDataModule
    from perceptual.data.readers.folders import read_folder as read_folder
    from perceptual.data.readers.manifests import read_manifest as read_manifest
    from perceptual.data.readers.manifests import read_opinion_manifest as read_opinion_manifest
    from perceptual.data.readers.published import read_nights as read_nights
    from perceptual.data.readers.stores import read_store as read_store
    from perceptual.data.table import Table as Table
    from perceptual.data.writers.stores import pack as pack

# imported on first use: a worker process that only decodes files needs neither torch nor Lightning
_HOMES = {
    "BAPPSDataModule": "modules",
    "Batch": "batch",
    "JND": "kinds",
    "JNDDataModule": "modules",
    "JudgedDataModule": "module",
    "JudgedDataset": "batch",
    "Kind": "kinds",
    "ManifestDataModule": "modules",
    "ODD_ONE_OUT": "kinds",
    "OPINION": "kinds",
    "OddOneOutDataModule": "modules",
    "OpinionDataModule": "modules",
    "ParquetDataModule": "modules",
    "PhotosDataModule": "modules",
    "TWO_AFC": "kinds",
    "Table": "table",
    "pack": "writers.stores",
    "read_folder": "readers.folders",
    "read_manifest": "readers.manifests",
    "read_nights": "readers.published",
    "read_opinion_manifest": "readers.manifests",
    "read_store": "readers.stores",
}
__all__ = list(_HOMES)


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)


def __dir__() -> list[str]:
    return [*globals(), *_HOMES]
