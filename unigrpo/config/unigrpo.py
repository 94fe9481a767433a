"""A whole UniGRPO run."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field
from typing import Any, Protocol

from unigrpo.config.algo import AlgoConfig, TaskConfig
from unigrpo.config.checks import positive, require
from unigrpo.config.data import DataConfig, ImageConfig
from unigrpo.config.model import ActorConfig, DeepSpeedConfig, RefConfig
from unigrpo.config.reward import RewardConfig
from unigrpo.config.rollout import RolloutConfig


@dataclass(frozen=True, kw_only=True)
class TrainConfig:
    num_steps: int = 80
    """Steps of the run: each samples a batch of prompts and makes num_inner_updates optimizer steps."""
    num_inner_updates: int = 4
    """Optimizer steps for one rollout batch, each with its own masks (mu of the paper)."""
    micro_batch_size: int = 32
    """Responses of one forward and backward pass on one rank."""
    seed: int = 42
    """All random draws follow from it."""
    colocate_actor_ref: bool = True
    """The reference shares the policy's GPUs."""
    logprob_mismatch_steps: int = 10
    """Every so many steps, from the first on, the sampler's log-probabilities are computed again by the training path
    and compared; 0 never does."""
    logprob_mismatch_limit: float = 0.5
    """Largest difference, nats, that is taken for rounding; more stops the run. bfloat16 rounds by some hundredths."""

    def __post_init__(self) -> None:
        for name in ("num_steps", "num_inner_updates", "micro_batch_size", "logprob_mismatch_limit"):
            positive(f"train.{name}", getattr(self, name))
        require(
            self.logprob_mismatch_steps >= 0,
            f"train.logprob_mismatch_steps is {self.logprob_mismatch_steps}; it must be 0 or more",
        )


@dataclass(frozen=True, kw_only=True)
class EvalConfig:
    dataset: str = ""
    """Held-out prompts, in the form of data.prompt_dataset; empty runs no evaluation."""
    split: str = "test"
    """Split, if dataset is a Hugging Face data set."""
    max_samples: int = 0
    """Use only the first so many prompts, of each task alike; 0 uses all."""
    steps: int = 0
    """Evaluate every so many steps, besides before and after; 0 does only those two."""
    n_samples_per_prompt: int = 4
    """Sampled responses of each prompt, besides the greedy one."""

    def __post_init__(self) -> None:
        for name in ("max_samples", "steps", "n_samples_per_prompt"):
            value = getattr(self, name)
            require(value >= 0, f"eval.{name} is {value}; it must be 0 or more")


@dataclass(frozen=True, kw_only=True)
class CheckpointConfig:
    path: str = ""
    """Folder of the checkpoints; empty is `checkpoints` in the run folder."""
    save_steps: int = 20
    """Save every so many steps; 0 saves only at the end."""
    max_num: int = 2
    """Keep the last so many, and the best."""
    load_enable: bool = False
    """Go on from the newest whole checkpoint, if there is one."""
    best_metric_key: str = "eval/reward_total"
    """Metric of the best checkpoint, higher is better."""

    def __post_init__(self) -> None:
        require(self.save_steps >= 0, f"ckpt.save_steps is {self.save_steps}; it must be 0 or more")
        positive("ckpt.max_num", self.max_num)


@dataclass(frozen=True, kw_only=True)
class LoggerConfig:
    tensorboard: bool = True
    """Write TensorBoard files into the run folder."""
    wandb_project: str = ""
    """Weights & Biases project; empty is off. The key comes from the environment variable WANDB_API_KEY."""
    rollouts_per_step: int = 1
    """Samples of each step kept in rollouts.jsonl."""

    def __post_init__(self) -> None:
        require(self.rollouts_per_step >= 0, f"logger.rollouts_per_step is {self.rollouts_per_step}; use 0 or more")


class ModelRun(Protocol):
    """What the model workers of any stage need of its config."""

    @property
    def actor(self) -> ActorConfig: ...
    @property
    def ds(self) -> DeepSpeedConfig: ...
    @property
    def seed(self) -> int: ...
    @property
    def num_samples_per_step(self) -> int: ...
    @property
    def num_optimizer_steps(self) -> int: ...


