"""Masked denoising for pretraining and Mix-CoT: noising of images and text, and the weights of their losses.

Every loss is a weighted sum of masked cross-entropies, ``-(weight * log_probs).sum()``; a task determines which tokens
are masked and the divisor of each token. Divisors are counts over the whole batch of an optimizer step, so that the
partial losses of ranks and micro-batches add up, and so that a task without rows has the loss 0 and not NaN.
"""

from __future__ import annotations

from jaxtyping import Bool, Float, Int
from torch import Tensor

from unigrpo.algorithm.schedule import masked_fraction

MIN_PROBABILITY = 1e-3
"""Lowest probability of masking a text token; its inverse is the largest weight of a token."""


def image_mask_ratio(
    times: Float[Tensor, " B"], schedule: str = "cosine", *, min_ratio: float = 0.0
) -> Float[Tensor, " B"]:
    """Returns the fraction of tokens to mask in each image.

    Args:
        times: Uniform draws in [0, 1).
        schedule: A schedule of :func:`unigrpo.algorithm.schedule.masked_fraction`.
        min_ratio: Lower bound of the fraction.
    """
    return masked_fraction(schedule, times).clamp(min=min_ratio)


def image_mask(mask_ratio: Float[Tensor, " B"], draws: Float[Tensor, "B N"]) -> Bool[Tensor, "B N"]:
    """Masks exactly the rounded fraction of each image's tokens, at least one, in a uniformly random subset.

    Args:
        mask_ratio: Fraction to mask; ``N * mask_ratio`` is rounded half to even.
        draws: Uniform in [0, 1).

    Source:
        MaskGIT, arXiv:2202.04200, as MMaDA trains its image branch (no weight 1/t, unlike equation 1 of
        arXiv:2505.15809).
    """
    count = (mask_ratio * draws.shape[1]).round().clamp(min=1)
    return draws.argsort(dim=1) < count[:, None]


def text_mask_probability(times: Float[Tensor, " B"]) -> Float[Tensor, " B"]:
    """Returns the probability of masking each text token of a row: the uniform draw, mapped into [0.001, 1].

    Source:
        LLaDA, arXiv:2502.09992, Algorithm 1.
    """
    return (1 - MIN_PROBABILITY) * times + MIN_PROBABILITY


def text_mask(
    probability: Float[Tensor, " B"], draws: Float[Tensor, "B L"], eligible: Bool[Tensor, "B L"]
) -> Bool[Tensor, "B L"]:
    """Masks each eligible token independently.

    The eligible tokens are, for `lm`, all tokens and the padding with end-of-text; for `lm_chat` and `mmu`, all tokens
    after the prompt and the padding; for `r2i`, the thoughts, their padding and the image, with one probability.
    """
    return (draws < probability[:, None]) & eligible


def labelled_mean_weights(labelled: Bool[Tensor, "B L"], *, num_labelled_tokens: float) -> Float[Tensor, "B L"]:
    """Returns the weights of the `t2i` loss, which is the mean over all labelled tokens of the task.

    Args:
        labelled: Masked image tokens and, as in the training of MMaDA, the visible tokens on either side of the image.
        num_labelled_tokens: Number of labelled tokens in the task's rows of the whole batch.
    """
    return labelled.float() / max(num_labelled_tokens, 1)


def likelihood_bound_weights(
    is_masked: Bool[Tensor, "B L"],
    probability: Float[Tensor, " B"],
    answer_length: Int[Tensor, " B"],
    *,
    num_rows: float,
) -> Float[Tensor, "B L"]:
    """Returns the weights of the `lm`, `lm_chat`, `mmu` and `r2i` losses.

    A masked token has the weight 1 / probability. The loss is the mean per answer token, and then over rows.

    Args:
        is_masked: Masked tokens.
        probability: Probability with which each row's tokens were masked.
        answer_length: Number of eligible tokens of each row, masked or not; for `lm` the row length L. 0 counts as 1.
        num_rows: Number of rows of the task in the whole batch.

    Source:
        arXiv:2505.15809, equations 1 and 2, whose 1/t is 1 / probability.
    """
    per_row = 1 / (probability * answer_length.clamp(min=1) * num_rows)
    return is_masked * per_row[:, None]


def denoising_loss(log_probs: Float[Tensor, "B L"], weight: Float[Tensor, "B L"]) -> Float[Tensor, ""]:
    """Returns the weighted masked cross-entropy in nats, which is the partial loss of this rank.

    Args:
        log_probs: Log-probabilities of the clean tokens given the noised rows. Where ``weight`` is 0, they are
            ignored, even if they are NaN.
        weight: Weights of one of the functions above, times the coefficient of the task.
    """
    return -(weight * log_probs.masked_fill(weight == 0, 0.0)).sum()
