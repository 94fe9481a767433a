"""OpenRLHF's DeepSpeed strategy for a run: its settings from ours, and a subclass for machines without a GPU."""

from __future__ import annotations

from argparse import Namespace
from datetime import timedelta
from typing import Any

import deepspeed
import torch
import transformers
from openrlhf.utils.deepspeed import DeepspeedStrategy
from torch.distributed import get_world_size
from torch.distributed.device_mesh import init_device_mesh

from unigrpo.config import BaseRunConfig
from unigrpo.distributed import compat
from unigrpo.training.optimizer_step import ScheduleLength


class UniGRPOStrategy(DeepspeedStrategy):
    """DeepSpeed strategy in which the caller decides when an optimizer step is made, with the AdamW of torch."""

    def setup_distributed(self, timeout: timedelta | None = None) -> None:
        """Joins the process group that the environment describes.

        Args:
            timeout: Longest time that a rank waits for the others in a collective; None uses the run's setting.
        """
        super().setup_distributed(timeout or self.collective_timeout)

    @property
    def collective_timeout(self) -> timedelta:
        """Longest time that a rank waits for the others in a collective."""
        args: Any = self.args
        return timedelta(minutes=args.train.collective_timeout_minutes)

    def get_ds_train_config(
        self, optim_dict: dict[str, Any] | None = None, *, max_norm: float | None = None
    ) -> dict[str, Any]:
        """Returns OpenRLHF's DeepSpeed settings, overridden by ours."""
        settings = super().get_ds_train_config(optim_dict, max_norm=max_norm)
        settings["managed_gradient_accumulation"] = False
        settings["communication_data_type"] = self.grad_accum_dtype
        if optim_dict is not None:
            settings["optimizer"]["params"] |= {"torch_adam": True, **self.adam_options()}
        return settings

    def adam_options(self) -> dict[str, Any]:
        """Implementation of torch's AdamW. The fused one needs no compiler, unlike DeepSpeed's."""
        return {"fused": True}


class CPUDeepspeedStrategy(UniGRPOStrategy):
    """The same strategy over gloo, without CUDA calls, pinned memory or compiled extensions."""

    def setup_distributed(self, timeout: timedelta | None = None) -> None:
        """Joins the process group that the environment describes, over gloo."""
        timeout = timeout or self.collective_timeout
        transformers.set_seed(self.seed)
        compat.skip_shared_memory_build()
        compat.use_cpu_barrier()
        deepspeed.init_distributed(dist_backend="gloo", timeout=timeout, verbose=False)
        self.world_size = get_world_size()
        self.ds_device_mesh = init_device_mesh("cpu", (self.world_size, 1, 1), mesh_dim_names=("dp", "sp", "tp"))
        self.setup_ring_attn(self.ds_device_mesh)
        self.accumulated_gradient = self.train_batch_size // self.micro_train_batch_size // self.world_size

    def get_ds_train_config(
        self, optim_dict: dict[str, Any] | None = None, *, max_norm: float | None = None
    ) -> dict[str, Any]:
        """Returns the settings of a GPU, without pinned memory."""
        settings = super().get_ds_train_config(optim_dict, max_norm=max_norm)
        settings["zero_optimization"]["offload_optimizer"]["pin_memory"] = False
        return settings

    def adam_options(self) -> dict[str, Any]:
        """The plain implementation, which equals that of a single process."""
        return {}


def make_strategy(config: BaseRunConfig) -> UniGRPOStrategy:
    """Returns the strategy of one rank, for the device that this process sees."""
    kind = UniGRPOStrategy if torch.cuda.is_available() else CPUDeepspeedStrategy
    return kind(
        seed=config.seed,
        max_norm=config.actor.max_norm,
        # DeepSpeed wants whole micro-batches; ours may be shorter, and only the engine's caller counts them.
        micro_train_batch_size=config.num_samples_per_step // config.actor.num_ranks,
        train_batch_size=config.num_samples_per_step,
        zero_stage=config.ds.zero_stage,
        args=strategy_arguments(config),
    )


def strategy_arguments(config: BaseRunConfig) -> Namespace:
    """Returns every ``args.*`` that OpenRLHF's strategy reads, under its names."""
    return Namespace(
        local_rank=-1,
        optim="adam",
        ds=Namespace(
            zero_stage=config.ds.zero_stage,
            param_dtype=config.ds.param_dtype,
            adam_offload=config.ds.adam_offload and torch.cuda.is_available(),
            zpg=1,
            grad_accum_dtype=config.ds.grad_accum_dtype,
            overlap_comm=config.ds.overlaps_reduction,
            deepcompile=False,
            use_universal_ckpt=False,
            tensor_parallel_size=1,
            ring_attn_size=1,
            ring_attn_head_stride=1,
        ),
        train=Namespace(
            dynamic_batch_enable=False, collective_timeout_minutes=config.train.collective_timeout_minutes
        ),
    )


def training_settings(config: BaseRunConfig) -> dict[str, Any]:
    """Returns optimizer and schedule of the policy in the form that ``DeepspeedStrategy.prepare`` takes."""
    actor = config.actor
    length = ScheduleLength.of(actor, config.num_optimizer_steps)
    return {
        "optim": "adam",
        "adam": {
            "lr": actor.adam.lr,
            "betas": actor.adam.betas,
            "eps": actor.adam.eps,
            "weight_decay": actor.adam.weight_decay,
        },
        "lr_scheduler": actor.lr_scheduler,
        "lr_warmup_ratio": max(length.warmup - 0.5, 0) / length.total,  # OpenRLHF rounds their product up
        "min_lr_ratio": actor.min_lr_ratio,
        "max_norm": actor.max_norm,
        "scheduler_steps": length.total,
    }
