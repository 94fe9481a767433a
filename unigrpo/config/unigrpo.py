"""Settings of a whole UniGRPO run."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import ClassVar, get_args

from unigrpo.config.algo import AlgoConfig, LikelihoodConfig, MaskRatioConfig, TaskConfig
from unigrpo.config.base import BaseRunConfig, BaseTrainConfig
from unigrpo.config.checks import choice, positive, require
from unigrpo.config.data import IMAGE_OUTPUT_TASKS, DataConfig, PromptFiles, prompt_files
from unigrpo.config.evaluation import PROTOCOLS, EvaluationProtocol, Preset
from unigrpo.config.model import ActorConfig, RefConfig
from unigrpo.config.paths import OutputPath
from unigrpo.config.reward import RewardConfig
from unigrpo.config.rollout import ImageSamplingConfig, RolloutConfig, TextSamplingConfig, check_text_steps


@dataclass(frozen=True, kw_only=True)
class TrainConfig(BaseTrainConfig):
    num_steps: int = 80
    """Number of steps. Each step generates a batch of samples and makes num_inner_updates optimizer steps."""
    num_inner_updates: int = 4
    """Number of optimizer steps for one rollout batch, each with its own masks (mu of the paper)."""
    micro_batch_size: int = 32
    """Number of rows of one forward and backward pass on one rank. A row is one masked view of one response."""
    micro_batch_tokens: int = 0
    """Largest number of tokens of such a pass, padding included; it replaces micro_batch_size. A pass has at least one
    row, even if that row is longer. 0 counts rows instead."""
    colocate_actor_ref: bool = True
    """Whether the reference uses the GPUs of the policy. If false, it has its own GPUs."""
    logprob_mismatch_steps: int = 10
    """Compare the sampler's log-probabilities with those of the training path in the first step and every this many
    steps after it; 0 never compares them."""
    logprob_mismatch_limit: float = 0.2
    """Largest allowed mean of these differences over the tokens of a task, in nats. A larger mean ends the run. The
    rounding of bfloat16 causes a mean of a few hundredths; single tokens may differ by more than 1."""

    max_skipped_updates: int = 5
    """Largest number of optimizer steps of the run that may be skipped because their loss or gradient is not finite.
    One more ends the run."""

    def __post_init__(self) -> None:
        super().__post_init__()
        require(
            self.max_skipped_updates >= 0,
            f"train.max_skipped_updates is {self.max_skipped_updates}; use 0 to end the run at the first one",
        )
        for name in ("num_inner_updates", "logprob_mismatch_limit"):
            positive(f"train.{name}", getattr(self, name))
        require(
            self.micro_batch_tokens >= 0,
            f"train.micro_batch_tokens is {self.micro_batch_tokens}; use 0 to count rows instead",
        )
        require(
            self.logprob_mismatch_steps >= 0,
            f"train.logprob_mismatch_steps is {self.logprob_mismatch_steps}; it must be 0 or more",
        )


@dataclass(frozen=True, kw_only=True)
class EvalConfig:
    dataset: PromptFiles = ""
    """Held-out prompts, in the format of data.prompt_dataset. If empty, there is no evaluation."""
    split: str = "test"
    """Split to read, if dataset is a folder or a Hugging Face data set."""
    max_samples: int = 0
    """Largest number of prompts to use; 0 uses all prompts. The first prompts of the file are used, the same number of
    each task."""
    steps: int = 0
    """Evaluate every this many steps, and before and after training; 0 evaluates only before and after."""
    n_samples_per_prompt: int = 4
    """Number of sampled responses per prompt, in addition to the greedy one."""
    preset: Preset = "training"
    """Protocol of the evaluation. `training` uses the templates and instructions of training and the sampling settings
    eval.text and eval.image. The others are the protocols of papers, which set lengths, steps, blocks, guidance,
    template, instructions and the grader (docs/evaluation.md)."""
    text: TextSamplingConfig | None = None
    """Sampling of text in evaluations with the preset `training`. If it is not set, rollout.text is used."""
    image: ImageSamplingConfig | None = None
    """Sampling of images in evaluations with the preset `training`. If it is not set, rollout.image is used."""

    def __post_init__(self) -> None:
        if self.dataset:
            prompt_files(self.dataset)
        choice("eval.preset", self.preset, get_args(Preset))
        for name in ("text", "image"):
            require(
                self.preset == "training" or getattr(self, name) is None,
                f"eval.{name} is set, but eval.preset {self.preset} sets it; leave out one of them",
            )
        if self.text is not None:
            check_text_steps("eval.text.", self.text)
        for name in ("max_samples", "steps", "n_samples_per_prompt"):
            value = getattr(self, name)
            require(value >= 0, f"eval.{name} is {value}; it must be 0 or more")


@dataclass(frozen=True, kw_only=True)
class RunConfig(BaseRunConfig):
    """A UniGRPO run."""

    title: ClassVar[str] = "UniGRPO"

    run_dir: OutputPath = "runs/unigrpo"
    """Folder to which the run writes all its files."""
    data: DataConfig = field(default_factory=DataConfig)
    """Prompts."""
    rollout: RolloutConfig = field(default_factory=RolloutConfig)
    """Sampling of responses."""
    actor: ActorConfig = field(default_factory=ActorConfig)
    """The policy and its optimizer."""
    ref: RefConfig = field(default_factory=RefConfig)
    """The frozen reference."""
    algo: AlgoConfig = field(default_factory=AlgoConfig)
    """The UniGRPO algorithm."""
    reward: RewardConfig = field(default_factory=RewardConfig)
    """Rewards."""
    train: TrainConfig = field(default_factory=TrainConfig)
    """Steps, batches and seed."""
    eval: EvalConfig = field(default_factory=EvalConfig)
    """Evaluation on held-out prompts."""

    def __post_init__(self) -> None:
        require(self.run_dir != "", "run_dir is empty; name the folder of the run")
        samples = self.rollout.batch_size * self.rollout.n_samples_per_prompt
        ranks = self.actor.num_ranks
        require(
            samples % ranks == 0,
            f"{samples} samples of a step (rollout.batch_size {self.rollout.batch_size} x "
            f"rollout.n_samples_per_prompt {self.rollout.n_samples_per_prompt}) do not divide over {ranks} policy "
            f"ranks; make rollout.batch_size a multiple of {ranks}",
        )
        require(
            self.rollout.oversample == 1 or self.algo.group_filter.name != "",
            f"rollout.oversample is {self.rollout.oversample}, but no algo.group_filter chooses among the groups; set "
            "algo.group_filter.name informative, or rollout.oversample 1",
        )
        require(
            self.actor.loss_agg_mode != "fixed_length" or self.rollout.text.max_new_tokens > 0,
            "actor.loss_agg_mode fixed_length needs rollout.text.max_new_tokens",
        )
        for term in self.reward.terms:
            kind = term.options.get("kind", "auto")
            require(
                self.eval.preset == "training" or term.name != "math_answer" or kind == "auto",
                f"reward.terms: math_answer has kind {kind!r}, but eval.preset {self.eval.preset} grades by `auto`; "
                "leave kind out",
            )
        require(
            self.algo.reference.reset_steps == 0 or self.has_reference_workers,
            "algo.reference.reset_steps moves the reference, and this run has none that can move: algo.kl.init_coef "
            "is 0, or the reference is the base model of LoRA adapters; set reset_steps 0",
        )
        require(
            self.algo.kl.estimator != "exact" or self.ds.lora.rank > 0,
            "algo.kl.estimator is exact, which compares with the base model of LoRA adapters, and ds.lora.rank is 0; "
            "set ds.lora.rank, or choose k2 or k3",
        )
        require(
            not (self.ref.offload and self.ds.zero_stage == 3),
            "ref.offload is not for ds.zero_stage 3, which shards the reference; leave one of them out",
        )

    @property
    def protocol(self) -> EvaluationProtocol:
        """The protocol of evaluations."""
        if self.eval.preset != "training":
            return PROTOCOLS[self.eval.preset]
        text, image = self.eval.text or self.rollout.text, self.eval.image or self.rollout.image
        return EvaluationProtocol(source="the settings of the run", text=text, image=image)

    @property
    def has_reference(self) -> bool:
        """Whether the policy is compared with a frozen reference."""
        return self.algo.kl.init_coef > 0

    @property
    def has_reference_workers(self) -> bool:
        """Whether the reference has its own workers. With LoRA the reference is the base model of the policy."""
        return self.has_reference and self.ds.lora.rank == 0

    @property
    def has_dedicated_reference_gpus(self) -> bool:
        """Whether the reference has its own GPUs."""
        return self.has_reference_workers and not self.train.colocate_actor_ref

    @property
    def scores_guided(self) -> bool:
        """Whether the log-probabilities of image codes are those of the guided distribution."""
        return self.rollout.image.score_guided and self.rollout.image.guidance_scale > 0

    def kl_coef(self, task: str) -> float:
        """Returns the KL coefficient of a task."""
        own = self.algo.tasks.get(task, TaskConfig()).kl_coef
        return self.algo.kl.init_coef if own is None else own

    def clip_bounds(self, task: str) -> tuple[float, float]:
        """Returns the lower and upper clip bound of a task."""
        return self.algo.tasks.get(task, TaskConfig()).eps_clip_low_high or self.actor.eps_clip_low_high

    def likelihood(self, task: str) -> LikelihoodConfig:
        """Returns the likelihood estimator of a task."""
        return self.algo.tasks.get(task, TaskConfig()).likelihood or self.algo.likelihood

    def mask_ratio(self, task: str) -> MaskRatioConfig:
        """Returns the mask ratios of a task."""
        return self.algo.tasks.get(task, TaskConfig()).mask_ratio or self.algo.mask_ratio

    def loss_coef(self, task: str) -> float:
        """Returns the factor of a task's loss in the total loss."""
        return self.algo.tasks.get(task, TaskConfig()).loss_coef

    @property
    def num_optimizer_steps(self) -> int:
        """Number of optimizer steps of the whole run."""
        return self.train.num_steps * self.train.num_inner_updates

    @property
    def num_samples_per_step(self) -> int:
        """Largest number of samples that one step trains on."""
        return self.rollout.batch_size * self.rollout.n_samples_per_prompt

    @property
    def num_generated_per_step(self) -> int:
        """Number of samples that one step generates."""
        return self.rollout.num_sampled_prompts * self.rollout.n_samples_per_prompt

    def response_tokens(self, task: str, num_image_tokens: int) -> int:
        """Returns the largest number of tokens that a sample of a task adds to its prompt: text, an image, or both for
        `r2i`."""
        longest = self.rollout.text.max_new_tokens
        if self.eval.dataset:
            longest = max(longest, self.protocol.text.max_new_tokens)
        text = 0 if task == "t2i" else longest
        return text + (num_image_tokens if task in IMAGE_OUTPUT_TASKS else 0)
