"""UniGRPO itself: likelihoods, masks, advantages, KL, and what a task has of its own."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal

from unigrpo.config.checks import choice, require
from unigrpo.config.data import TASKS

MaskSchedule = Literal["stride", "interpolate", "random"]


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
