"""Tests special token ids: published ones, those of a checkpoint, and tokenizers that do not fit."""

from __future__ import annotations

import pytest
import torch
from transformers import AutoTokenizer, PreTrainedTokenizerBase

from unigrpo.models.mmada import MMadaConfig
from unigrpo.models.vocabulary import PUBLISHED_IDS, Vocabulary


class Tokenizer:
    """The part of a tokenizer that the vocabulary uses; for `isinstance` it is one of transformers."""

    __class__ = PreTrainedTokenizerBase  # type: ignore[assignment]

    def __init__(self, length, tokens=None, unk_token_id=None):
        self.length, self.tokens, self.unk_token_id = length, tokens or {}, unk_token_id

    def __len__(self):
        return self.length

    def convert_tokens_to_ids(self, token):
        return self.tokens.get(token, self.unk_token_id)


def test_a_published_checkpoint_has_the_published_ids():
    tokenizer = Tokenizer(126349, {"<|end_header_id|>": 126347})
    vocabulary = Vocabulary.from_pretrained_parts(MMadaConfig(codebook_size=8192), tokenizer)  # type: ignore[arg-type]
    assert (vocabulary.mask_id, vocabulary.begin_of_text_id, vocabulary.end_of_text_id) == (126336, 126080, 126081)
    assert (vocabulary.soi_id, vocabulary.eoi_id) == (126084, 126085)
    assert (vocabulary.t2i_id, vocabulary.mmu_id, vocabulary.r2i_id) == (126088, 126089, 126094)
    assert vocabulary.image_pad_id == 126093
    assert vocabulary.end_header_id == 126347
    # The codes start at the length of the tokenizer, and end before the 134656 rows of the embedding.
    assert vocabulary.image_slice == (126349, 134541)


def test_a_text_checkpoint_has_no_image_codes():
    vocabulary = Vocabulary.from_pretrained_parts(MMadaConfig(), Tokenizer(126349))  # type: ignore[arg-type]
    assert vocabulary.image_slice == (126349, 126349)


@pytest.mark.parametrize("length", [126348, 126350, 126464])
def test_a_tokenizer_that_would_move_the_image_ids_is_refused(length):
    with pytest.raises(ValueError, match=f"tokenizer has {length} tokens, expected 126349: every image id"):
        Vocabulary.from_pretrained_parts(MMadaConfig(), Tokenizer(length))  # type: ignore[arg-type]


def test_a_tokenizer_with_other_ids_of_special_tokens_is_refused():
    tokenizer = Tokenizer(126349, {"<|startoftext|>": 126080, "<|mdm_mask|>": 126335})
    with pytest.raises(ValueError, match=r"<\|mdm_mask\|> at id 126335, the checkpoint at 126336: they do not"):
        Vocabulary.from_pretrained_parts(MMadaConfig(), tokenizer)  # type: ignore[arg-type]


def test_image_codes_that_have_no_rows_are_refused():
    config = MMadaConfig(vocab_size=126464, codebook_size=8192)
    with pytest.raises(ValueError, match="codebook_size is 8192 behind 126349 tokens, but the embedding has 126464"):
        Vocabulary.from_pretrained_parts(config, Tokenizer(126349))  # type: ignore[arg-type]


def test_a_checkpoint_may_have_its_own_ids(tiny_model_folder):
    tokenizer = AutoTokenizer.from_pretrained(tiny_model_folder)
    config = MMadaConfig.from_pretrained(tiny_model_folder)
    vocabulary = Vocabulary.from_pretrained_parts(config, tokenizer)
    for found, token in [
        (vocabulary.mask_id, "<|mdm_mask|>"),
        (vocabulary.begin_of_text_id, "<|startoftext|>"),
        (vocabulary.end_of_text_id, "<|endoftext|>"),
        (vocabulary.image_pad_id, "[iPAD]"),
        (vocabulary.soi_id, "<|soi|>"),
        (vocabulary.eoi_id, "<|eoi|>"),
        (vocabulary.t2i_id, "<|t2i|>"),
        (vocabulary.mmu_id, "<|mmu|>"),
        (vocabulary.r2i_id, "<|r2i|>"),
        (vocabulary.end_header_id, "<|end_header_id|>"),
    ]:
        assert tokenizer.convert_ids_to_tokens(found) == token
    assert vocabulary.image_offset == len(tokenizer)


