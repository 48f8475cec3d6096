"""Triplets that people judged: reading, checking, splitting and batching them."""

from perceptual.data.datamodules import (
    BAPPSDataModule,
    ManifestDataModule,
    PhotosDataModule,
    TwoAFCDataModule,
)
from perceptual.data.layouts import read_folder, read_manifest
from perceptual.data.triplets import TripletBatch, TripletDataset, TripletTable

__all__ = [
    "BAPPSDataModule",
    "ManifestDataModule",
    "PhotosDataModule",
    "TripletBatch",
    "TripletDataset",
    "TripletTable",
    "TwoAFCDataModule",
    "read_folder",
    "read_manifest",
]
