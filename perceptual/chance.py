"""How much is said of chance, wherever numbers have intervals: needs neither PyTorch nor any other room."""

LEVEL = 0.95
"""Of all intervals."""
FEWEST = 5
"""Images that a correlation, or references that an interval, says something about."""