@dataclass(frozen=True, kw_only=True)
class RunConfig:
    """A UniGRPO run."""

    run_dir: str = "runs/unigrpo"
    """Folder of everything that the run writes."""
    data: DataConfig = field(default_factory=DataConfig)
    """Prompts."""
    image: ImageConfig = field(default_factory=ImageConfig)
    """Images and their tokenizer."""
    rollout: RolloutConfig = field(default_factory=RolloutConfig)
    """Sampling of responses."""
    actor: ActorConfig = field(default_factory=ActorConfig)
    """The policy and its optimizer."""
    ref: RefConfig = field(default_factory=RefConfig)
    """The frozen reference."""
    algo: AlgoConfig = field(default_factory=AlgoConfig)
    """UniGRPO itself."""
    reward: RewardConfig = field(default_factory=RewardConfig)
    """What the policy is paid for."""
    train: TrainConfig = field(default_factory=TrainConfig)
    """Steps, batches and seed."""
    eval: EvalConfig = field(default_factory=EvalConfig)
    """Held-out measurements."""
    ckpt: CheckpointConfig = field(default_factory=CheckpointConfig)
    """Saving and resuming."""
    ds: DeepSpeedConfig = field(default_factory=DeepSpeedConfig)
    """DeepSpeed."""
    logger: LoggerConfig = field(default_factory=LoggerConfig)
    """Where metrics go."""

    def __post_init__(self) -> None:
        samples = self.rollout.batch_size * self.rollout.n_samples_per_prompt
        ranks = self.actor.num_ranks
        require(
            samples % ranks == 0,
            f"{samples} samples of a step (rollout.batch_size {self.rollout.batch_size} x "
            f"rollout.n_samples_per_prompt {self.rollout.n_samples_per_prompt}) do not divide over {ranks} policy "
            f"ranks; make rollout.batch_size a multiple of {ranks}",
        )
        require(
            self.actor.loss_agg_mode != "fixed_length" or self.rollout.text.max_new_tokens > 0,
            "actor.loss_agg_mode fixed_length needs rollout.text.max_new_tokens",
        )
        require(
            not (self.ref.offload and self.ds.zero_stage == 3),
            "ref.offload is not for ds.zero_stage 3, which shards the reference; leave one of them out",
        )

    @property
    def num_policy_ranks(self) -> int:
        """Policy processes, each with one GPU."""
        return self.actor.num_ranks

    @property
    def has_reference(self) -> bool:
        """Whether the policy is compared with the frozen reference."""
        return self.algo.kl.init_coef > 0

    @property
    def has_reference_workers(self) -> bool:
        """Whether the reference has workers of its own; with LoRA it is the base of the policy."""
        return self.has_reference and self.ds.lora.rank == 0

    @property
    def has_dedicated_reference_gpus(self) -> bool:
        """Whether the reference has GPUs of its own."""
        return self.has_reference_workers and not self.train.colocate_actor_ref

    def kl_coef(self, task: str) -> float:
        """Coefficient of the KL for a task."""
        own = self.algo.tasks.get(task, TaskConfig()).kl_coef
        return self.algo.kl.init_coef if own is None else own

    def clip_bounds(self, task: str) -> tuple[float, float]:
        """Lower and upper clip bound for a task."""
        return self.algo.tasks.get(task, TaskConfig()).eps_clip_low_high or self.actor.eps_clip_low_high

    def loss_coef(self, task: str) -> float:
        """Factor of a task's part of the loss."""
        return self.algo.tasks.get(task, TaskConfig()).loss_coef

    @property
    def seed(self) -> int:
        """Of all random draws."""
        return self.train.seed

    @property
    def num_optimizer_steps(self) -> int:
        """Of the whole run."""
        return self.train.num_steps * self.train.num_inner_updates

    @property
    def num_samples_per_step(self) -> int:
        """Rollouts of one step."""
        return self.rollout.batch_size * self.rollout.n_samples_per_prompt

    def response_tokens(self, task: str, num_image_tokens: int) -> int:
        """Most tokens that a sample of a task adds to its prompt: text, an image's, or for `r2i` both."""
        text = 0 if task == "t2i" else self.rollout.text.max_new_tokens
        return text + (num_image_tokens if task in ("t2i", "r2i") else 0)

    def to_dict(self) -> dict[str, Any]:
        """Plain nested dictionary, as written to ``config.yaml``."""
        return dataclasses.asdict(self)
