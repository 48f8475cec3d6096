"""Judged items without people: distortions, photographs and a simulated observer."""
