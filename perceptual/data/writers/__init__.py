"""Judged items to disk: packed stores, folders and manifests."""
