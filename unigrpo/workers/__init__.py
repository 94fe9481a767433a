"""The work of a policy, a reference and a reward process, as plain classes."""
