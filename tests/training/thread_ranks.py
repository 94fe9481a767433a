"""Ranks in the threads of one process."""

from __future__ import annotations

import copy
import threading
from typing import Any

import torch

from unigrpo.config import ActorConfig
from unigrpo.models.mmada import MMadaModelLM
from unigrpo.training.optimizer_step import LocalEngine


class Rank(LocalEngine):
    """A rank in a thread of this process. The ranks sum gradients as DeepSpeed does."""

    def __init__(self, meeting: threading.Barrier, values: list[Any], rank: int, *arguments: Any) -> None:
        super().__init__(*arguments)
        self.rank, self._meeting, self._values = rank, meeting, values

    def values_of_all(self, value: Any) -> list[Any]:
        """Returns the values of all ranks in their order."""
        self._values[self.rank] = value
        self._meeting.wait()
        found = list(self._values)
        self._meeting.wait()
        return found

    def all_reduce_sum(self, values: torch.Tensor) -> torch.Tensor:
        """Returns the sum over the ranks."""
        return torch.stack(self.values_of_all(values)).sum(0)

    def max_over_ranks(self, number: int) -> int:
        """Returns the largest number of all ranks."""
        return max(self.values_of_all(number))

    def step(self) -> float:
        """Makes an optimizer step with the summed gradients, and returns their norm."""
        for weight in self.model.parameters():
            nothing = torch.zeros_like(weight)
            weight.grad = self.all_reduce_sum(nothing if weight.grad is None else weight.grad)
        return super().step()


def ranks_in_threads(model: MMadaModelLM, actor: ActorConfig, num_ranks: int) -> list[Rank]:
    """Returns ranks with copies of a model. Each must run in a separate thread, because they wait for each other."""
    meeting, values = threading.Barrier(num_ranks, timeout=60), [None] * num_ranks
    return [Rank(meeting, values, i, copy.deepcopy(model), actor, 100) for i in range(num_ranks)]
