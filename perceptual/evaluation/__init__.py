"""Preference → score: many distances on the same judgments, side by side."""
