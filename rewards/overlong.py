"""Soft penalty on responses that are close to the largest possible length."""

from __future__ import annotations

from collections.abc import Sequence

from rewards.base import Reward, RewardInput, check_text_prompt


class Overlong(Reward):
    """0 up to ``max_tokens - cache_tokens`` tokens, then falling linearly to -1 at ``max_tokens``.

    The reward counts the text tokens of the response up to and including the first end-of-text.

    Args:
        max_tokens: Smallest length at which the reward is -1, such as ``rollout.text.max_new_tokens``.
        cache_tokens: Number of tokens before `max_tokens` over which the reward falls.
        full_length_only: Whether only texts without an end-of-text, which were cut off, are penalized.

    Source:
        DAPO, arXiv:2503.14476, section 3.4 and equation 13.
    """

    name = "overlong"
    range = (-1.0, 0.0)
    unit = "penalty"

    def __init__(self, max_tokens: int, cache_tokens: int, full_length_only: bool = False) -> None:
        if not 0 < cache_tokens <= max_tokens:
            raise ValueError(
                f"overlong: cache_tokens is {cache_tokens}; it must lie in (0, {max_tokens}], the largest value being "
                "max_tokens"
            )
        self._start, self._cache_tokens = max_tokens - cache_tokens, cache_tokens
        self._full_length_only = full_length_only

    def __call__(self, inputs: Sequence[RewardInput]) -> list[float | None]:
        return [self._punishment(item) for item in inputs]

    def check_prompt(self, prompt: RewardInput) -> None:
        check_text_prompt(prompt)

    def _punishment(self, item: RewardInput) -> float:
        if self._full_length_only and not item.is_full_length:
            return 0.0
        return max(min((self._start - item.num_tokens) / self._cache_tokens, 0.0), -1.0)
