"""Records of one sample that pass between the phases of a step: its prompt, trajectory, text, image and rewards.

Axes: L tokens of the sample, without padding; K inner updates.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.nn.functional import pad

from unigrpo.image_store import StoredImage


@dataclass(frozen=True, kw_only=True)
class Prompt:
    """One question of a prompt file.

    >>> Prompt(id="train.jsonl:1", text="2+3=?", label="5").task
    'text'
    """

    id: str
    """File and line, unique within a run; every error about this prompt names it."""
    text: str
    """Question or request of the user."""
    label: str | None = None
    """Gold answer, as the rewards get it."""
    task: str = "text"
    """One of :data:`unigrpo.config.TASKS`."""
    images: tuple[str, ...] = ()
    """Paths of the input images, or their names in a table (:mod:`unigrpo.data.embedded_images`)."""
    metadata: Mapping[str, Any] = field(default_factory=dict[str, Any])
    """Other columns of the line, which the rewards get."""
    dataset: str = ""
    """File or data set of the prompt, as the config names it."""
    messages: tuple[Mapping[str, str], ...] = ()
    """The prompt as chat messages with ``role`` and ``content``, of which ``text`` is the last; empty if the prompt
    file has it as a string."""
    instruction: str | None = None
    """Instruction that replaces that of the run; None uses that of the run. It is put before ``text``, or around it if
    it contains ``{prompt}``."""
    template: str | None = None
    """Chat template that replaces that of the run; None uses that of the run."""
    response_start: str = ""
    """Text that is given to the policy as the start of the answer."""


@dataclass(frozen=True, kw_only=True)
class SampleKey:
    """Identity of one sample. Its random numbers depend only on (run seed, step, sample_id)."""

    prompt_id: str
    """Identifier of the prompt, which messages about the sample contain."""
    task: str
    """One of :data:`unigrpo.config.TASKS`."""
    group_id: int
    """Index of the prompt in the step's batch; equal for the samples of one prompt."""
    sample_id: int
    """Number of the sample, unique within the step."""
    step: int
    """Step of the run, from 0; -1 in evaluation."""


@dataclass(frozen=True, kw_only=True)
class SampleRequest:
    """One sample to generate."""

    prompt: Prompt
    group_id: int
    """See :class:`SampleKey`, also for the next two fields."""
    sample_id: int
    step: int

    @property
    def key(self) -> SampleKey:
        """The identity of the sample."""
        return SampleKey(
            prompt_id=self.prompt.id,
            task=self.prompt.task,
            group_id=self.group_id,
            sample_id=self.sample_id,
            step=self.step,
        )


@dataclass(frozen=True, kw_only=True)
class Trajectory:
    """One prompt with its response and the steps in which the sampler generated it, without padding. L is the length
    of prompt and response together."""

    token_ids: Int[Tensor, " L"]
    """The clean sequence x0."""
    response_mask: Bool[Tensor, " L"]
    """True on tokens that the policy generated."""
    scored_mask: Bool[Tensor, " L"]
    """True on response tokens up to and including the first end-of-text. Later tokens are padding and never scored."""
    image_mask: Bool[Tensor, " L"]
    """True on image tokens of the response, whose probabilities are normalized over the image codes."""
    commit_step: Int[Tensor, " L"]
    """Denoising step at which the sampler fixed the token, from 0; -1 outside the response and in padding that was
    never sampled."""
    commit_log_probs: Float[Tensor, " L"]
    """Log-probability (nats) of the token at that step, at the sampling temperature; for image tokens it is normalized
    over the image codes. 0 where no token was fixed."""
    commit_entropy: Float[Tensor, " L"] | None = None
    """Entropy (nats) of the same distribution; 0 where no token was fixed. None if the sampler did not record it."""

    @property
    def text_mask(self) -> Bool[Tensor, " L"]:
        """True on text tokens that the policy generated."""
        return self.response_mask & ~self.image_mask

    def followed_by(self, image: Trajectory) -> Trajectory:
        """Returns the trajectory of a response with two parts.

        Args:
            image: The second part, whose prompt begins with this trajectory. Its steps start at 0; in the result, they
                follow those of this trajectory.
        """
        room = (0, len(image.token_ids) - len(self.token_ids))
        first_steps = pad(self.commit_step, room, value=-1)
        later_steps = image.commit_step + first_steps.max() + 1
        entropy = image.commit_entropy
        if entropy is not None and self.commit_entropy is not None:
            entropy = entropy + pad(self.commit_entropy, room)
        return Trajectory(
            token_ids=image.token_ids,
            response_mask=image.response_mask | pad(self.response_mask, room),
            scored_mask=image.scored_mask | pad(self.scored_mask, room),
            image_mask=image.image_mask,
            commit_step=torch.where(image.commit_step >= 0, later_steps, first_steps),
            commit_log_probs=image.commit_log_probs + pad(self.commit_log_probs, room),
            commit_entropy=entropy if self.commit_entropy is not None else None,
        )


@dataclass(frozen=True, kw_only=True)
class KeyedTrajectory(Trajectory):
    """The trajectory of one sample of a step: what models need to score it."""

    key: SampleKey
    policy_version: int
    """Number of optimizer steps of the policy that generated this response."""


@dataclass(frozen=True, kw_only=True)
class Rollout(KeyedTrajectory):
    """One finished sample with its prompt, text and image."""

    prompt: Prompt
    completion: str
    """The response as text, cut at the first token that ends the turn or the text. Empty for images."""
    raw_completion: str = ""
    """The response as text, cut at the first end-of-text, with the tokens that end a turn."""
    is_full_length: bool = False
    """Whether the text of the response has no end-of-text, so that it was cut off at its largest length. False without
    text."""
    image: StoredImage | None = None
    """Generated image."""


@dataclass(frozen=True, kw_only=True)
class RewardOutput:
    """The rewards of one rollout."""

    parts: dict[str, float | None]
    """Unweighted value of each reward, by name; None means that the reward is missing, which is not 0."""
    reasons: dict[str, str] = field(default_factory=dict[str, str])
    """Reason for each missing reward, by name."""


@dataclass(frozen=True, kw_only=True)
class TrainSample:
    """A sample with everything that its K inner updates need."""

    rollout: KeyedTrajectory
    advantages: tuple[float, ...]
    """Advantage of the whole response, or one advantage for each part of the response in the order of generation, with
    0 for missing parts."""
    is_valid: bool
    """False for a sample whose reward is missing, which is neither scored nor counted."""
    old_log_probs: tuple[Float[Tensor, " _"], ...] | None = None
    """Log-probabilities under the old policy, nats: for each of the K inner updates, those of the tokens that its
    views score, view by view."""
    behaviour_log_probs: tuple[Float[Tensor, " _"], ...] | None = None
    """Log-probabilities under the weights that generated the rollout, in the same order, if these are not the old
    policy; otherwise None, and also if the steps of the sampler are scored."""
    ref_log_probs: tuple[Float[Tensor, " _"], ...] | None = None
    """Log-probabilities under the reference in the same order; None if the task has no KL."""
