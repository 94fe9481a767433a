"""The whole run as frozen dataclasses. Wrong values fail on construction; nothing changes a config after start.

A dotted flag is the path of a field: ``--algo.kl.init_coef 0.02``. Names are OpenRLHF's where the concept is the same.
"""

from __future__ import annotations

import dataclasses
import math
import re
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol, get_args

MaskSchedule = Literal["stride", "interpolate", "random"]
TASKS = ("text", "mmu", "t2i", "r2i")
"""Text reasoning, image understanding, text-to-image, and thinking before drawing: MMaDA's names."""
Remasking = Literal["low_confidence", "random"]
TextCache = Literal["none", "prefix", "dual"]
ImageCache = Literal["none", "text"]
Fit = Literal["crop", "squash", "pad"]
"""How an image becomes a square.

`crop`: the short side is resized, and the middle cut out; how MMaDA reads photos. `squash`: both sides are resized,
whatever the shape; for charts, documents and visual questions. `pad`: white to both sides of the short one; for
geometry.
"""
PromptTemplate = Literal["chat", "chat_one_newline", "chat_two_newlines", "plain"]


def require(condition: bool, message: str) -> None:
    if not condition:
        raise ValueError(message)


def choice(name: str, value: object, allowed: tuple[str, ...]) -> None:
    require(value in allowed, f"{name}: no {value!r}; choose one of {sorted(allowed)}")


def positive(name: str, value: float) -> None:
    require(0 < value < math.inf, f"{name} is {value}; it must be a number above 0")


def within(name: str, value: float, low: float, high: float) -> None:
    require(low <= value <= high, f"{name} is {value}; it must lie in [{low}, {high}]")


@dataclass(frozen=True, kw_only=True)
class DataConfig:
    prompt_dataset: str = "examples/tiny/prompts/train.jsonl"
    """Prompts to train on: a JSONL file, several joined by commas, or the name of a Hugging Face data set."""
    prompt_probs: tuple[float, ...] = ()
    """Relative share of each file or data set of prompt_dataset among the prompts; empty goes through all as one."""
    prompt_split: str = "train"
    """Split, if prompt_dataset is a Hugging Face data set."""
    tasks: tuple[str, ...] = ()
    """Train and evaluate only on prompts of these tasks; empty is all that there are."""
    input_key: str = ""
    """Column of the question; empty finds `prompt`, `question` or `problem`."""
    label_key: str = ""
    """Column of the gold answer; empty finds `label`, `answer` or `solution`. Text behind `####` is the gold."""
    max_samples: int = 0
    """Use only the first so many prompts, of each task alike; 0 uses all."""
    max_prompt_tokens: int = 512
    """A prompt with more tokens is an error, found before training starts."""
    prompt_template: PromptTemplate = "chat"
    """`chat` applies the tokenizer's chat template, `plain` puts begin-of-text before the text. `chat_one_newline` and
    `chat_two_newlines` are the forms that MMaDA and LLaDA were trained with, whatever the tokenizer brings along."""
    instruction: str = ""
    """Text put before every question, for example the request to think first."""

    def __post_init__(self) -> None:
        require(bool(self.prompt_dataset), "data.prompt_dataset is empty; name a JSONL file or a data set")
        num_datasets = self.prompt_dataset.count(",") + 1
        require(
            len(self.prompt_probs) in (0, num_datasets),
            f"data.prompt_probs has {len(self.prompt_probs)} numbers for {num_datasets} files; give one to each",
        )
        for share in self.prompt_probs:
            positive("data.prompt_probs: a share", share)
        for task in self.tasks:
            choice("data.tasks", task, TASKS)
        require(self.max_samples >= 0, f"data.max_samples is {self.max_samples}; use 0 for all prompts")
        positive("data.max_prompt_tokens", self.max_prompt_tokens)
        choice("data.prompt_template", self.prompt_template, get_args(PromptTemplate))


