"""The engine of an optimizer step: its protocol, and the plain-torch engine of a single process."""

from __future__ import annotations

import math
import warnings
from collections.abc import Iterable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import torch
from jaxtyping import Float, Shaped
from torch import Tensor, nn
from transformers import PreTrainedModel, get_scheduler

from unigrpo import CheckpointError
from unigrpo.config import ActorConfig
from unigrpo.models.checkpoint_io import save_weights

NO_DECAY = ("bias", "norm.weight", "ln_f.weight")
"""Parameters with these in their name get no weight decay."""


class NonFiniteLossError(RuntimeError):
    """A loss or gradient was NaN or infinite. The message names the samples."""


@runtime_checkable
class Engine(Protocol):
    """A model with its optimizer. It gets partial losses: the gradients of all micro-batches and ranks are summed."""

    model: PreTrainedModel
    rank: int
    world_size: int
    device: torch.device

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """Calls the model in a way that triggers its sharding hooks."""
        ...

    def whole_model(self) -> AbstractContextManager[PreTrainedModel]:
        """The model with all its weights in this process, for passes without gradient; all ranks enter together.

        Through it ranks may make different numbers of passes, which :meth:`forward` does not allow where weights are
        sharded.
        """
        ...

    def trained_weights(self) -> Iterable[Shaped[Tensor, "*_"]]:
        """The weights that training changes, whole, one after the other; all ranks take all of them together."""
        ...

    def backward(self, loss: Float[Tensor, ""]) -> None:
        """Adds the gradient of the partial loss of this micro-batch."""
        ...

    def step(self) -> float:
        """Clips, updates and clears; returns the global gradient norm before clipping.

        A norm that is not finite is returned without an update.
        """
        ...

    def learning_rate(self) -> float:
        """Returns the learning rate of the next step."""
        ...

    def all_reduce_sum(self, values: Shaped[Tensor, "*any"]) -> Shaped[Tensor, "*any"]:
        """Returns the sum over the data-parallel ranks."""
        ...

    def max_over_ranks(self, number: int) -> int:
        """Returns the largest of the numbers of all data-parallel ranks."""
        ...

    def barrier(self) -> None:
        """Waits for all ranks."""
        ...

    def save(self, folder: Path) -> None:
        """Writes weights, optimizer and schedule; all ranks call it."""
        ...

    def load(self, folder: Path) -> None:
        """Reads what :meth:`save` wrote, on any number of ranks; all ranks call it."""
        ...

    def export(self, folder: Path) -> None:
        """Writes the weights as a Hugging Face folder; all ranks call it."""
        ...


def decay_groups(model: nn.Module, weight_decay: float) -> list[dict[str, Any]]:
    """Returns the optimizer groups: norms and biases without weight decay, all other weights with it."""
    named = [(n, p) for n, p in model.named_parameters() if p.requires_grad]
    return [
        {"params": [p for n, p in named if not any(x in n for x in NO_DECAY)], "weight_decay": weight_decay},
        {"params": [p for n, p in named if any(x in n for x in NO_DECAY)], "weight_decay": 0.0},
    ]


@dataclass(frozen=True, kw_only=True)
class ScheduleLength:
    """Steps of a learning-rate schedule that starts at its step ``first``."""

    first: int
    warmup: int
    total: int

    @classmethod
    def of(cls, actor: ActorConfig, num_optimizer_steps: int) -> ScheduleLength:
        """The schedule of a run. With W steps of warm-up, their rates are 1/(W + 1) to W/(W + 1) of the peak.

        With a schedule whose warm-up starts at the rate 0, the first step would change nothing. It has one more step
        here and starts at its second step; after the warm-up, all rates are the same.
        """
        warmup = math.ceil(num_optimizer_steps * actor.lr_warmup_ratio)
        skipped = int(warmup > 0)
        return cls(first=skipped, warmup=warmup + skipped, total=num_optimizer_steps + skipped)


