"""Tests that share a Ray cluster; as a package, so that the cluster ends with them."""