@dataclass(frozen=True, kw_only=True)
class TextSamplingConfig:
    max_new_tokens: int = 256
    """Length of every response, tokens; what follows the first end-of-text is padding."""
    num_denoising_steps: int = 128
    """Forward passes for one response; a multiple of the number of blocks."""
    block_length: int = 32
    """Tokens of one block; blocks are written left to right and must divide max_new_tokens."""
    temperature: float = 1.0
    """Divides the logits when drawing and when scoring; 0 takes the most likely token."""
    top_p: float = 1.0
    """Draw only from the smallest set of tokens with this probability mass; 1 draws from all."""
    remasking: Remasking = "low_confidence"
    """Which drawn tokens stay: the most confident ones, or random ones."""
    guidance_scale: float = 0.0
    """Classifier-free guidance against the masked prompt; 0 is off."""
    threshold: float = 0.0
    """Above 0, every step fixes all tokens with at least this confidence, and at least one; replaces the schedule."""
    cache: TextCache = "none"
    """Keys and values to take from the first pass of a block in its other steps: of the tokens before it (`prefix`),
    of those before and behind it (`dual`), or `none`. Faster; what is drawn then differs a little from the model."""
    stop_at_end_of_text: bool = True
    """Once a block holds end-of-text, the rest of that response is padding and is not sampled."""

    def __post_init__(self) -> None:
        positive("block_length", self.block_length)
        positive("num_denoising_steps", self.num_denoising_steps)
        require(
            self.block_length <= self.max_new_tokens,
            f"block_length is {self.block_length}, longer than max_new_tokens {self.max_new_tokens}",
        )
        require(
            self.max_new_tokens % self.block_length == 0,
            f"max_new_tokens {self.max_new_tokens} is not a multiple of block_length {self.block_length}",
        )
        blocks = self.max_new_tokens // self.block_length
        require(
            self.num_denoising_steps % blocks == 0,
            f"num_denoising_steps {self.num_denoising_steps} is not a multiple of the {blocks} blocks of the response",
        )
        require(self.temperature >= 0, f"temperature is {self.temperature}; it must be 0 or more")
        require(0 < self.top_p <= 1, f"top_p is {self.top_p}; it must lie in (0, 1]")
        choice("remasking", self.remasking, ("low_confidence", "random"))
        choice("cache", self.cache, ("none", "prefix", "dual"))
        require(self.guidance_scale >= 0, f"guidance_scale is {self.guidance_scale}; it must be 0 or more")
        within("threshold", self.threshold, 0.0, 1.0)


@dataclass(frozen=True, kw_only=True)
class ImageSamplingConfig:
    """Sampling of images."""

    num_image_tokens: int = 1024
    """Codes of one image: (pixels of a side / 16) squared with the published tokenizer, 1024 for 512 pixels."""
    num_denoising_steps: int = 15
    """Forward passes for one image; each keeps the surest codes and hides the others again."""
    schedule: str = "cosine"
    """Share of the codes that stays hidden after each step: `cosine`, `linear`, `sigmoid`, or `pow2`, `pow0.5` ..."""
    temperature: float = 1.0
    """Divides the logits when drawing and when scoring; 0 takes the most likely code."""
    remasking_temperature: float = 1.0
    """Gumbel noise on the log-probabilities by which codes are kept, at the start; it is annealed to 0."""
    remasking_anneal: Literal["linear", "compounding"] = "linear"
    """`compounding` multiplies the linear factors of all steps so far, as the released code does."""
    guidance_scale: float = 3.5
    """Classifier-free guidance against an unconditional prompt; 0 is off."""
    cache: ImageCache = "none"
    """`text` takes the prompt's keys and values from the first step, when no code was known yet, in all others."""

    def __post_init__(self) -> None:
        positive("num_image_tokens", self.num_image_tokens)
        positive("num_denoising_steps", self.num_denoising_steps)
        require(
            re.fullmatch(r"cosine|linear|sigmoid|pow(?=.*[1-9])\d*\.?\d+", self.schedule) is not None,
            f"schedule: no {self.schedule!r}; choose `cosine`, `linear`, `sigmoid` or `pow` with an exponent, as pow2",
        )
        for name in ("temperature", "remasking_temperature", "guidance_scale"):
            require(getattr(self, name) >= 0, f"{name} is {getattr(self, name)}; it must be 0 or more")
        choice("cache", self.cache, ("none", "text"))
        choice("remasking_anneal", self.remasking_anneal, ("linear", "compounding"))


