"""Ray actors of policy and reference: OpenRLHF's model actor around one plain worker behind DeepSpeed."""

from __future__ import annotations

import gc

gc.disable()  # until all is imported: the collector takes a fifth of the seconds in which a process starts

import logging
import os
from collections.abc import Sequence
from functools import partial
from typing import Any

import ray
import torch
import torch.distributed as dist
from deepspeed import zero
from openrlhf.trainer.ray.launcher import BaseModelActor
from openrlhf.trainer.ray.utils import ray_noset_visible_devices
from ray import ObjectRef
from transformers import PreTrainedModel
from transformers.utils.logging import disable_progress_bar

from unigrpo.config import BaseRunConfig, LoRAConfig, RunConfig
from unigrpo.config.denoising import StageConfig
from unigrpo.distributed.devices import check_gpu
from unigrpo.distributed.engine import StrategyEngine, max_over_ranks
from unigrpo.distributed.strategy import UniGRPOStrategy, make_strategy
from unigrpo.distributed.weight_channel import Broadcast, join_store, open_store
from unigrpo.distributed.worker_actor import WorkerActor
from unigrpo.evaluation.denoising import StageEvaluator
from unigrpo.models.checkpoint_io import load_policy
from unigrpo.models.image_tokenizer import ImageTokenizer
from unigrpo.models.loading import find_image_tokenizer, load_tokenizer
from unigrpo.models.lora import add_lora
from unigrpo.models.vocabulary import Vocabulary
from unigrpo.training.scoring import ScoringSettings
from unigrpo.workers.flop_meter import FlopMeter
from unigrpo.workers.policy import PolicyWorker
from unigrpo.workers.reference import ReferenceWorker
from unigrpo.workers.rollout import RolloutWorker
from unigrpo.workers.stats import Work

gc.freeze()  # what is imported stays
gc.enable()


class ModelActor(WorkerActor, BaseModelActor):
    """One rank of a model group. A subclass determines its worker."""

    def __init__(self, num_ranks: int, rank: int, meeting: Sequence[ObjectRef] = ()) -> None:
        """Sets what the process group of the ranks needs.

        Args:
            num_ranks: Number of ranks.
            rank: Rank of this process.
            meeting: What the first process answers as its address and port; nothing in the first process.
        """
        address, port = ray.get(meeting[0]) if meeting else (None, None)
        super().__init__(num_ranks, rank, address, port)

    def initialize(self, config: BaseRunConfig) -> None:
        """Joins the process group of its ranks and builds the worker."""
        disable_progress_bar()
        logging.getLogger("unigrpo.data").setLevel(logging.WARNING)  # the trainer has reported the same files
        check_gpu()
        if not torch.cuda.is_available() or config.ds.adam_offload:  # else the GPU computes all that takes time
            torch.set_num_threads(cpu_threads(config.actor.num_gpus_per_node))
        strategy = make_strategy(config)
        self._setup_distributed(strategy)
        self.worker = self.build(config, strategy)

    def build(self, config: Any, strategy: UniGRPOStrategy) -> Any:
        """Returns the worker, on the device of this rank."""
        raise NotImplementedError


class PolicyActor(ModelActor):
    """One rank of the policy."""

    def build(self, config: RunConfig, strategy: UniGRPOStrategy) -> PolicyWorker:
        """Returns the policy worker on a DeepSpeed engine."""
        engine = training_engine(config, strategy)
        tokenizer = load_tokenizer(config.actor.model_name_or_path)
        return PolicyWorker(config, engine, tokenizer, image_tokenizer_on(config, engine.device))

    def open_channel(self) -> tuple[str, int]:
        """Opens the store at which the processes of a weight channel meet. Returns its address."""
        self._store, address = open_store()
        return address

    def join_channel(self, size: int) -> None:
        """Joins a weight channel of ``size`` processes as the sender."""
        self.worker.channel = Broadcast(self._store, 0, size, self.worker.device)


