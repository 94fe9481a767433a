"""A local Ray cluster with declared GPUs for all tests of this folder, and a process group of one process."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import ray
import torch
import torch.nn.functional as F


@pytest.fixture(scope="package")
def cluster() -> Iterator[None]:
    """Starts a cluster with twelve declared CPUs and eight declared GPUs, on which two runs fit at a time.

    It ends with the tests of this folder, because idle Ray processes also use CPU time.
    """
    ray.init(address="local", num_cpus=12, num_gpus=8, include_dashboard=False, object_store_memory=150 * 2**20)
    yield
    ray.shutdown()


@pytest.fixture(scope="module")
def one_rank() -> Iterator[None]:
    """Lets tests make a process group of this process alone, which is destroyed afterwards."""
    group = {"RANK": 0, "WORLD_SIZE": 1, "LOCAL_RANK": 0, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": 0}
    with pytest.MonkeyPatch.context() as patch, torch.random.fork_rng():
        for name, value in group.items():
            patch.setenv(name, str(value))
        patch.setattr(F, "linear", F.linear)  # ZeRO-3 replaces it, and later tests count calls of PyTorch's function
        yield
    from deepspeed.comm import comm  # noqa: PLC0415  # seconds to import, which most tests do not need
    from deepspeed.utils import groups  # noqa: PLC0415

    comm.destroy_process_group()
    groups._WORLD_GROUP = None  # otherwise DeepSpeed passes this old group to the next engine