@dataclass(frozen=True, kw_only=True)
class PicturesConfig:
    tokenizer: str = ""
    """Folder or Hub name of the image tokenizer, for every task with images; empty is the folder `image_tokenizer` of
    the model, if it has one."""
    resolution: int = 256
    """Pixels of a side of every image."""
    fit: Fit = "crop"
    """How an image becomes square: `crop` the middle, `squash` or `pad` with white."""

    def __post_init__(self) -> None:
        positive("pictures.resolution", self.resolution)
        choice("pictures.fit", self.fit, get_args(Fit))


@dataclass(frozen=True, kw_only=True)
class RolloutConfig:
    batch_size: int = 16
    """Prompts of one step."""
    n_samples_per_prompt: int = 8
    """Responses of one prompt: the group whose rewards are compared."""
    micro_batch_size: int = 64
    """Responses that a worker samples at once."""
    num_workers: int = 0
    """Rollout workers, each with a GPU and a whole copy of the policy; 0 generates on the policy's workers."""
    max_staleness: int = 0
    """Steps by which the weights of a rollout may be behind. With 1, rollout workers generate for the next step while
    this one is rewarded and trained on, and the ratios are those to the older weights; 0 waits for the new ones."""
    text: TextSamplingConfig = field(default_factory=TextSamplingConfig)
    """Sampling of text responses, and of the thoughts before a drawing."""
    image: ImageSamplingConfig = field(default_factory=ImageSamplingConfig)
    """Sampling of images; `num_image_tokens` follows from pictures.resolution."""
    max_text_tokens: int = 0
    """`r2i`: end-of-text fills request and thoughts up to so many tokens, as in training; 0 takes the number of the
    policy's config.json, and without one there closes them with one end-of-text."""

    def __post_init__(self) -> None:
        positive("rollout.batch_size", self.batch_size)
        positive("rollout.micro_batch_size", self.micro_batch_size)
        require(self.num_workers >= 0, f"rollout.num_workers is {self.num_workers}; it must be 0 or more")
        require(
            self.max_staleness in (0, 1),
            f"rollout.max_staleness is {self.max_staleness}; choose 0, or 1: one step is generated ahead, never more",
        )
        require(
            self.num_workers > 0 or self.max_staleness == 0,
            "rollout.max_staleness is 1 without rollout workers: the policy's workers cannot generate while they "
            "train; set rollout.num_workers, or rollout.max_staleness 0",
        )
        require(
            self.n_samples_per_prompt >= 2,
            f"rollout.n_samples_per_prompt is {self.n_samples_per_prompt}: group advantages would all be 0; "
            "use at least 2",
        )
        for name in ("text", "image"):
            require(
                getattr(self, name).temperature > 0,
                f"rollout.{name}.temperature is 0: all samples of a prompt would be equal; use 1.0",
            )


@dataclass(frozen=True, kw_only=True)
class AdamConfig:
    lr: float = 1e-6
    """Peak learning rate."""
    betas: tuple[float, float] = (0.9, 0.999)
    """Decay of the first and second moments."""
    eps: float = 1e-8
    """Added to the root of the second moment."""
    weight_decay: float = 0.0
    """Decoupled weight decay; norms are exempt."""

    def __post_init__(self) -> None:
        positive("actor.adam.lr", self.lr)
        for beta in self.betas:
            require(0 <= beta < 1, f"actor.adam.betas holds {beta}; each must lie in [0, 1)")
        require(self.weight_decay >= 0, f"actor.adam.weight_decay is {self.weight_decay}; it must be 0 or more")


