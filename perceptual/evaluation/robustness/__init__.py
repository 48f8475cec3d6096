"""Robustness of distances: other conditions, slight changes and attacks."""
