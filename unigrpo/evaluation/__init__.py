"""Held-out measurements with the graders of training."""