@dataclass(frozen=True, kw_only=True)
class ActorConfig:
    model_name_or_path: str = "examples/tiny/model"
    """Folder or Hub name of the policy, in the published MMaDA or LLaDA layout."""
    num_nodes: int = 1
    """Nodes of the policy group."""
    num_gpus_per_node: int = 1
    """Policy ranks on each node. On a CPU, the GPUs that Ray was told to have."""
    adam: AdamConfig = field(default_factory=AdamConfig)
    """AdamW."""
    lr_scheduler: Literal["constant_with_warmup", "cosine_with_min_lr", "linear"] = "constant_with_warmup"
    """Learning-rate schedule over all optimizer steps of the run."""
    lr_warmup_ratio: float = 0.03
    """Share of the optimizer steps that warm up."""
    min_lr_ratio: float = 0.1
    """Floor of cosine_with_min_lr, as a share of the peak."""
    max_norm: float = 1.0
    """Gradients are scaled down to this norm; 0 leaves them."""
    eps_clip_low_high: tuple[float, float] = (0.2, 0.2)
    """The ratio is followed only within [1 - low, 1 + high]."""
    loss_agg_mode: Literal["masked_token_mean", "token_mean", "fixed_length"] = "masked_token_mean"
    """Mean over the masked tokens of a response and then over responses; over all tokens; or by a fixed length."""
    gradient_checkpointing_enable: bool = False
    """Recompute activations in the backward pass: less memory, about a third more time."""

    def __post_init__(self) -> None:
        positive("actor.num_nodes", self.num_nodes)
        positive("actor.num_gpus_per_node", self.num_gpus_per_node)
        choice("actor.lr_scheduler", self.lr_scheduler, ("constant_with_warmup", "cosine_with_min_lr", "linear"))
        within("actor.lr_warmup_ratio", self.lr_warmup_ratio, 0.0, 1.0)
        within("actor.min_lr_ratio", self.min_lr_ratio, 0.0, 1.0)
        require(self.max_norm >= 0, f"actor.max_norm is {self.max_norm}; use 0 to leave gradients as they are")
        low, high = self.eps_clip_low_high
        require(0 < low < 1, f"actor.eps_clip_low_high: low is {low}; it must lie in (0, 1)")
        positive("actor.eps_clip_low_high: high", high)
        choice("actor.loss_agg_mode", self.loss_agg_mode, ("masked_token_mean", "token_mean", "fixed_length"))

    @property
    def num_ranks(self) -> int:
        """Processes, each with one GPU."""
        return self.num_nodes * self.num_gpus_per_node


@dataclass(frozen=True, kw_only=True)
class RefConfig:
    offload: bool = False
    """Keep the reference's weights in CPU memory between uses."""


@dataclass(frozen=True, kw_only=True)
class LikelihoodConfig:
    name: str = "masked_tokens"
    """Estimator: a file of unigrpo/algorithm/likelihood."""
    options: dict[str, Any] = field(default_factory=dict[str, Any])
    """Keyword arguments of the estimator, for example `{masking: exact_count}`."""


@dataclass(frozen=True, kw_only=True)
class MaskRatioConfig:
    schedule: MaskSchedule = "stride"
    """How the ratios of the inner updates follow from one random start: `stride` (the paper's example), `interpolate`
    (its Algorithm 1) or `random` (independent)."""
    minimum: float = 0.0
    """Ratios are mapped into [minimum, maximum]."""
    maximum: float = 1.0
    """Ratios are mapped into [minimum, maximum]."""

    def __post_init__(self) -> None:
        choice("algo.mask_ratio.schedule", self.schedule, ("stride", "interpolate", "random"))
        require(
            0 <= self.minimum <= self.maximum <= 1 and self.maximum > 0,
            f"algo.mask_ratio: minimum {self.minimum} and maximum {self.maximum} must satisfy "
            "0 <= minimum <= maximum <= 1 and 0 < maximum",
        )


@dataclass(frozen=True, kw_only=True)
class AdvantageConfig:
    estimator: Literal["group_norm", "mean_only", "leave_one_out"] = "group_norm"
    """Reward minus the group mean over its standard deviation; without the division; or minus the others' mean."""

    def __post_init__(self) -> None:
        choice("algo.advantage.estimator", self.estimator, ("group_norm", "mean_only", "leave_one_out"))


