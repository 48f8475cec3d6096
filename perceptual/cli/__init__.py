"""The `perceptual` command."""
