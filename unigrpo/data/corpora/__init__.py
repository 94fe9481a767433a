"""Training data: shuffled and mixed samples from many kinds of files, and their rows, as functions of the position."""
