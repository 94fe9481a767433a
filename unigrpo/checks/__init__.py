"""Checks of everything that can be wrong with a run before it starts."""
