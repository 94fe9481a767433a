"""Tests that share a Ray cluster. They form a package, so that the cluster ends with them."""
