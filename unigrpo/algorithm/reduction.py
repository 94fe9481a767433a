"""Per-token losses -> one number, with global denominators.

A rank sees some responses of a batch, a micro-batch fewer still. Each returns its share, a sum over its own tokens
divided by a count of the whole batch: the shares of all micro-batches and ranks add up to the loss of the whole batch,
and so do their gradients, however the batch is cut.
"""

from __future__ import annotations

from dataclasses import dataclass

from jaxtyping import Bool, Float
from torch import Tensor

from unigrpo import ConfigError


@dataclass(frozen=True, kw_only=True)
class Denominators:
    """Counts of the whole batch, over all ranks and micro-batches of one optimizer step."""

    num_responses: float
    """Responses, those without a scored token included: they contribute 0."""
    num_tokens: float
    """Scored tokens."""
    response_length: float
    """Constant length for `fixed_length`, tokens: usually the longest response that the sampler writes."""


def reduce_tokens(
    values: Float[Tensor, "B L"],
    scored: Bool[Tensor, "B L"],
    aggregation: str,
    denominators: Denominators,
) -> Float[Tensor, ""]:
    """This shard's share of the loss, by the name of the reduction.

    Raises:
        ValueError: Unknown reduction.
    """
    if aggregation == "masked_token_mean":
        return masked_token_mean(values, scored, num_responses=denominators.num_responses)
    if aggregation == "token_mean":
        return token_mean(values, scored, num_tokens=denominators.num_tokens)
    if aggregation == "fixed_length":
        return fixed_length(
            values, scored, num_responses=denominators.num_responses, length=denominators.response_length
        )
    raise ConfigError(
        f"loss reduction: no {aggregation!r}; choose one of ['fixed_length', 'masked_token_mean', 'token_mean']"
    )


def masked_token_mean(
    values: Float[Tensor, "B L"], scored: Bool[Tensor, "B L"], *, num_responses: float
) -> Float[Tensor, ""]:
    """Mean over the scored tokens of a response, then over all responses of the batch.

    A response without a scored token counts 0 and stays in the number of responses, so that its presence neither
    depends on the draw of a mask nor changes the weight of the others.

    Source:
        UniGRPO, arXiv:2505.15809, equations 4 and 5, with its 1/|o| read as one over the number of masked tokens.
    """
    return (_masked_sum(values, scored) / scored.sum(dim=1).clamp(min=1)).sum() / num_responses


def token_mean(values: Float[Tensor, "B L"], scored: Bool[Tensor, "B L"], *, num_tokens: float) -> Float[Tensor, ""]:
    """Mean over all scored tokens of the batch: long responses weigh more.

    Source:
        DAPO, arXiv:2503.14476, section 3.3.
    """
    return _masked_sum(values, scored).sum() / max(num_tokens, 1)


def fixed_length(
    values: Float[Tensor, "B L"], scored: Bool[Tensor, "B L"], *, num_responses: float, length: float
) -> Float[Tensor, ""]:
    """Sum over the scored tokens of a response over a constant, then mean over all responses of the batch.

    Source:
        Dr. GRPO, arXiv:2503.20783.
    """
    return _masked_sum(values, scored).sum() / (num_responses * length)


def _masked_sum(values: Float[Tensor, "B L"], scored: Bool[Tensor, "B L"]) -> Float[Tensor, " B"]:
    return values.masked_fill(~scored, 0.0).sum(dim=1)
