"""Tests that share a Ray head. They form a package, so that the head ends with them."""
