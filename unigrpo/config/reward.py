"""What the policy is paid for."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal

from unigrpo.config.checks import choice, positive, require
from unigrpo.config.data import TASKS


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
