"""Ends a run with too many missing rewards, or with rewards that never differ."""

from __future__ import annotations

import logging
from collections.abc import Sequence

from jaxtyping import Bool, Float
from torch import Tensor

from unigrpo.config import RewardConfig
from unigrpo.records import RewardOutput, Rollout

logger = logging.getLogger(__name__)


class RewardError(RuntimeError):
    """The rewards of a run do not allow it to continue. The message names a reward and a sample."""


class FailureGuard:
    """Counts the steps in a row whose rewards are missing or do not differ, and ends the run after too many."""

    def __init__(self, config: RewardConfig, names: Sequence[str]) -> None:
        """Starts to count at 0.

        Args:
            config: The terms and limits.
            names: Names of the rewards, in the order of the terms.
        """
        self._config = config
        self._terms = dict(zip(names, config.terms, strict=True))
        self._failed_steps = self._flat_steps = 0

    def check_missing(
        self, outputs: Sequence[RewardOutput], valid: Bool[Tensor, " B"], rollouts: Sequence[Rollout]
    ) -> bool:
        """Returns whether enough samples of the step have their rewards to train on it.

        Raises:
            RewardError: Too many were missing in ``reward.max_failed_steps`` steps in a row.
        """
        fraction = 1 - valid.float().mean().item()
        if fraction == 0:
            self._failed_steps = 0
            return True
        message = self._message(outputs, valid, rollouts)
        if fraction <= self._config.max_missing_fraction:
            self._failed_steps = 0
            logger.warning("%s; these samples are left out", message)
            return True
        self._failed_steps += 1
        if self._failed_steps >= self._config.max_failed_steps:
            raise RewardError(
                f"{message}. That is more than reward.max_missing_fraction {self._config.max_missing_fraction:g}, in "
                f"{self._failed_steps} of at most {self._config.max_failed_steps} steps in a row "
                "(reward.max_failed_steps); they changed no weights"
            )
        logger.warning("%s; this step changes no weights", message)
        return False

    def check_spread(
        self, advantages: Float[Tensor, "B S"], outputs: Sequence[RewardOutput], rollouts: Sequence[Rollout]
    ) -> None:
        """Warns of a step with equal rewards within every group, in which the policy learns nothing.

        Raises:
            RewardError: There were ``reward.max_steps_without_spread`` such steps in a row.
        """
        if bool(advantages.any()):
            self._flat_steps = 0
            return
        self._flat_steps += 1
        values = ", ".join(f"{name} {value:.4g}" for name, value in outputs[0].parts.items() if value is not None)
        message = (
            f"the rewards are equal within every group of this step, so it teaches nothing ({values} for the first "
            f"completion, {rollouts[0].completion[-200:]!r})"
        )
        limit = self._config.max_steps_without_spread
        if limit and self._flat_steps >= limit:
            raise RewardError(
                f"{message}. It was so in {self._flat_steps} steps in a row (reward.max_steps_without_spread). Try "
                "the rewards on these completions with `unigrpo try-reward`, or train on prompts that the policy "
                "solves sometimes"
            )
        logger.warning("%s", message)

    def _message(self, outputs: Sequence[RewardOutput], valid: Bool[Tensor, " B"], rollouts: Sequence[Rollout]) -> str:
        first = int((~valid).nonzero()[0])
        reasons = outputs[first].reasons
        name = next(name for name in reasons if self._terms[name].required and self._terms[name].weight)
        key = rollouts[first].key
        return (
            f"reward {name!r} {reasons[name]}: {int((~valid).sum())} of {len(outputs)} samples have no reward, the "
            f"first is sample {key.sample_id} of prompt {key.prompt_id}; completion: "
            f"{rollouts[first].completion[:200]!r}"
        )
