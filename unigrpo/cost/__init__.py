"""Estimates of a run before it starts: memory, arithmetic and seconds of a step. No GPU is needed."""
