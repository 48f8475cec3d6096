"""Images that people judged, as triplets, pairs and opinions: read, checked, packed, split and batched."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from perceptual.data.items.opinions import OpinionBatch as OpinionBatch
    from perceptual.data.items.opinions import OpinionDataset as OpinionDataset
    from perceptual.data.items.opinions import OpinionTable as OpinionTable
    from perceptual.data.items.pairs import PairBatch as PairBatch
    from perceptual.data.items.pairs import PairDataset as PairDataset
    from perceptual.data.items.pairs import PairTable as PairTable
    from perceptual.data.items.triplets import SharedTripletBatch as SharedTripletBatch
    from perceptual.data.items.triplets import TripletBatch as TripletBatch
    from perceptual.data.items.triplets import TripletDataset as TripletDataset
    from perceptual.data.items.triplets import TripletTable as TripletTable
    from perceptual.data.modules.bapps import BAPPSDataModule as BAPPSDataModule
    from perceptual.data.modules.jnd import JNDDataModule as JNDDataModule
    from perceptual.data.modules.manifest import ManifestDataModule as ManifestDataModule
    from perceptual.data.modules.opinions import OpinionDataModule as OpinionDataModule
    from perceptual.data.modules.photos import PhotosDataModule as PhotosDataModule
    from perceptual.data.modules.two_afc import TwoAFCDataModule as TwoAFCDataModule
    from perceptual.data.readers.csv_files import read_manifest as read_manifest
    from perceptual.data.readers.csv_files import read_opinion_manifest as read_opinion_manifest
    from perceptual.data.readers.csv_files import read_pair_manifest as read_pair_manifest
    from perceptual.data.readers.folders import read_folder as read_folder
    from perceptual.data.readers.folders import read_pair_folder as read_pair_folder
    from perceptual.data.readers.nights import read_nights as read_nights
    from perceptual.data.readers.stores import read_store as read_store
    from perceptual.data.writers.stores import pack as pack

# imported on first use: a worker process that only decodes files needs neither torch nor Lightning
_HOMES = {
    "BAPPSDataModule": "modules.bapps",
    "JNDDataModule": "modules.jnd",
    "ManifestDataModule": "modules.manifest",
    "OpinionBatch": "items.opinions",
    "OpinionDataModule": "modules.opinions",
    "OpinionDataset": "items.opinions",
    "OpinionTable": "items.opinions",
    "PairBatch": "items.pairs",
    "PairDataset": "items.pairs",
    "PairTable": "items.pairs",
    "PhotosDataModule": "modules.photos",
    "SharedTripletBatch": "items.triplets",
    "TripletBatch": "items.triplets",
    "TripletDataset": "items.triplets",
    "TripletTable": "items.triplets",
    "TwoAFCDataModule": "modules.two_afc",
    "pack": "writers.stores",
    "read_folder": "readers.folders",
    "read_manifest": "readers.csv_files",
    "read_nights": "readers.nights",
    "read_opinion_manifest": "readers.csv_files",
    "read_pair_folder": "readers.folders",
    "read_pair_manifest": "readers.csv_files",
    "read_store": "readers.stores",
}
__all__ = list(_HOMES)


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)


def __dir__() -> list[str]:
    return [*globals(), *_HOMES]
