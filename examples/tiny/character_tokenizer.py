"""The tokenizers of the tiny models: characters for arithmetic, words for images, bytes for any text."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

SPECIAL_TOKENS = {
    "begin_of_text": "<|startoftext|>",
    "end_of_text": "<|endoftext|>",
    "mask": "<|mdm_mask|>",
    "start_header": "<|start_header_id|>",
    "end_header": "<|end_header_id|>",
    "end_of_turn": "<|eot_id|>",
    "soi": "<|soi|>",
    "eoi": "<|eoi|>",
    "t2i": "<|t2i|>",
    "mmu": "<|mmu|>",
    "r2i": "<|r2i|>",
    "image_pad": "[iPAD]",
}
CHAT_TEMPLATE = (
    "{{ '<|startoftext|>' }}{% for message in messages %}"
    "{{ '<|start_header_id|>' + message['role'] + '<|end_header_id|>\n' + message['content'] + '<|eot_id|>' }}"
    "{% endfor %}{{ '<|start_header_id|>assistant<|end_header_id|>\n' }}"
)
"""LLaDA's chat template with MMaDA's single newline after a header."""
WORDS = ("<think>", "</think>", "user", "assistant")
CHARACTERS = "0123456789+-*=() \n?"


def save_character_tokenizer(folder: Path) -> None:
    """Saves a tokenizer with a token for each of :data:`WORDS` and :data:`CHARACTERS`."""
    names = [*SPECIAL_TOKENS.values(), *WORDS, *CHARACTERS]
    tokenizer = Tokenizer(models.WordLevel({name: i for i, name in enumerate(names)}, unk_token="?"))
    tokenizer.pre_tokenizer = pre_tokenizers.Split(Regex("|".join([*WORDS, r"[\s\S]"])), "isolated")
    tokenizer.decoder = decoders.Fuse()
    _save(tokenizer, folder)


def save_byte_tokenizer(folder: Path) -> None:
    """Saves a tokenizer with a token for each byte, which can encode every text."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    names = [*SPECIAL_TOKENS.values(), *alphabet]
    tokenizer = Tokenizer(models.BPE({name: i for i, name in enumerate(names)}, []))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer.decoder = decoders.ByteLevel()
    _save(tokenizer, folder)


def save_word_tokenizer(folder: Path, words: Sequence[str]) -> None:
    """Returns a tokenizer with a token for each word, with and without a space before it, and bytes for other text."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    space = "\u0120"  # the space of byte-level tokenizers
    whole = [*WORDS, *(before + word for word in words for before in ("", space))]
    names = list(dict.fromkeys([*SPECIAL_TOKENS.values(), *alphabet, *whole]))
    tokenizer = Tokenizer(models.BPE({name: i for i, name in enumerate(names)}, [], ignore_merges=True))
    pieces = Regex("|".join([*WORDS[:2], r" ?[a-z]+", r"[\s\S]"]))
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(pieces, "isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    _save(tokenizer, folder)


def _save(tokenizer: Tokenizer, folder: Path) -> None:
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        bos_token=SPECIAL_TOKENS["begin_of_text"],
        eos_token=SPECIAL_TOKENS["end_of_text"],
        pad_token=SPECIAL_TOKENS["end_of_text"],
        mask_token=SPECIAL_TOKENS["mask"],
        additional_special_tokens=list(SPECIAL_TOKENS.values())[3:],
        clean_up_tokenization_spaces=False,
    )
    fast.chat_template = CHAT_TEMPLATE
    fast.save_pretrained(folder)
