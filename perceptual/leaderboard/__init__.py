"""Scores of many distances on the same judgments, side by side."""

from perceptual.leaderboard.board import Board, Entry, make
from perceptual.leaderboard.results import DataResults, find
from perceptual.leaderboard.score import measure, score
from perceptual.leaderboard.tables import best_setting, html_page, markdown, table, tables

__all__ = [
    "Board",
    "DataResults",
    "Entry",
    "best_setting",
    "find",
    "html_page",
    "make",
    "markdown",
    "measure",
    "score",
    "table",
    "tables",
]
