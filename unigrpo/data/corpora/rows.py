"""Conversion of samples to the rows of tokens on which a stage trains."""

from __future__ import annotations

import dataclasses

import torch
from jaxtyping import Bool, Int
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from unigrpo import DataError
from unigrpo.config.corpora import LayoutConfig
from unigrpo.data import layouts
from unigrpo.data.bad_samples import BadSample
from unigrpo.data.chat import HEADER_TOKENS, special_ids
from unigrpo.data.corpora.chat_format import render_segments, template_newlines
from unigrpo.data.corpora.sample import CorpusSample
from unigrpo.data.layouts import TrainingRow
from unigrpo.models.tokenizer_panics import panics_named
from unigrpo.models.vocabulary import Vocabulary


class RowEncoder:
    """Builds rows with one tokenizer and one layout."""

    def __init__(self, tokenizer: PreTrainedTokenizerBase, vocabulary: Vocabulary, layout: LayoutConfig) -> None:
        """Checks that tokenizer and layout belong together.

        Raises:
            ValueError: The tokenizer lacks what the template needs.
        """
        self._tokenizer = tokenizer
        self._vocabulary = vocabulary
        self._layout = layout
        self._newlines = template_newlines(tokenizer, layout.template)
        self._special = special_ids(tokenizer)

    def check(self, sample: CorpusSample) -> None:
        """Checks that a sample can be a row; for CorpusStream.

        Raises:
            BadSample: It is too long, has special tokens in its text, or has no target left.
        """
        self._encode(sample)

    def row(
        self,
        sample: CorpusSample,
        *,
        image_codes: Int[Tensor, " N"] | None = None,
        is_masked: Bool[Tensor, " N"] | None = None,
        condition_uniform: float = 1.0,
    ) -> TrainingRow:
        """Returns the row of a sample, before noise.

        Args:
            sample: A sample of any task.
            image_codes: Codes of its image, for `t2i`, `mmu` and `r2i`.
            is_masked: Codes that noise masks, for `t2i`, whose row has them masked.
            condition_uniform: Uniform random number in [0, 1), for `t2i`: the caption is dropped below
                ``condition_dropout``.

        Raises:
            BadSample: As :meth:`check`.
            ValueError: Codes are missing or outside of the codebook.
        """
        ids, is_target = self._encode(sample)
        layout, vocabulary = self._layout, self._vocabulary
        if sample.task == "lm":
            return layouts.lm_row(ids, vocabulary, num_tokens=layout.num_text_tokens)
        if sample.task == "lm_chat":
            row = layouts.lm_chat_row(ids, vocabulary, num_tokens=layout.num_text_tokens)
            return _with_targets(row, is_target, 0, layout.num_text_tokens)
        if image_codes is None:
            raise DataError(f"{sample.key}: task {sample.task} needs image codes; encode the sample's image")
        room = layout.max_text_tokens
        if sample.task == "mmu":
            row = layouts.mmu_row(image_codes, ids, vocabulary, max_text_tokens=room)
            return _with_targets(row, is_target, len(image_codes) + 3, room)
        if sample.task == "r2i":
            row = layouts.r2i_row(ids, image_codes, vocabulary, max_text_tokens=room)
            return _with_targets(row, is_target, 1, room)
        if is_masked is None:
            raise DataError(f"{sample.key}: task t2i needs is_masked: which codes are masked")
        ids = layouts.drop_condition(ids, condition_uniform, layout.condition_dropout)
        return layouts.t2i_row(ids, image_codes, is_masked, vocabulary, max_text_tokens=room)

    def _encode(self, sample: CorpusSample) -> tuple[list[int], list[bool]]:
        """Returns the tokens of the text, with begin-of-text in chats, and which of them are targets."""
        segments = [(sample.text, True)]
        if sample.messages:
            try:
                segments = render_segments(sample.messages, self._newlines, every_turn=self._layout.every_turn)
            except BadSample as error:
                raise BadSample(error.reason, f"{sample.key}: {error}") from error
        ids: list[int] = []
        is_target: list[bool] = []
        for text, targeted in segments:
            with panics_named(self._tokenizer):
                piece = self._tokenizer.encode(text, add_special_tokens=False)
            ids += piece
            is_target += [targeted] * len(piece)
        self._refuse_special(ids, sample)
        if sample.messages:
            ids, is_target = [self._vocabulary.begin_of_text_id, *ids], [False, *is_target]
        self._refuse_long(is_target, sample)
        return ids, is_target

    def _refuse_special(self, ids: list[int], sample: CorpusSample) -> None:
        """Raises BadSample for text that spells a special token, such as a mask, an image, or another turn."""
        found = [i for i in ids if i in self._special]
        num_own = 0 if self._newlines is None else len(HEADER_TOKENS) * len(sample.messages)
        if len(found) > num_own:
            names = set(self._tokenizer.convert_ids_to_tokens(found))
            strange = sorted(names - {*HEADER_TOKENS}) or list(HEADER_TOKENS)
            raise BadSample("special token in text", f"{sample.key}: the text holds {strange}; remove them")

    def _refuse_long(self, is_target: list[bool], sample: CorpusSample) -> None:
        if sample.task == "lm":
            return
        room = self._layout.num_text_tokens if sample.task == "lm_chat" else self._layout.max_text_tokens
        room -= 1 if sample.messages else 2  # end-of-text, and begin-of-text where it is not yet there
        if len(is_target) > room and self._layout.too_long == "skip":
            raise BadSample("text too long", f"{sample.key}: {len(is_target)} tokens of text, more than {room}")
        if not any(is_target[:room]):
            raise BadSample(
                "no target left", f"{sample.key}: no answer in the first {room} of {len(is_target)} tokens"
            )


def _with_targets(row: TrainingRow, is_target: list[bool], start: int, room: int) -> TrainingRow:
    """Returns the row with these targets in its text; the tokens that fill it up after the text are targets, too."""
    targets = torch.ones(room, dtype=torch.bool)
    targets[: len(is_target)] = torch.tensor(is_target[:room])
    prompt_mask = row.prompt_mask.clone()
    prompt_mask[start : start + room] = ~targets
    return dataclasses.replace(row, prompt_mask=prompt_mask)
