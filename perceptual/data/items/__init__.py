"""Judged items: their tables, the batches that models see, and how both are split and augmented."""
