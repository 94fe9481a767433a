"""Tests the two published chat templates, and which of them a tokenizer has."""

from __future__ import annotations

import pytest
import torch
from transformers import AutoTokenizer, PreTrainedTokenizerBase

from unigrpo.config import DataConfig
from unigrpo.data.chat import NEWLINES, chat_text, chat_variant
from unigrpo.data.prompting import check_prompt_text, decode_completion, encode_prompt
from unigrpo.models.mmada import MMadaConfig
from unigrpo.models.vocabulary import Vocabulary
from unigrpo.records import Prompt

LLADA_TEMPLATE = (
    "{{ '<|startoftext|>' }}{% for m in messages %}{{ '<|start_header_id|>' + m['role'] + '<|end_header_id|>\n\n' "
    "+ m['content'] | trim + '<|eot_id|>' }}{% endfor %}{{ '<|start_header_id|>assistant<|end_header_id|>\n\n' }}"
)


@pytest.fixture
def tokenizer(tiny_model_folder):
    return AutoTokenizer.from_pretrained(tiny_model_folder)


@pytest.mark.parametrize(("template", "newlines"), NEWLINES.items())
def test_a_published_template_puts_its_newlines_after_both_headers(tokenizer, template, newlines):
    assert chat_text(" 2+3=?\n", tokenizer, template) == (
        f"<|startoftext|><|start_header_id|>user<|end_header_id|>{newlines}2+3=?<|eot_id|>"
        f"<|start_header_id|>assistant<|end_header_id|>{newlines}"
    )


def test_the_variant_is_found_from_the_tokenizer(tokenizer):
    assert chat_variant(tokenizer) == "chat_one_newline"
    tokenizer.chat_template = LLADA_TEMPLATE
    assert chat_variant(tokenizer) == "chat_two_newlines"
    assert chat_text(" 2 ", tokenizer, "chat") == chat_text(" 2 ", tokenizer, "chat_two_newlines")
    for other in ("{{ messages[0]['content'] }}", None):
        tokenizer.chat_template = other
        assert chat_variant(tokenizer) is None


def test_a_setting_overrides_the_tokenizer(tokenizer, tiny_model_folder):
    vocabulary = Vocabulary.from_pretrained_parts(MMadaConfig.from_pretrained(tiny_model_folder), tokenizer)
    tokenizer.chat_template = LLADA_TEMPLATE

    def tokens(template):
        data = DataConfig(prompt_template=template)
        ids = encode_prompt(Prompt(id="a:1", text="2"), tokenizer, vocabulary, data)
        return tokenizer.convert_ids_to_tokens(ids.tolist())

    assert tokens("chat") == tokens("chat_two_newlines")
    assert tokens("chat_one_newline").count("\n") == 2
    assert tokens("chat_two_newlines").count("\n") == 4
    assert tokens("chat_one_newline")[-2:] == ["<|end_header_id|>", "\n"]


def test_a_tokenizer_without_header_tokens_is_refused():
    class Bare:
        __class__ = PreTrainedTokenizerBase  # type: ignore[assignment]
        chat_template = "{{ messages[0]['content'] }}"
        bos_token = "<s>"

        unk_token_id = 0

        def convert_tokens_to_ids(self, token):
            return 3 if token == "<|eot_id|>" else self.unk_token_id

    with pytest.raises(ValueError, match=r"chat_one_newline, but the tokenizer has no <\|end_header_id\|>, <\|start"):
        chat_text("a", Bare(), "chat_one_newline")  # type: ignore[arg-type]
    assert chat_variant(Bare()) is None  # type: ignore[arg-type]


def test_no_prompt_and_no_sample_copies_the_whole_vocabulary(tokenizer, tiny_model_folder, monkeypatch):
    """A copy of the vocabulary of LLaDA's tokenizer takes 60 ms."""
    vocabulary = Vocabulary.from_pretrained_parts(MMadaConfig.from_pretrained(tiny_model_folder), tokenizer)
    monkeypatch.setattr(type(tokenizer), "get_vocab", lambda _: pytest.fail("the vocabulary was copied"))
    prompt = Prompt(id="a:1", text="2")
    check_prompt_text(prompt, tokenizer)
    for data in (DataConfig(), DataConfig(prompt_template="chat_one_newline")):
        ids = encode_prompt(prompt, tokenizer, vocabulary, data)
        text = decode_completion(ids, torch.ones(len(ids), dtype=torch.bool), tokenizer, vocabulary)
        assert text.startswith("<|startoftext|><|start_header_id|>user")


@pytest.mark.wrong_types
def test_another_template_is_refused():
    with pytest.raises(ValueError, match=r"data\.prompt_template: no 'llada'; choose one of \['chat', 'chat_one"):
        DataConfig(prompt_template="llada")  # type: ignore[arg-type]
