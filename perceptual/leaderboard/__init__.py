"""Scores of many distances on the same judgments, side by side."""

from perceptual.leaderboard.score import score
from perceptual.leaderboard.tables import table

__all__ = ["score", "table"]
