"""Ground floor: files written whole, records checked, places, CSV cells, progress, and lines of messages."""
