"""Triplets and pairs that people judged: reading, checking, packing, splitting and batching them."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from perceptual.data.bapps import BAPPSDataModule as BAPPSDataModule
    from perceptual.data.datamodules import TwoAFCDataModule as TwoAFCDataModule
    from perceptual.data.dmos import OpinionDataModule as OpinionDataModule
    from perceptual.data.folders import read_folder as read_folder
    from perceptual.data.folders import read_pair_folder as read_pair_folder
    from perceptual.data.jnd import JNDDataModule as JNDDataModule
    from perceptual.data.manifest import ManifestDataModule as ManifestDataModule
    from perceptual.data.manifests import read_manifest as read_manifest
    from perceptual.data.manifests import read_nights as read_nights
    from perceptual.data.manifests import read_opinion_manifest as read_opinion_manifest
    from perceptual.data.manifests import read_pair_manifest as read_pair_manifest
    from perceptual.data.opinions import OpinionBatch as OpinionBatch
    from perceptual.data.opinions import OpinionDataset as OpinionDataset
    from perceptual.data.opinions import OpinionTable as OpinionTable
    from perceptual.data.packing import pack as pack
    from perceptual.data.pairs import PairBatch as PairBatch
    from perceptual.data.pairs import PairDataset as PairDataset
    from perceptual.data.pairs import PairTable as PairTable
    from perceptual.data.photos import PhotosDataModule as PhotosDataModule
    from perceptual.data.store import read_store as read_store
    from perceptual.data.triplets import SharedTripletBatch as SharedTripletBatch
    from perceptual.data.triplets import TripletBatch as TripletBatch
    from perceptual.data.triplets import TripletDataset as TripletDataset
    from perceptual.data.triplets import TripletTable as TripletTable

# imported when asked for: a worker process that only decodes files needs neither torch nor Lightning
_HOMES = {
    "BAPPSDataModule": "bapps",
    "JNDDataModule": "jnd",
    "ManifestDataModule": "manifest",
    "OpinionBatch": "opinions",
    "OpinionDataModule": "dmos",
    "OpinionDataset": "opinions",
    "OpinionTable": "opinions",
    "PairBatch": "pairs",
    "PairDataset": "pairs",
    "PairTable": "pairs",
    "PhotosDataModule": "photos",
    "SharedTripletBatch": "triplets",
    "TripletBatch": "triplets",
    "TripletDataset": "triplets",
    "TripletTable": "triplets",
    "TwoAFCDataModule": "datamodules",
    "pack": "packing",
    "read_folder": "folders",
    "read_manifest": "manifests",
    "read_nights": "manifests",
    "read_opinion_manifest": "manifests",
    "read_pair_folder": "folders",
    "read_pair_manifest": "manifests",
    "read_store": "store",
}
__all__ = list(_HOMES)


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)


def __dir__() -> list[str]:
    return [*globals(), *_HOMES]
