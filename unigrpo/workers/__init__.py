"""What a policy, a reference and a reward process do, as plain classes."""
