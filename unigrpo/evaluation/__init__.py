"""Measurements on held-out data with the rewards of training."""
