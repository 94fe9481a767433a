"""The files of a run: its directory, checkpoints, metrics, image grids and report."""
