"""Distances as folders, here or on the Hugging Face hub, with a model card."""
