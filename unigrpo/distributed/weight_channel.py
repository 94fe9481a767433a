"""Sending of the policy's weights to the rollout workers: a broadcast with NCCL on GPUs and gloo on CPUs."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import ray
import torch
import torch.distributed
from jaxtyping import Shaped
from ray.exceptions import RayError
from torch import Tensor

from unigrpo.distributed.ray_group import RayGroup, WorkerFailed, cause_of

c10d: Any = torch.distributed  # which exports its stores and groups without saying so to type checkers

JOIN_TIME = timedelta(seconds=120)
"""Longest time that the processes wait for each other."""


class Broadcast:
    """A process group beside the one in which the policy's ranks train. Rank 0 sends."""

    def __init__(self, store: Any, rank: int, size: int, device: torch.device) -> None:
        """Waits for all ``size`` processes."""
        kind = c10d.ProcessGroupNCCL if device.type == "cuda" else c10d.ProcessGroupGloo
        self._group = kind(c10d.PrefixStore("weights", store), rank, size, JOIN_TIME)

    def broadcast(self, tensor: Shaped[Tensor, "*_"]) -> None:
        """Sends the first rank's tensor, which is written in place on the others."""
        self._group.broadcast(tensor, 0).wait()


def open_store() -> tuple[Any, tuple[str, int]]:
    """Opens the store at which the processes of a channel meet, in the sending process. Returns it with its
    address."""
    host = ray.util.get_node_ip_address()
    store = c10d.TCPStore(host, 0, is_master=True, wait_for_workers=False, timeout=JOIN_TIME)
    return store, (host, store.port)


def join_store(address: tuple[str, int]) -> Any:
    """Connects to the store of a channel from another process."""
    return c10d.TCPStore(*address, is_master=False, timeout=JOIN_TIME)


def connect(policy: RayGroup, rollout: RayGroup) -> None:
    """Opens a channel from the first policy worker to all rollout workers, which are initialized.

    Raises:
        WorkerFailed: The workers cannot connect to each other.
    """
    sender, receivers = policy.actors[0], rollout.actors
    size = 1 + len(receivers)
    try:
        address = ray.get(sender.open_channel.remote())
        joining = [actor.join_channel.remote(address, rank + 1, size) for rank, actor in enumerate(receivers)]
        ray.get([sender.join_channel.remote(size), *joining])
    except RayError as error:
        raise WorkerFailed(f"rollout workers could not connect with the policy: {cause_of(error)}") from error
