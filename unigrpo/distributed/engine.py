"""The training engine of one policy rank: the protocol of ``training/optimizer_step.py`` on top of DeepSpeed."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from deepspeed import zero
from jaxtyping import Float, Shaped
from torch import Tensor
from transformers import PreTrainedModel

from unigrpo import CheckpointError
from unigrpo.config import BaseRunConfig
from unigrpo.distributed import compat
from unigrpo.distributed.deepspeed_files import CHECKPOINT_TAG, without_code
from unigrpo.distributed.resharding import check_fits, load_resharded
from unigrpo.distributed.strategy import UniGRPOStrategy, training_settings
from unigrpo.models.checkpoint_io import meta_copy, save_weights
from unigrpo.models.lora import add_adapters_like
from unigrpo.training.optimizer_step import ScheduleLength, advance


def max_over_ranks(number: int, device: torch.device) -> int:
    """Returns the largest of the numbers of all processes of the process group; all of them call it."""
    largest = torch.tensor([number], device=device)
    dist.all_reduce(largest, op=dist.ReduceOp.MAX)
    return int(largest.item())


class StrategyEngine:
    """A model and its optimizer behind DeepSpeed, which shards them over the policy ranks."""

    def __init__(self, model: PreTrainedModel, config: BaseRunConfig, strategy: UniGRPOStrategy) -> None:
        """Wraps a model.

        Args:
            model: A trainable model, which DeepSpeed moves to the rank's device and casts.
            config: The run.
            strategy: OpenRLHF's strategy, with its process group set up.
        """
        self._strategy = strategy
        self._is_sharded = config.ds.zero_stage == 3
        self._engine, _, scheduler = strategy.prepare((model, training_settings(config)))
        advance(scheduler, ScheduleLength.of(config.actor, config.num_optimizer_steps).first)
        self._engine.optimizer.check_grad_overflow = True  # by itself DeepSpeed skips the check in float32
        compat.add_gradients_in_their_type(self._engine.optimizer)
        self.model: PreTrainedModel = self._engine.module
        self.rank = dist.get_rank()
        self.world_size = dist.get_world_size()
        self.device = self._engine.device

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """Calls the model in a way that triggers its sharding hooks."""
        return self._engine(*args, **kwargs)

    @contextmanager
    def whole_model(self) -> Iterator[PreTrainedModel]:
        """Yields the model itself, or under ZeRO-3 a copy with unsharded weights that exists during the context."""
        if not self._is_sharded:
            yield self.model
            return
        # Adapters stay apart: merged into weights of few digits, most of what they learned would be rounded away.
        copy = meta_copy(self.model)
        add_adapters_like(copy, self.model)
        copy.load_state_dict(self._gathered(), assign=True)
        yield copy.eval()

    def trained_weights(self) -> Iterator[Shaped[Tensor, "*_"]]:
        """Yields the weights that training changes, whole, one after the other; all ranks iterate over all of them
        together."""
        for parameter in self.model.parameters():
            if parameter.requires_grad:
                with zero.GatheredParameters([parameter], enabled=self._is_sharded):
                    yield parameter.data

    def _gathered(self) -> dict[str, Tensor]:
        """Yields all weights, gathered one after the other; all ranks call it."""
        weights: dict[str, Tensor] = {}
        for name, parameter in self.model.named_parameters():
            with zero.GatheredParameters([parameter]):
                weights[name] = parameter.detach().clone()
        return weights | {name: b for name, b in self.model.named_buffers() if name in self.model.state_dict()}

    def backward(self, loss: Float[Tensor, ""]) -> None:
        """Adds the gradient of this micro-batch's partial loss and undoes DeepSpeed's mean over ranks."""
        self._engine.backward(loss * self.world_size, scale_wrt_gas=False)

    def step(self) -> float:
        """Clips the gradient, updates the weights and clears the gradient.

        Returns:
            The global gradient norm before clipping; NaN if the gradient was not finite, and then the weights are
            unchanged.
        """
        if self._is_sharded:
            self._engine.optimizer.check_overflow()  # DeepSpeed's ZeRO-3 does it in float16 alone
        self._engine.step()
        if not self._engine.was_step_applied():
            return math.nan
        return self._strategy.get_grad_norm(self._engine)

    def learning_rate(self) -> float:
        """Learning rate of the next step."""
        return self._engine.get_lr()[0]

    def all_reduce_sum(self, values: Shaped[Tensor, "*any"]) -> Shaped[Tensor, "*any"]:
        """Returns the sum over the data-parallel ranks; the argument is unchanged."""
        total = values.to(self.device, copy=True)
        dist.all_reduce(total)
        return total.to(values.device)

    def max_over_ranks(self, number: int) -> int:
        """Returns the largest of the numbers of all data-parallel ranks."""
        return max_over_ranks(number, self.device)

    def barrier(self) -> None:
        """Waits for all ranks."""
        dist.barrier()

    def save(self, folder: Path) -> None:
        """Writes weights, optimizer and schedule; all ranks call it."""
        self._strategy.save_ckpt(self._engine, str(folder), tag=CHECKPOINT_TAG)
        self.barrier()

    def load(self, folder: Path) -> None:
        """Reads what :meth:`save` wrote, on any number of ranks; all ranks call it.

        Raises:
            CheckpointError: There is no checkpoint in the folder, a file of a rank is missing, a file could run code,
                or the checkpoint belongs to another model or ZeRO stage.
        """
        files = folder / CHECKPOINT_TAG
        if not files.is_dir():
            raise CheckpointError(f"{folder}: no DeepSpeed checkpoint; name the folder of a complete one")
        num_saved_ranks = check_fits(self._engine, files)
        with without_code(files):
            if self._engine.zero_optimization() and num_saved_ranks != self.world_size:
                load_resharded(self._engine, files)
            else:
                self._strategy.load_ckpt(self._engine, str(folder), tag=CHECKPOINT_TAG)
        self.barrier()

    def export(self, folder: Path) -> None:
        """Writes the weights as a Hugging Face folder; all ranks call it."""
        weights = self._gathered() if self._is_sharded else self.model.state_dict()
        if self.rank == 0:
            save_weights(self.model, weights, folder)
        self.barrier()
