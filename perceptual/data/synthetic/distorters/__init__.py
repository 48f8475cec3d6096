"""Distortions by convolutional networks: small denoising autoencoders drawn at random (Zhang et al. 2018)."""
