"""What travels between the stops of a step: prompts, rollouts, rewards, mask plans and training samples.

Axes: B batch, L sequence, V views of one mask plan, K inner updates. A record of one sample has no padding; the
workers pad when they collate.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from jaxtyping import Bool, Float, Int
from torch import Tensor


@dataclass(frozen=True, kw_only=True)
class Prompt:
    """One question of a prompt file.

    >>> Prompt(id="train.jsonl:1", text="2+3=?", label="5").task
    'text'
    """

    id: str
    """File and line, unique within a run; named in every error about this prompt."""
    text: str
    """What the user asks."""
    label: str | None = None
    """Gold answer, as the rewards get it."""
    task: str = "text"
    """One of :data:`unigrpo.config.TASKS`."""
    images: tuple[str, ...] = ()
    """Paths of the input images."""
    metadata: Mapping[str, Any] = field(default_factory=dict[str, Any])
    """The other columns of the line, handed to the rewards."""
    dataset: str = ""
    """The file or data set that it is from, as the config names it."""


@dataclass(frozen=True, kw_only=True)
class SampleRequest:
    """One rollout to draw. Its random numbers depend on (run seed, step, sample_id) alone."""

    prompt: Prompt
    group_id: int
    """Prompt of the step's batch; equal for the samples of one prompt."""
    sample_id: int
    """Unique within the step."""
    step: int
    """Step of the run, from 0; -1 in evaluation."""


@dataclass(frozen=True, kw_only=True)
class Rollout:
    """One finished response, without padding. L is the length of prompt and response together."""

    request: SampleRequest
    policy_version: int
    """Number of optimizer steps the policy had made when it wrote this."""
    token_ids: Int[Tensor, " L"]
    """The clean sequence x0."""
    response_mask: Bool[Tensor, " L"]
    """Written by the policy."""
    scored_mask: Bool[Tensor, " L"]
    """Response tokens up to and including the first end-of-text; what follows is padding and never scored."""
    completion: str
    """The response as text: cut at the first end-of-text, other special tokens kept. Empty for images."""
    commit_step: Int[Tensor, " L"]
    """Denoising step at which the sampler fixed the token; -1 outside the response."""
    commit_log_probs: Float[Tensor, " L"]
    """Log-probability (nats) of the token when it was fixed; 0 outside the response."""
    image_mask: Bool[Tensor, " L"]
    """Image tokens of the response, whose probabilities are among the image codes and not the whole vocabulary."""
    image: np.ndarray | None = None
    """Generated picture, uint8 (H, W, 3)."""


@dataclass(frozen=True, kw_only=True)
class RewardOutput:
    """The rewards of one rollout."""

    parts: dict[str, float | None]
    """Unweighted value of each reward, by name; None is missing, which is not 0."""
    reasons: dict[str, str] = field(default_factory=dict[str, str])
    """Why a reward is missing, by name."""


@dataclass(frozen=True, kw_only=True)
class SequenceMasks:
    """Which tokens of a padded batch are real, written by the policy, and scored. Each contains the next."""

    token_mask: Bool[Tensor, "B L"]
    """False on padding."""
    response_mask: Bool[Tensor, "B L"]
    """Written by the policy."""
    scored_mask: Bool[Tensor, "B L"]
    """The response without the padding after its first end-of-text."""


@dataclass(frozen=True, kw_only=True)
class MaskPlan:
    """Which tokens each view hides and how much each scored token counts.

    The log-likelihood of a token is the weighted sum of its log-probabilities over the views. A plan for a response of
    two tokens behind one prompt token, both hidden in one view: ``is_masked = [[[0, 1, 1]]]``,
    ``weight = [[[0., 1., 1.]]]``.
    """

    is_masked: Bool[Tensor, "V B L"]
    """Replaced by the mask token in this view."""
    weight: Float[Tensor, "V B L"]
    """0 where this view does not score the token; positive only where ``is_masked``."""


@dataclass(frozen=True, kw_only=True)
class TrainSample:
    """A rollout with all that its K inner updates need."""

    rollout: Rollout
    advantage: float
    is_valid: bool
    """False for one whose reward is missing: it has no weight anywhere and is not counted."""
    mask_ratios: Float[Tensor, " K"]
    is_masked: Bool[Tensor, "K V L"]
    weight: Float[Tensor, "K V L"]
    old_log_probs: Float[Tensor, "K L"] | None = None
    """Under the policy that wrote the rollout, same masks; nats, 0 where not scored."""
    ref_log_probs: Float[Tensor, "K L"] | None = None
    """Under the frozen reference, same masks; nats, 0 where not scored."""