def make_scheduler(
    optimizer: torch.optim.Optimizer, actor: ActorConfig, num_optimizer_steps: int, *, starts_at_zero: bool = False
) -> Any:
    """Returns the learning-rate schedule of ``actor`` over the optimizer steps of the whole run.

    Args:
        optimizer: Optimizer whose learning rates it sets.
        actor: Name, warm-up and floor of the schedule.
        num_optimizer_steps: Number of optimizer steps of the whole run.
        starts_at_zero: Whether the warm-up starts with the rate 0, as in the released code of MMaDA; see
            :class:`ScheduleLength`.
    """
    extra = {"min_lr_rate": actor.min_lr_ratio} if actor.lr_scheduler == "cosine_with_min_lr" else {}
    length = ScheduleLength.of(actor, num_optimizer_steps)
    scheduler = get_scheduler(
        actor.lr_scheduler,
        optimizer,
        num_warmup_steps=length.warmup - length.first * starts_at_zero,
        num_training_steps=length.total - length.first * starts_at_zero,
        scheduler_specific_kwargs=extra,
    )
    if not starts_at_zero:
        advance(scheduler, length.first)
    return scheduler


def advance(scheduler: Any, num_steps: int) -> None:
    """Advances a new schedule by some steps."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Detected call of `lr_scheduler.step", category=UserWarning)
        for _ in range(num_steps):
            scheduler.step()


class LocalEngine:
    """AdamW in this process: the reference that the DeepSpeed engine is tested against."""

    rank = 0
    world_size = 1

    def __init__(self, model: PreTrainedModel, actor: ActorConfig, num_optimizer_steps: int) -> None:
        self.model = model
        self.device = next(model.parameters()).device
        self._max_norm = actor.max_norm
        adam = actor.adam
        self.optimizer = torch.optim.AdamW(
            decay_groups(model, adam.weight_decay), lr=adam.lr, betas=adam.betas, eps=adam.eps
        )
        self.scheduler = make_scheduler(self.optimizer, actor, num_optimizer_steps)

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        return self.model(*args, **kwargs)

    def whole_model(self) -> AbstractContextManager[PreTrainedModel]:
        return nullcontext(self.model)

    def trained_weights(self) -> Iterable[Shaped[Tensor, "*_"]]:
        return (parameter.data for parameter in self.model.parameters() if parameter.requires_grad)

    def backward(self, loss: Float[Tensor, ""]) -> None:
        loss.backward()

    def step(self) -> float:
        limit = self._max_norm if self._max_norm > 0 else math.inf
        norm = torch.nn.utils.clip_grad_norm_(_parameters(self.optimizer), limit).item()
        if math.isfinite(norm):
            self.optimizer.step()
            self.scheduler.step()
        self.optimizer.zero_grad(set_to_none=True)
        return norm

    def learning_rate(self) -> float:
        return self.optimizer.param_groups[0]["lr"]

    def all_reduce_sum(self, values: Shaped[Tensor, "*any"]) -> Shaped[Tensor, "*any"]:
        return values

    def max_over_ranks(self, number: int) -> int:
        return number

    def barrier(self) -> None:
        return None

    def save(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        state = {
            "model": self.model.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "scheduler": self.scheduler.state_dict(),
        }
        torch.save(state, folder / "engine.pt")

    def load(self, folder: Path) -> None:
        if not (folder / "engine.pt").is_file():
            raise CheckpointError(
                f"{folder}: engine.pt is missing: a run that uses DeepSpeed wrote this checkpoint; resume it by the "
                "command that started it, or start a new run from its exported policy"
            )
        state = torch.load(folder / "engine.pt", map_location=self.device, weights_only=True)
        self.model.load_state_dict(state["model"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.scheduler.load_state_dict(state["scheduler"])

    def export(self, folder: Path) -> None:
        save_weights(self.model, self.model.state_dict(), folder)


def _parameters(optimizer: torch.optim.Optimizer) -> Iterable[Shaped[Tensor, "*_"]]:
    return (p for group in optimizer.param_groups for p in group["params"])
