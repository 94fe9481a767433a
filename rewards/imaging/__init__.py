"""Shared parts of image rewards: images and prompts of a batch, weights, and the encoders."""
