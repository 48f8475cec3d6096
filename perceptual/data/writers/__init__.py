"""Write judged items to disk: packed stores, folders and manifests."""
