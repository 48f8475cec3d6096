"""LightningDataModules, one for each kind of source."""
