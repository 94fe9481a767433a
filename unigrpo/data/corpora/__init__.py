"""Training data: many kinds of files -> shuffled, mixed samples -> rows, each a function of the position alone."""
