"""LightningDataModules, one per kind of source."""
