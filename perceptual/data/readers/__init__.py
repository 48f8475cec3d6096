"""Read judged items from disk: folders, CSV files, NIGHTS and packed stores."""
