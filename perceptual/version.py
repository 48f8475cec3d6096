"""The version, below all that says it."""

__version__ = "0.2.0.dev0"
