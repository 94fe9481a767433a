"""One optimizer step of each kind, in one process."""
