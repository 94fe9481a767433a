"""How rewards are run: scoring that turns every failure into a missing value, and processes with deadlines."""
