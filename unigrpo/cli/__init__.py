"""The commands: their flags and config files, their output, and their exit status."""