@dataclass(frozen=True, kw_only=True)
class KLConfig:
    init_coef: float = 0.01
    """Coefficient beta of the KL to the reference; 0 runs without a reference model."""
    estimator: Literal["k1", "k2", "k3"] = "k3"
    """Estimator of the KL from log-ratios."""

    def __post_init__(self) -> None:
        require(self.init_coef >= 0, f"algo.kl.init_coef is {self.init_coef}; it must be 0 or more")
        choice("algo.kl.estimator", self.estimator, ("k1", "k2", "k3"))


@dataclass(frozen=True, kw_only=True)
class TaskConfig:
    loss_coef: float = 1.0
    """Factor of this task's part of the loss."""
    kl_coef: float | None = None
    """In the place of algo.kl.init_coef; not above 0 without a reference, which that one decides on."""
    eps_clip_low_high: tuple[float, float] | None = None
    """In the place of actor.eps_clip_low_high."""

    def __post_init__(self) -> None:
        for name in ("loss_coef", "kl_coef"):
            value = getattr(self, name)
            require(value is None or value >= 0, f"algo.tasks: {name} is {value}; it must be 0 or more")


@dataclass(frozen=True, kw_only=True)
class AlgoConfig:
    likelihood: LikelihoodConfig = field(default_factory=LikelihoodConfig)
    """Per-token log-likelihood."""
    mask_ratio: MaskRatioConfig = field(default_factory=MaskRatioConfig)
    """Structured masking of the responses."""
    advantage: AdvantageConfig = field(default_factory=AdvantageConfig)
    """Rewards of a group -> advantages."""
    kl: KLConfig = field(default_factory=KLConfig)
    """Distance to the frozen reference."""
    tasks: dict[str, TaskConfig] = field(default_factory=dict[str, TaskConfig])
    """What a task has of its own, by `text`, `mmu`, `t2i` and `r2i`; a task that is not named has what all have."""

    def __post_init__(self) -> None:
        for name, task in self.tasks.items():
            choice("algo.tasks", name, TASKS)
            require(
                not task.kl_coef or self.kl.init_coef > 0,
                f"algo.tasks.{name}.kl_coef is {task.kl_coef}, but algo.kl.init_coef is 0, which runs no reference",
            )


@dataclass(frozen=True, kw_only=True)
class RewardTermConfig:
    name: str
    """A file of rewards/, or `path/to/file.py:function`, or `package.module:Class`."""
    weight: float = 1.0
    """Factor of this reward in the total; 0 is a hold-out: logged, never trained on."""
    options: dict[str, Any] = field(default_factory=dict[str, Any])
    """Keyword arguments of the reward."""
    tasks: tuple[str, ...] = ()
    """Tasks that it pays for; empty is all."""
    style: Literal["auto", "unigrpo", "trl", "openrlhf", "verl"] = "auto"
    """Whose convention a function follows; `auto` reads its signature."""
    required: bool = True
    """A sample without this reward is not trained on. If false, it is left out for the sample's whole group."""
    batch_size: int = 0
    """Samples of one call; 0 shares all of a step among the workers."""
    timeout_seconds: float = 120.0
    """A call that takes longer is ended with its process, which is started again."""
    load_timeout_seconds: float = 1800.0
    """A reward that is not ready by then, its weights loaded or its server reached, stops the start of the run."""
    attempts: int = 2
    """How often a call is made before its samples count as missing."""
    num_workers: int = 1
    """Processes of this reward."""
    concurrency: int = 1
    """Calls at a time in one process, as threads."""
    num_cpus: float = 1.0
    """CPUs of one process, as Ray counts them."""
    num_gpus: float = 0.0
    """GPUs of one process; a fraction shares one."""

    def __post_init__(self) -> None:
        where = f"reward.terms: {self.name}"
        for task in self.tasks:
            choice(f"{where}: tasks", task, TASKS)
        for name in ("timeout_seconds", "load_timeout_seconds", "attempts", "num_workers", "concurrency"):
            positive(f"{where}: {name}", getattr(self, name))
        for name in ("batch_size", "num_cpus", "num_gpus"):
            require(getattr(self, name) >= 0, f"{where}: {name} is {getattr(self, name)}; it must be 0 or more")


