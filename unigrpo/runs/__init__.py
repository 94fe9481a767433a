"""What a run writes: its directory, checkpoints, metrics, image grids and report."""
