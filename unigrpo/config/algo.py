"""Settings of the UniGRPO algorithm: likelihoods, masks, advantages, KL, and values that differ by task."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal, get_args

from unigrpo.config.checks import choice, require
from unigrpo.config.data import TASKS

MaskSchedule = Literal["stride", "interpolate", "random"]
LEVELS = ("token", "view_token", "view", "span", "sequence")
"""Units of an objective, from small to large: a token over all its views; a token in one view; all tokens of a view;
all tokens of a part of the response; all tokens of the response."""
KL_ESTIMATORS = ("exact", "k2", "k3")
"""Estimators of the KL divergence that a loss may use."""


@dataclass(frozen=True, kw_only=True)
class LikelihoodConfig:
    name: str = "masked_tokens"
    """Estimator of the per-token log-likelihood: the name of a file in unigrpo/algorithm/likelihood."""
    options: dict[str, Any] = field(default_factory=dict[str, Any])
    """Keyword arguments of the estimator, for example `{masking: exact_count}`."""


@dataclass(frozen=True, kw_only=True)
class MaskRatioConfig:
    schedule: MaskSchedule = "stride"
    """How the mask ratios of the inner updates follow from one random start: `stride` (the paper's example),
    `interpolate` (the paper's Algorithm 1) or `random` (independent ratios)."""
    minimum: float = 0.0
    """Smallest mask ratio. The ratios of the schedule are mapped linearly into [minimum, maximum]."""
    maximum: float = 1.0
    """Largest mask ratio. The ratios of the schedule are mapped linearly into [minimum, maximum]."""

    shuffle: bool = False
    """Whether each response uses the ratios of the schedule in a random order. Otherwise the ratios of `stride` and
    `interpolate` rise from one inner update to the next, so that the largest ratio always comes in the last one."""

    def __post_init__(self) -> None:
        choice("algo.mask_ratio.schedule", self.schedule, get_args(MaskSchedule))
        require(
            0 <= self.minimum <= self.maximum <= 1 and self.maximum > 0,
            f"algo.mask_ratio: minimum {self.minimum} and maximum {self.maximum} must satisfy "
            "0 <= minimum <= maximum <= 1 and 0 < maximum",
        )


@dataclass(frozen=True, kw_only=True)
class ObjectiveConfig:
    name: str = "clipped"
    """Objective: the name of a file in unigrpo/algorithm/objective."""
    level: str = ""
    """Units whose log-probabilities are added up before a ratio is computed: `token`, `view_token`, `view`, `span`
    (part of a response) or `sequence`. If empty, it is the default of the objective."""
    options: dict[str, Any] = field(default_factory=dict[str, Any])
    """Other keyword arguments of the objective, for example `{normalise: weights}`."""

    @property
    def arguments(self) -> dict[str, Any]:
        """All keyword arguments of the objective."""
        return self.options | ({"level": self.level} if self.level else {})


@dataclass(frozen=True, kw_only=True)
class AdvantageConfig:
    name: str = "group_norm"
    """How a reward becomes an advantage: the name of a file in unigrpo/algorithm/advantage. `group_norm` subtracts the
    group mean and divides by the group's standard deviation; `mean_only` only subtracts the mean; `leave_one_out`
    subtracts the mean of the other samples of the group; `wd1` takes differences of softmaxes."""
    options: dict[str, Any] = field(default_factory=dict[str, Any])
    """Keyword arguments of the estimator, for example `{temperature: 0.5}`."""
    min_spread: float = 0.0
    """Largest standard deviation of the rewards of a group at which all its advantages are 0. The rewards of a model
    can differ by rounding even if the samples are equal."""
    estimator: str = ""
    """Former name of `name`, which it replaces if it is not empty."""

    def __post_init__(self) -> None:
        require(self.min_spread >= 0, f"algo.advantage.min_spread is {self.min_spread}; it must be 0 or more")

    @property
    def file(self) -> str:
        """The name of the estimator's file."""
        return self.estimator or self.name


@dataclass(frozen=True, kw_only=True)
class GroupFilterConfig:
    name: str = ""
    """Filter of groups: the name of a file in unigrpo/algorithm/group_filter. `informative` keeps the groups whose
    rewards differ (DAPO). If empty, a step trains on all groups. With a filter, log-probabilities are computed after
    the rewards, and only for the groups that are kept."""
    options: dict[str, Any] = field(default_factory=dict[str, Any])
    """Keyword arguments of the filter, for example `{min_spread: 0.01}`."""


@dataclass(frozen=True, kw_only=True)
class KLConfig:
    init_coef: float = 0.01
    """Coefficient beta of the KL divergence to the reference; 0 runs without a reference model."""
    estimator: str = "k3"
    """Estimator of the KL divergence from log-ratios: `k2`, whose gradient is that of KL(policy || reference), or
    `k3`, whose gradient is that of KL(reference || policy). `k1` has no gradient on average and is refused. `exact` is
    KL(policy || reference) of the whole distribution at every scored token; it needs ds.lora, whose base model is the
    reference and computes its part in the same passes."""
    level: str = "token"
    """Units whose log-ratios are added up before the KL is estimated; see algo.objective.level."""

    def __post_init__(self) -> None:
        require(self.init_coef >= 0, f"algo.kl.init_coef is {self.init_coef}; it must be 0 or more")
        check_kl_estimator(self.estimator)
        choice("algo.kl.level", self.level, LEVELS)


def check_kl_estimator(estimator: str) -> None:
    """Raises ConfigError unless a loss may use the estimator of the KL divergence."""
    require(
        estimator != "k1",
        "algo.kl.estimator is 'k1', whose gradient is 0 on average: it would not hold the policy near the "
        f"reference; choose one of {sorted(KL_ESTIMATORS)}",
    )
    choice("algo.kl.estimator", estimator, KL_ESTIMATORS)


@dataclass(frozen=True, kw_only=True)
class ReferenceConfig:
    reset_steps: int = 0
    """Update the reference from the policy every this many steps, so that the KL limits the change of the policy in
    that many steps and not in the whole run; 0 keeps the first reference. It cannot be used with LoRA, whose reference
    is the base model."""
    ema: float = 0.0
    """Decay of the reference in such an update: new reference = ema x reference + (1 - ema) x policy. 0 copies the
    policy. With a value above 0, every rank of the reference keeps a float32 copy of its weights in CPU memory."""

    def __post_init__(self) -> None:
        require(
            self.reset_steps >= 0,
            f"algo.reference.reset_steps is {self.reset_steps}; use 0 to keep the first reference",
        )
        require(0 <= self.ema < 1, f"algo.reference.ema is {self.ema}; it must lie in [0, 1)")
        require(
            self.ema == 0 or self.reset_steps > 0,
            f"algo.reference.ema is {self.ema}, but reset_steps is 0, which never moves the reference",
        )


@dataclass(frozen=True, kw_only=True)
class TaskConfig:
    loss_coef: float = 1.0
    """Factor of this task's loss in the total loss."""
    kl_coef: float | None = None
    """KL coefficient of this task, which replaces algo.kl.init_coef. It can be above 0 only if algo.kl.init_coef is,
    because that setting decides whether the run has a reference."""
    eps_clip_low_high: tuple[float, float] | None = None
    """Clip bounds of this task, which replace actor.eps_clip_low_high."""
    likelihood: LikelihoodConfig | None = None
    """Likelihood estimator of this task, which replaces algo.likelihood."""
    mask_ratio: MaskRatioConfig | None = None
    """Mask ratios of this task, which replace algo.mask_ratio."""

    def __post_init__(self) -> None:
        for name in ("loss_coef", "kl_coef"):
            value = getattr(self, name)
            require(value is None or value >= 0, f"algo.tasks: {name} is {value}; it must be 0 or more")


@dataclass(frozen=True, kw_only=True)
class AlgoConfig:
    likelihood: LikelihoodConfig = field(default_factory=LikelihoodConfig)
    """Estimator of the per-token log-likelihood."""
    mask_ratio: MaskRatioConfig = field(default_factory=MaskRatioConfig)
    """Mask ratios of the inner updates."""
    objective: ObjectiveConfig = field(default_factory=ObjectiveConfig)
    """Objective, which is computed from log-likelihoods and advantages."""
    advantage: AdvantageConfig = field(default_factory=AdvantageConfig)
    """Estimator of the advantages from the rewards of a group."""
    group_filter: GroupFilterConfig = field(default_factory=GroupFilterConfig)
    """Choice of the groups that a step trains on."""
    kl: KLConfig = field(default_factory=KLConfig)
    """KL divergence to the reference."""
    reference: ReferenceConfig = field(default_factory=ReferenceConfig)
    """Updates of the reference from the policy."""
    tasks: dict[str, TaskConfig] = field(default_factory=dict[str, TaskConfig])
    """Settings that differ by task, under the keys `text`, `mmu` (image understanding), `t2i` (text to image) and
    `r2i` (thinking, then text to image). A task without an entry uses the common settings."""

    def __post_init__(self) -> None:
        for name, task in self.tasks.items():
            choice("algo.tasks", name, TASKS)
            require(
                not task.kl_coef or self.kl.init_coef > 0,
                f"algo.tasks.{name}.kl_coef is {task.kl_coef}, but algo.kl.init_coef is 0, which runs no reference",
            )