def test_own_ids_that_are_incomplete_are_refused():
    ids = {name: 1 for name in PUBLISHED_IDS if name not in ("mask", "r2i")}
    with pytest.raises(ValueError, match=r"special_token_ids.*mask.*r2i"):
        Vocabulary.from_pretrained_parts(MMadaConfig(special_token_ids=ids), Tokenizer(50))  # type: ignore[arg-type]


@pytest.mark.parametrize("unk_token_id", [None, 3])
def test_a_tokenizer_without_chat_tokens_has_no_end_of_header(unk_token_id):
    tokenizer = Tokenizer(126349, unk_token_id=unk_token_id)
    assert Vocabulary.from_pretrained_parts(MMadaConfig(), tokenizer).end_header_id is None  # type: ignore[arg-type]


class OtherTokenizer(Tokenizer):
    """A tokenizer with other special tokens."""

    def __init__(self, bos_token_id=1, eos_token_id=2, mask_token_id=None):
        super().__init__(155136)
        self.bos_token_id, self.eos_token_id, self.mask_token_id = bos_token_id, eos_token_id, mask_token_id


def test_another_text_model_has_the_ids_of_its_config_and_tokenizer():
    config = MMadaConfig(vocab_size=155136, mask_token_id=5, eos_token_id=2)
    vocabulary = Vocabulary.from_pretrained_parts(config, OtherTokenizer(mask_token_id=5))  # type: ignore[arg-type]
    assert (vocabulary.mask_id, vocabulary.begin_of_text_id, vocabulary.end_of_text_id) == (5, 1, 2)
    assert (vocabulary.t2i_id, vocabulary.codebook_size) == (-1, 0)


@pytest.mark.parametrize(
    ("tokenizer", "message"),
    [
        (
            OtherTokenizer(bos_token_id=None),  # type: ignore[arg-type]
            "tokenizer has no bos_token_id, and .* name the special tokens",
        ),
        (OtherTokenizer(mask_token_id=6), "mask_token_id is 6 in the tokenizer, and 5 elsewhere"),
        (OtherTokenizer(eos_token_id=3), "eos_token_id is 2 in the config.json, and 3 elsewhere"),
    ],
)
def test_missing_or_contradictory_ids_are_not_guessed(tokenizer, message):
    config = MMadaConfig(vocab_size=155136, mask_token_id=5, eos_token_id=2)
    with pytest.raises(ValueError, match=message):
        Vocabulary.from_pretrained_parts(config, tokenizer)


def test_codes_and_token_ids_are_each_others_inverse():
    tokenizer = Tokenizer(126349)
    vocabulary = Vocabulary.from_pretrained_parts(MMadaConfig(codebook_size=8192), tokenizer)  # type: ignore[arg-type]
    codes = torch.tensor([[0, 8191], [3, 4]])
    ids = vocabulary.image_ids(codes)
    assert ids.tolist() == [[126349, 134540], [126352, 126353]]
    assert torch.equal(vocabulary.image_codes(ids), codes)
    for wrong in (-1, 8192):
        with pytest.raises(ValueError, match=rf"image codes are in {min(wrong, 0)}\.\.{max(wrong, 0)}, expected 0"):
            vocabulary.image_ids(torch.tensor([0, wrong]))
    with pytest.raises(ValueError, match=r"image tokens are in .*, expected 126349\.\.134540; only a finished image"):
        vocabulary.image_codes(torch.tensor([126349, vocabulary.mask_id]))