class RolloutActor(WorkerActor):
    """One rollout worker: a whole copy of the policy, in no other process group than the weight channel."""

    def initialize(self, config: Any) -> None:
        """Loads the policy of a :class:`~unigrpo.config.RunConfig`."""
        disable_progress_bar()
        check_gpu()
        device = torch.device("cpu")
        if torch.cuda.is_available():  # Ray shows each process its own GPU alone, unless it was told not to
            device = torch.device("cuda", int(ray.get_gpu_ids()[0]) if ray_noset_visible_devices() else 0)
        torch.set_num_threads(1)
        model = load_model(config, check_values=False)
        if config.ds.lora.rank:
            add_lora(model, config.ds.lora)
        model.to(device).eval()  # type: ignore[arg-type]
        tokenizer = load_tokenizer(config.actor.model_name_or_path)
        self.worker = RolloutWorker(config, model, tokenizer, image_tokenizer_on(config, device))

    def join_channel(self, address: tuple[str, int], rank: int, size: int) -> None:
        """Joins a weight channel as a receiver."""
        self.worker.channel = Broadcast(join_store(address), rank, size, self.worker.device)


class ReferenceActor(ModelActor):
    """One rank of the frozen reference."""

    def initialize(self, config: BaseRunConfig) -> None:
        """Builds the worker. With ``ref.offload`` its weights leave the GPU at once: the policy evaluates first."""
        super().initialize(config)
        if self._offload:
            self._move_to_cpu()

    def build(self, config: RunConfig, strategy: UniGRPOStrategy) -> ReferenceWorker:
        """Returns the reference worker on a DeepSpeed engine without an optimizer."""
        engine: Any = strategy.prepare(load_model(config, check_values=False).requires_grad_(False))
        engine.eval()
        tokenizer = load_tokenizer(config.actor.model_name_or_path)
        vocabulary = Vocabulary.from_pretrained_parts(engine.module.config, tokenizer)
        self._offload = config.ref.offload and engine.device.type == "cuda" and strategy.stage < 3
        self._engine = engine
        meter = FlopMeter(engine.module, LoRAConfig())
        settings = ScoringSettings.of_run(config, vocabulary)
        agree = partial(max_over_ranks, device=engine.device)
        whole = partial(zero.GatheredParameters, modifier_rank=0, enabled=strategy.stage == 3)
        return ReferenceWorker(
            config,
            engine,
            engine.device,
            settings,
            meter,
            agree,
            model=engine.module,
            whole=whole,
            is_first=torch.distributed.get_rank() == 0,
        )

    def run(self, method: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[Any, Work]:
        """Calls a method of the worker. With ``ref.offload`` the weights are on the GPU only during the call."""
        if not self._offload:
            return super().run(method, args, kwargs)
        self._engine.module.to(self._engine.device)
        try:
            return super().run(method, args, kwargs)
        finally:
            self._move_to_cpu()

    def _move_to_cpu(self) -> None:
        self._engine.module.to("cpu")
        torch.cuda.empty_cache()


def training_engine(config: BaseRunConfig, strategy: UniGRPOStrategy) -> StrategyEngine:
    """Returns the model of the run behind DeepSpeed."""
    model = load_model(config, check_values=dist.get_rank() % config.actor.num_gpus_per_node == 0)
    if config.ds.lora.rank:
        add_lora(model, config.ds.lora)
    if config.actor.gradient_checkpointing_enable:
        model.gradient_checkpointing_enable()
    return StrategyEngine(model, config, strategy)


def image_tokenizer_on(config: RunConfig, device: torch.device) -> ImageTokenizer | None:
    """Returns the image tokenizer of the run on a device, if the run has one."""
    found = find_image_tokenizer(config.image.tokenizer, config.actor.model_name_or_path)
    return None if found is None else found.to(device)  # type: ignore[arg-type]


def load_model(config: BaseRunConfig, *, check_values: bool = True) -> PreTrainedModel:
    """Returns the model of a checkpoint folder, in the type of ``ds.param_dtype``.

    Args:
        config: The run or stage.
        check_values: Whether to check for NaN and infinity. The first policy rank of each node does so for the node.
    """
    dtype = torch.bfloat16 if config.ds.param_dtype == "bf16" else torch.float32
    return load_policy(
        config.actor.model_name_or_path,
        dtype,
        config.ds.attn_implementation,
        compile=config.ds.compile,
        max_text_tokens=config.max_text_tokens,
        check_values=check_values,
    )


def cpu_threads(ranks_per_node: int) -> int:
    """Returns the number of threads of a rank whose model or optimizer computes on the CPU: its part of the usable
    cores."""
    return max(1, len(os.sched_getaffinity(0)) // ranks_per_node)


class DenoisingActor(ModelActor):
    """One rank of a stage."""

    def build(self, config: StageConfig, strategy: UniGRPOStrategy) -> StageEvaluator:
        """Returns the worker on a DeepSpeed engine, with the image tokenizer on the same device."""
        return StageEvaluator(config, training_engine(config, strategy))
