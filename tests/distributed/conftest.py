"""A local Ray cluster with declared GPUs, one for all tests of this folder."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import ray


@pytest.fixture(scope="session")
def cluster() -> Iterator[None]:
    """Twelve CPUs and eight GPUs as far as Ray is told: two runs fit at a time."""
    ray.init(address="local", num_cpus=12, num_gpus=8, include_dashboard=False, object_store_memory=150 * 2**20)
    yield
    ray.shutdown()
