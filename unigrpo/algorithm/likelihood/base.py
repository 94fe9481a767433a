"""What a likelihood estimator is: it draws a mask plan; scoring and combining are the same for all.

The plan goes to the policy, the old policy and the reference alike, so that equal weights give equal likelihoods.
"""

from __future__ import annotations

import inspect
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from unigrpo import plugins
from unigrpo.records import MaskPlan, SequenceMasks

PACKAGE = "unigrpo.algorithm.likelihood"


class LikelihoodEstimator(ABC):
    """Draws which tokens the views of a response hide, and how much each scored token counts.

    Every estimator scores a token only where it is hidden, never scores the prompt or the padding after the first
    end-of-text, hides that padding in every view that hides the response, and scores at least one token of every
    response that has one to score.
    """

    @abstractmethod
    def draw(
        self, masks: SequenceMasks, mask_ratio: Float[Tensor, " B"], generators: Sequence[torch.Generator]
    ) -> MaskPlan:
        """The mask plan of one inner update.

        Args:
            masks: B padded sequences.
            mask_ratio: Share of each response to hide, in [0, 1].
            generators: One per response; its row of the plan depends on nothing else that is random.
        """


def load_estimator(name: str, options: Mapping[str, Any]) -> LikelihoodEstimator:
    """Builds the estimator of the file ``unigrpo/algorithm/likelihood/<name>.py``.

    Args:
        name: The file.
        options: Keyword arguments of its class.

    Raises:
        ValueError: No such file, or an option that its class does not have or allow; the message lists the right ones.
    """
    module = plugins.load(PACKAGE, name, setting="algo.likelihood.name")
    found = [
        member
        for member in vars(module).values()
        if inspect.isclass(member) and issubclass(member, LikelihoodEstimator) and member.__module__ == module.__name__
    ]
    assert len(found) == 1, f"{module.__name__} must define one LikelihoodEstimator; found {found}"
    allowed = list(inspect.signature(found[0]).parameters)
    unknown = sorted(set(options) - set(allowed))
    if unknown:
        raise ValueError(f"algo.likelihood.options: {name!r} has no {unknown}; its options are {allowed}")
    return found[0](**options)


def response_plan(hidden: Bool[Tensor, "V B L"], weight: Float[Tensor, "V B L"], masks: SequenceMasks) -> MaskPlan:
    """The plan of views that hide some scored tokens, and with them the padding after the first end-of-text.

    A view that showed this padding would tell the model how long the answer is.

    Args:
        hidden: Scored tokens that each view hides.
        weight: 0 where not hidden.
        masks: Of the sequences.
    """
    return MaskPlan(is_masked=hidden | (masks.response_mask & ~masks.scored_mask), weight=weight)


def combine_views(view_log_probs: Float[Tensor, "V B L"], plan: MaskPlan) -> Float[Tensor, "B L"]:
    """The estimate of each token's log-likelihood: the weighted sum of its log-probabilities over the views.

    Args:
        view_log_probs: Nats; anything, even NaN, where the plan gives no weight.
        plan: Whose weights count.

    Returns:
        Nats; 0 where no view scores the token.
    """
    return (plan.weight * view_log_probs.masked_fill(plan.weight == 0, 0.0)).sum(dim=0)


def scored_tokens(plan: MaskPlan) -> Bool[Tensor, "B L"]:
    """Tokens that at least one view scores: those that the objective averages over."""
    return (plan.weight > 0).any(dim=0)


def check_masking(name: str, masking: str) -> None:
    """Raises ValueError unless ``masking`` is a known way to meet a mask ratio; ``name`` is the estimator's."""
    if masking not in ("bernoulli", "exact_count"):
        raise ValueError(f"{name}: no masking {masking!r}; choose one of ['bernoulli', 'exact_count']")
