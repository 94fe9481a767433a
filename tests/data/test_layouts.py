"""Compares layouts of rows with those of the original, and prompts with the start of rows."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from conformance_cases.layouts import vocabulary_of
from tokenizers import Tokenizer

from unigrpo.data import layouts

OFFSET = 126349


@pytest.fixture(scope="module")
def case(golden, golden_folder):
    """Returns a function that returns parameters, arrays, text tokens and vocabulary of a case."""

    def load(name):
        params, arrays = golden(f"prompt_{name}")
        tokenizer = Tokenizer.from_file(str(golden_folder / params["tokenizer"]))
        texts = [tokenizer.encode(text, add_special_tokens=False).ids for text in params["texts"]]
        vocabulary = dataclasses.replace(vocabulary_of(params), image_offset=OFFSET, codebook_size=8192)
        return params, arrays, texts, vocabulary

    return load


@pytest.fixture(scope="module")
def vocabulary(case):
    return case("mmu")[3]


def column(rows, name):
    return torch.stack([getattr(row, name) for row in rows])


def assert_rows(rows, arrays, **masks):
    """Compares ids, labels and the given masks with the arrays of the original."""
    assert torch.equal(column(rows, "token_ids"), arrays["out.input_ids"])
    assert torch.equal(column(rows, "labels"), arrays["out.labels"])
    for name, array in masks.items():
        assert torch.equal(column(rows, name), arrays[array].bool())


@pytest.mark.parametrize("dropped", ["nodrop", "alldrop", "halfdrop"])
def test_t2i_rows_are_the_originals(case, dropped):
    params, arrays, texts, vocabulary = case(f"t2i_{dropped}")
    visible, labels = arrays["in.image_ids_masked"], arrays["in.image_labels"]
    hidden = labels != layouts.IGNORED
    draws, probability = arrays["in.dropout_uniform"].tolist(), params["cond_dropout_prob"]
    rows = [
        layouts.t2i_row(
            layouts.drop_condition(text, draw, probability),
            codes,
            is_masked,
            vocabulary,
            max_text_tokens=params["S"],
        )
        for text, draw, codes, is_masked in zip(
            texts, draws, torch.where(hidden, labels, visible) - OFFSET, hidden, strict=True
        )
    ]
    assert_rows(rows, arrays, token_mask="out.attention_mask")
    is_image = ~column(rows, "prompt_mask")
    assert (is_image.sum(1) == params["N"]).all()
    assert torch.equal(column(rows, "token_ids")[is_image].view_as(visible), visible)


@pytest.mark.parametrize("length", [12, 23])
def test_lm_rows_are_the_originals(case, length):
    params, arrays, texts, vocabulary = case(f"lm_len{length}")
    rows = [layouts.lm_row(text, vocabulary, num_tokens=params["max_seq_len"]) for text in texts]
    assert_rows(rows, arrays, token_mask="out.attention_mask")
    assert not column(rows, "prompt_mask").any(), "every token may be masked"


@pytest.mark.parametrize("length", [12, 23])
def test_lm_chat_rows_are_the_originals(case, length):
    params, arrays, texts, vocabulary = case(f"lm_chat_len{length}")
    rows = [layouts.lm_chat_row(text, vocabulary, num_tokens=params["max_seq_len"]) for text in texts]
    assert_rows(rows, arrays, prompt_mask="out.prompt_mask")


def test_mmu_rows_are_the_originals(case):
    params, arrays, texts, vocabulary = case("mmu")
    rows = [
        layouts.mmu_row(codes, text, vocabulary, max_text_tokens=params["S"])
        for text, codes in zip(texts, arrays["in.image_ids"] - OFFSET, strict=True)
    ]
    assert_rows(rows, arrays, prompt_mask="out.prompt_mask")
    assert column(rows, "token_mask").all()


def test_r2i_rows_are_the_originals(case):
    params, arrays, texts, vocabulary = case("r2i")
    rows = [
        layouts.r2i_row(text, codes, vocabulary, max_text_tokens=params["S"])
        for text, codes in zip(texts, arrays["in.image_ids"] - OFFSET, strict=True)
    ]
    assert_rows(rows, arrays, prompt_mask="out.prompt_mask")
    assert column(rows, "token_mask").all()


def test_a_tokenizer_without_header_tokens_has_no_chat_prompt(vocabulary):
    """The original would use the unknown token as header."""
    bare = dataclasses.replace(vocabulary, end_header_id=None)
    row = layouts.lm_chat_row([7, 3, 8], bare, num_tokens=9)
    assert not row.prompt_mask.any()


# Tests of prompts.


def test_a_t2i_prompt_is_the_row_without_padding_up_to_the_image(case):
    params, arrays, texts, vocabulary = case("t2i_gen")
    checked = 0
    for text, ids, mask in zip(texts, arrays["out.input_ids"], arrays["out.attention_mask"].bool(), strict=True):
        if len(text) <= params["S"] - 2:
            prompt = layouts.t2i_prompt(text, vocabulary)
            assert torch.equal(prompt, ids[mask][: -params["N"] - 1])
            checked += 1
    assert checked > 5


def test_the_unconditional_prompt_is_that_of_a_dropped_caption(case):
    params, arrays, _, vocabulary = case("t2i_alldrop")
    row, mask = arrays["out.input_ids"][3], arrays["out.attention_mask"][3].bool()
    assert torch.equal(layouts.t2i_unconditional_prompt(vocabulary), row[mask][: -params["N"] - 1])


def test_mmu_and_r2i_rows_start_with_their_prompts(case):
    codes = torch.tensor([5, 0, 8191, 7])
    _, _, texts, vocabulary = case("mmu")
    question = texts[3]  # the answer of this chat is empty
    understanding = layouts.mmu_row(codes, question, vocabulary, max_text_tokens=40).token_ids
    prompt = layouts.mmu_prompt(codes, question, vocabulary)
    assert torch.equal(prompt, understanding[: len(prompt)])
    assert prompt[2:6].tolist() == [OFFSET + 5, OFFSET, OFFSET + 8191, OFFSET + 7]
    assert len(prompt) == 4 + 3 + 1 + len(question)
    thinking = layouts.r2i_row(question, codes, vocabulary, max_text_tokens=40).token_ids
    prompt = layouts.r2i_prompt(question, vocabulary)
    assert torch.equal(prompt, thinking[: len(prompt)])
    assert len(prompt) == 1 + 1 + len(question)


def test_begin_of_text_is_not_doubled_in_a_prompt(vocabulary):
    begin = vocabulary.begin_of_text_id
    for prompt in (
        layouts.t2i_prompt([begin, 5], vocabulary),
        layouts.mmu_prompt(torch.tensor([1]), [begin, 5], vocabulary),
        layouts.r2i_prompt([begin, 5], vocabulary),
    ):
        assert (prompt == begin).sum() == 1


@pytest.mark.parametrize("code", [-1, 8192, OFFSET])
def test_a_code_outside_the_codebook_is_refused(vocabulary, code):
    with pytest.raises(ValueError, match=r"image codes are in .*expected 0\.\.8191"):
        layouts.mmu_prompt(torch.tensor([3, code]), [5], vocabulary)
