"""Estimates of the memory, arithmetic and step time of a run before it starts. They need no GPU."""