@dataclass(frozen=True, kw_only=True)
class RewardConfig:
    terms: tuple[RewardTermConfig, ...] = (
        RewardTermConfig(name="math_answer", weight=2.0),
        RewardTermConfig(name="cot_format", weight=0.5),
    )
    """Rewards and their weights; the defaults are the paper's for text reasoning."""
    max_missing_share: float = 0.2
    """Share of a step's samples that may lack a required reward. A step beyond it changes no weights."""
    max_failed_steps: int = 1
    """Such steps in a row after which the run stops."""

    def __post_init__(self) -> None:
        require(len(self.terms) > 0, "reward.terms is empty; name at least one reward")
        names = [t.name for t in self.terms]
        require(len(set(names)) == len(names), f"reward.terms names a reward twice: {names}")
        require(any(t.weight for t in self.terms), "every weight of reward.terms is 0; train on at least one reward")
        require(0 <= self.max_missing_share <= 1, f"reward.max_missing_share is {self.max_missing_share}; use 0 to 1")
        positive("reward.max_failed_steps", self.max_failed_steps)


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
    parity_steps: int = 10
    """Every so many steps, from the first on, the sampler's log-probabilities are computed again by the training path
    and compared; 0 never does."""
    parity_limit: float = 0.5
    """Largest difference, nats, that is taken for rounding; more stops the run. bfloat16 rounds by some hundredths."""

    def __post_init__(self) -> None:
        for name in ("num_steps", "num_inner_updates", "micro_batch_size", "parity_limit"):
            positive(f"train.{name}", getattr(self, name))
        require(self.parity_steps >= 0, f"train.parity_steps is {self.parity_steps}; it must be 0 or more")


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


LAYERS = ("q_proj", "k_proj", "v_proj", "attn_out", "ff_proj", "up_proj", "ff_out")
"""Linear layers of a block."""


@dataclass(frozen=True, kw_only=True)
class LoRAConfig:
    rank: int = 0
    """Rank of the adapters that are trained in the place of the weights; 0 trains the weights."""
    alpha: int = 16
    """The adapters count alpha / rank."""
    target_modules: tuple[str, ...] = LAYERS
    """Layers of each block that have one."""

    def __post_init__(self) -> None:
        require(self.rank >= 0, f"ds.lora.rank is {self.rank}; use 0 to train the weights themselves")
        positive("ds.lora.alpha", self.alpha)
        require(bool(self.target_modules), "ds.lora.target_modules is empty; name at least one layer")
        for name in self.target_modules:
            choice("ds.lora.target_modules", name, LAYERS)


@dataclass(frozen=True, kw_only=True)
class DeepSpeedConfig:
    zero_stage: Literal[0, 1, 2, 3] = 2
    """What DeepSpeed shards over the ranks: 1 optimizer states, 2 also gradients, 3 also weights."""
    param_dtype: Literal["fp32", "bf16"] = "bf16"
    """Type of the weights in the forward pass; the optimizer keeps float32 masters."""
    adam_offload: bool = False
    """Optimizer states in CPU memory."""
    attn_implementation: Literal["sdpa", "flash_attention_2", "eager"] = "sdpa"
    """Attention kernel."""
    lora: LoRAConfig = field(default_factory=LoRAConfig)
    """Low-rank adapters. The base below them is the reference, so that no second copy of the weights is kept."""

    def __post_init__(self) -> None:
        require(self.zero_stage in (0, 1, 2, 3), f"ds.zero_stage is {self.zero_stage}; choose one of [0, 1, 2, 3]")
        choice("ds.param_dtype", self.param_dtype, ("fp32", "bf16"))
        choice("ds.attn_implementation", self.attn_implementation, ("sdpa", "flash_attention_2", "eager"))


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
    pictures: PicturesConfig = field(default_factory=PicturesConfig)
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
