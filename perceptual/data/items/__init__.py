"""Judged items: tables, datasets and batches of triplets, pairs and opinions; splits and augmentation."""
