"""Conversion of prompts to a bounded number of token ids; a longer prompt keeps its end token."""

from __future__ import annotations

import logging
from collections.abc import Sequence

import transformers
from jaxtyping import Int
from torch import Tensor

LOGGER = logging.getLogger(__name__)


class PromptTokens:
    """A tokenizer with a limit.

    Args:
        tokenizer: A tokenizer that puts an end token after every text.
        max_length: Largest number of tokens, the special ones included.
        end_id: The end token. CLIP pools there, so ids that are cut by slicing would give two texts the same
            embedding.
        num_embeddings: Number of rows of the model's token embedding.

    Raises:
        ValueError: The tokenizer does not belong to the model.
    """

    def __init__(
        self,
        tokenizer: transformers.PreTrainedTokenizerBase,
        max_length: int,
        *,
        end_id: int | None,
        num_embeddings: int,
    ) -> None:
        self.max_length = max_length
        self._tokenizer = tokenizer
        self._has_warned = False
        largest = max(tokenizer.get_vocab().values())
        if len(tokenizer) > num_embeddings or largest >= num_embeddings:
            raise ValueError(
                f"the tokenizer has ids up to {largest}, the model's embedding {num_embeddings} rows: "
                "they do not belong together"
            )
        last = tokenizer(["a " * 2 * max_length], truncation=True, max_length=max_length).input_ids[0][-1]
        if last != end_id:
            raise ValueError(
                f"a long text ends in token {last} after truncation, but the model expects its end token {end_id}: "
                "the tokenizer does not belong to the model"
            )

    def __call__(self, texts: Sequence[str]) -> tuple[Int[Tensor, "N L"], Int[Tensor, "N L"]]:
        """Returns token ids and attention mask (1 = token), padded to the longest. Logs once if a text was cut."""
        self._warn_if_cut(texts)
        encoded = self._tokenizer(
            list(texts), truncation=True, max_length=self.max_length, padding=True, return_tensors="pt"
        )
        return encoded["input_ids"], encoded["attention_mask"]

    def _warn_if_cut(self, texts: Sequence[str]) -> None:
        if self._has_warned:
            return
        lengths = [len(ids) for ids in self._tokenizer(list(texts), verbose=False).input_ids]
        if max(lengths) > self.max_length:
            self._has_warned = True
            LOGGER.warning(
                "prompts of up to %d tokens are cut to %d: the reward does not see the rest (said once)",
                max(lengths),
                self.max_length,
            )
