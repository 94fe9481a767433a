"""Tests that share a Ray head; as a package, so that the head ends with them."""
