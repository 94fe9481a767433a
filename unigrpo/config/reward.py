"""Settings of the rewards."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal, get_args

from unigrpo.config.checks import choice, positive, require
from unigrpo.config.data import RESPONSE_SPANS, TASKS
from unigrpo.config.paths import FunctionPath, OptionPaths

GoldFilter = Literal["", "with_gold", "without_gold"]
Span = Literal["", "thoughts", "image"]
COMPUTING = (
    "math_answer", "clip_score", "pick_score", "hpsv2", "image_reward", "aesthetic", "jpeg_size", "geneval",
    "ocr",
)  # fmt: skip
"""Rewards that keep a CPU busy while they score."""
POLICY_GPU_FRACTION = 0.1
"""Fraction of a policy's GPU that Ray reserves for a process of a reward with `on_policy_gpus`."""
FEW_CPUS = 0.1
"""Number of CPUs that Ray reserves for a process that computes little."""


@dataclass(frozen=True, kw_only=True)
class RewardTermConfig:
    name: FunctionPath
    """The reward: the name of a file in rewards/, or `path/to/file.py:function`, or `package.module:Class`."""
    weight: float = 1.0
    """Factor of this reward in the total reward. A reward with weight 0 is logged and not trained on."""
    options: OptionPaths = field(default_factory=dict[str, Any])
    """Keyword arguments of the reward."""
    tasks: tuple[str, ...] = ()
    """Tasks that this reward scores; if empty, it scores all tasks."""
    only: GoldFilter = ""
    """Whether this reward scores only prompts with a gold answer, or only those without one, such as requests to
    describe an image; if empty, it scores both."""
    span: Span = ""
    """Part of the response to which this reward applies: `thoughts` (the text) or `image`. Only the advantage of this
    part depends on the reward. If empty, the reward applies to the whole response. A reward with a span must list its
    tasks."""
    style: Literal["auto", "unigrpo", "trl", "openrlhf", "verl", "verl_batch"] = "auto"
    """Calling convention of a reward function. `auto` infers it from the signature."""
    required: bool = True
    """What happens if this reward is missing for a sample. If true, the sample is not trained on. If false, the reward
    is left out for all samples of its group."""
    batch_size: int = 0
    """Number of samples of one call. 0 divides the samples of a step evenly among the processes; a call of a reward
    with a model then has at most as many as its measured rate allows before the deadline."""
    timeout_seconds: float = 120.0
    """Deadline of one call, in seconds. If a call takes longer, its process is ended and started again."""
    load_timeout_seconds: float = 1800.0
    """Longest time in seconds until a reward is ready, with its weights loaded or its server reached. If it takes
    longer, the run ends with an error before it starts."""
    check_timeout_seconds: float = 120.0
    """Longest duration in seconds of import and constructor before the run starts, and of each check of 256
    prompts."""
    attempts: int = 2
    """Number of attempts at a call before its samples count as missing."""
    num_workers: int = 0
    """Number of processes of this reward. 0 means one; for a reward with a model on CPUs, it means as many as its
    measured rate requires and the free CPUs allow."""
    concurrency: int = 1
    """Number of simultaneous calls in one process, each in a thread."""
    on_policy_gpus: bool = False
    """Whether each GPU of the policy also has a process of this reward. Ray reserves a tenth of the GPU for it, and it
    scores at the same time as the policy. Rewards with an image model need this setting or many CPUs."""
    num_cpus: float | None = None
    """Number of CPUs of one process, as Ray counts them. The default is 1 for rewards that keep a CPU busy, such as
    those with a model, and 0.1 for functions and for rewards that wait for a server."""
    num_gpus: float = 0.0
    """Number of GPUs of one process. With a fraction, several processes use one GPU."""

    @property
    def cpus(self) -> float:
        """Number of CPUs of one process."""
        if self.num_cpus is not None:
            return self.num_cpus
        return 1.0 if self.name in COMPUTING else FEW_CPUS

    @property
    def min_workers(self) -> int:
        """Smallest number of processes of the reward."""
        return max(self.num_workers, 1)

    def __post_init__(self) -> None:
        where = f"reward.terms: {self.name}"
        for task in self.tasks:
            choice(f"{where}: tasks", task, TASKS)
        choice(f"{where}: only", self.only, get_args(GoldFilter))
        choice(f"{where}: span", self.span, get_args(Span))
        lacking = [task for task in self.tasks or TASKS if self.span and self.span not in RESPONSE_SPANS[task]]
        require(
            not lacking,
            f"{where}: span is {self.span}, but the responses of {', '.join(lacking)} have no {self.span}; list only "
            f"the tasks that have it: {', '.join(task for task in TASKS if self.span in RESPONSE_SPANS[task])}",
        )
        for name in ("timeout_seconds", "load_timeout_seconds", "check_timeout_seconds", "attempts", "concurrency"):
            positive(f"{where}: {name}", getattr(self, name))
        require(
            not self.on_policy_gpus or (self.num_workers, self.num_gpus) == (0, 0),
            f"{where}: on_policy_gpus has one process on each GPU of the policy; leave out num_workers and num_gpus",
        )
        for name in ("batch_size", "num_cpus", "num_gpus", "num_workers"):
            value = getattr(self, name)
            require(value is None or value >= 0, f"{where}: {name} is {value}; it must be 0 or more")


@dataclass(frozen=True, kw_only=True)
class RewardConfig:
    terms: tuple[RewardTermConfig, ...] = (
        RewardTermConfig(name="math_answer", weight=2.0),
        RewardTermConfig(name="cot_format", weight=0.5),
    )
    """Rewards with their weights. The defaults are those of the paper for text reasoning."""
    max_missing_fraction: float = 0.2
    """Largest fraction of a step's samples for which a required reward may be missing. If more are missing, the step
    does not change the weights."""
    max_failed_steps: int = 1
    """Number of consecutive steps with too many missing rewards after which the run ends."""
    max_steps_without_spread: int = 20
    """Number of consecutive steps with equal rewards within every group after which the run ends; 0 never ends it. The
    log warns of every such step."""

    @property
    def has_spans(self) -> bool:
        """Whether some reward applies only to a part of the response."""
        return any(term.span for term in self.terms)

    def __post_init__(self) -> None:
        require(len(self.terms) > 0, "reward.terms is empty; name at least one reward")
        names = [t.name for t in self.terms]
        require(len(set(names)) == len(names), f"reward.terms names a reward twice: {names}")
        beside = sum(t.on_policy_gpus for t in self.terms)
        require(beside <= 5, f"{beside} rewards have on_policy_gpus; at most 5 of them leave the policy half of a GPU")
        require(any(t.weight for t in self.terms), "every weight of reward.terms is 0; train on at least one reward")
        require(
            0 <= self.max_missing_fraction <= 1,
            f"reward.max_missing_fraction is {self.max_missing_fraction}; use 0 to 1",
        )
        positive("reward.max_failed_steps", self.max_failed_steps)
        require(self.max_steps_without_spread >= 0, "reward.max_steps_without_spread must be 0 or more")

    @property
    def looks_at_golds(self) -> bool:
        """Whether some reward scores only prompts with a gold answer, or only those without one."""
        return any(term.only for term in self.terms)
