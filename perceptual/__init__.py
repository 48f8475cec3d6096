"""perceptual: how different two images look to a person."""

__version__ = "0.1.0"
