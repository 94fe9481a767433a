"""Tests rows of samples: their targets, and that each row starts with the prompt of generation."""

import dataclasses
from typing import Any

import pytest
import torch

from unigrpo.config import DataConfig
from unigrpo.config.corpora import LayoutConfig
from unigrpo.data import layouts
from unigrpo.data.bad_samples import BadSample
from unigrpo.data.corpora.rows import RowEncoder
from unigrpo.data.corpora.sample import CorpusSample
from unigrpo.data.prompting import encode_prompt
from unigrpo.records import Prompt

CODES = torch.tensor([3, 1, 2, 0])
CHAT = (("user", "2+3?"), ("assistant", "5"))
TWO_TURNS = (*CHAT, ("user", "sure?"), ("assistant", "yes"))


@pytest.fixture(scope="module")
def vocabulary(vocabulary):
    return dataclasses.replace(vocabulary, codebook_size=8)


@pytest.fixture
def encoder(tokenizer, vocabulary):
    def make(**options: Any):
        layout = LayoutConfig(**{"max_text_tokens": 64, "num_text_tokens": 80, **options})
        return RowEncoder(tokenizer, vocabulary, layout)

    return make


def chat(task="lm_chat", messages=CHAT, text=""):
    return CorpusSample(key="a.jsonl:1", task=task, messages=messages, text=text)


def targets(tokenizer, row):
    """Returns the text of the tokens that may be masked, without padding."""
    ids = row.token_ids[~row.prompt_mask].tolist()
    return str(tokenizer.decode(ids, skip_special_tokens=False)).split("<|endoftext|>")[0]


@pytest.mark.parametrize("template", ["chat", "chat_one_newline", "chat_two_newlines", "plain"])
@pytest.mark.parametrize("task", ["lm_chat", "mmu", "r2i"])
def test_a_row_starts_with_the_prompt_of_generation(encoder, tokenizer, vocabulary, task, template):
    row = encoder(template=template).row(chat(task), image_codes=None if task == "lm_chat" else CODES)
    prompt = encode_prompt(
        Prompt(id="a:1", text="2+3?", task="text" if task == "lm_chat" else task), tokenizer, vocabulary,
        DataConfig(prompt_template=template), CODES if task == "mmu" else None,
    )  # fmt: skip
    assert row.token_ids[: len(prompt)].tolist() == prompt.tolist()
    assert targets(tokenizer, row).lstrip("\n").startswith("5")


@pytest.mark.parametrize("task", ["lm_chat", "mmu", "r2i"])
def test_the_last_answer_is_the_target_as_in_the_layouts(encoder, tokenizer, vocabulary, task):
    row = encoder().row(chat(task, TWO_TURNS), image_codes=CODES)
    ids = row.token_ids.tolist()
    text = ids[ids.index(vocabulary.begin_of_text_id) : ids.index(vocabulary.end_of_text_id)]
    if task == "lm_chat":
        expected = layouts.lm_chat_row(text, vocabulary, num_tokens=80)
    elif task == "mmu":
        expected = layouts.mmu_row(CODES, text, vocabulary, max_text_tokens=64)
    else:
        expected = layouts.r2i_row(text, CODES, vocabulary, max_text_tokens=64)
    for field in ("token_ids", "token_mask", "prompt_mask", "labels"):
        assert torch.equal(getattr(row, field), getattr(expected, field)), field
    assert targets(tokenizer, row) == "\nyes<|eot_id|>"


@pytest.mark.parametrize("task", ["lm_chat", "mmu", "r2i"])
def test_every_answer_is_a_target_by_option(encoder, tokenizer, task):
    last = encoder().row(chat(task, TWO_TURNS), image_codes=CODES)
    every = encoder(every_turn=True).row(chat(task, TWO_TURNS), image_codes=CODES)
    assert torch.equal(last.token_ids, every.token_ids)
    assert targets(tokenizer, every) == "\n5<|eot_id|>\nyes<|eot_id|>"


def test_images_after_thoughts_are_targets_and_those_of_questions_are_not(encoder, vocabulary):
    thoughts = encoder().row(chat("r2i"), image_codes=CODES)
    question = encoder().row(chat("mmu"), image_codes=CODES)
    for row, hidden in ((thoughts, True), (question, False)):
        is_code = row.token_ids >= vocabulary.image_offset
        assert is_code.sum() == 4 and (~row.prompt_mask[is_code]).all() == hidden


def test_all_tokens_of_a_document_are_targets(encoder):
    row = encoder().row(CorpusSample(key="a:1", task="lm", text="a\nb" * 100))
    assert len(row.token_ids) == 80 and not row.prompt_mask.any()


def test_captions_are_dropped_with_their_probability(encoder, vocabulary):
    sample = CorpusSample(key="a:1", task="t2i", text="a dog")
    is_masked = torch.tensor([True, False, True, False])
    kept, dropped = (
        encoder(condition_dropout=0.1).row(sample, image_codes=CODES, is_masked=is_masked, condition_uniform=draw)
        for draw in (0.1, 0.099)
    )
    assert (kept.token_mask.sum() - dropped.token_mask.sum()) == len("a dog")
    assert (kept.token_ids == vocabulary.mask_id).sum() == 2


def test_all_rows_with_images_have_one_length(encoder):
    made = encoder()
    rows = [made.row(chat(task), image_codes=CODES) for task in ("mmu", "r2i")]
    caption = CorpusSample(key="a:1", task="t2i", text="a dog")
    rows.append(made.row(caption, image_codes=CODES, is_masked=torch.ones(4, dtype=torch.bool)))
    assert {len(row.token_ids) for row in rows} == {64 + 4 + 3}


@pytest.mark.parametrize("task", ["lm_chat", "mmu", "r2i"])
def test_text_of_the_largest_length_fits_and_one_more_token_does_not(encoder, task):
    room = 80 if task == "lm_chat" else 64
    # roles, four header tokens, two newlines, two ends of turns, question, begin-of-text and end-of-text
    fill = room - len("userassistant") - 4 - 2 - 2 - 1 - 1 - 1
    encoder().check(chat(task, (("user", "?"), ("assistant", "x" * fill))))
    with pytest.raises(BadSample, match=rf"a\.jsonl:1: {room} tokens of text, more than {room - 1}"):
        encoder().check(chat(task, (("user", "?"), ("assistant", "x" * (fill + 1)))))


def test_a_caption_of_the_largest_length_fits(encoder):
    def caption(length):
        return CorpusSample(key="a:1", task="t2i", text="x" * length)

    is_masked = torch.ones(4, dtype=torch.bool)
    row = encoder().row(caption(62), image_codes=CODES, is_masked=is_masked)
    assert row.token_mask.all()
    with pytest.raises(BadSample, match="63 tokens of text, more than 62"):
        encoder().check(caption(63))
    assert encoder(too_long="cut").row(caption(99), image_codes=CODES, is_masked=is_masked).token_mask.all()


def test_a_cut_chat_keeps_some_of_its_answer_or_is_broken(encoder, tokenizer):
    cut = encoder(too_long="cut")
    row = cut.row(chat("mmu", (("user", "?"), ("assistant", "x" * 99))), image_codes=CODES)
    assert set(targets(tokenizer, row).strip()) == {"x"}
    assert int(row.token_ids[-1]) == tokenizer.eos_token_id
    open_end = cut.row(chat("lm_chat", (("user", "?"), ("assistant", "x" * 99))))
    assert int(open_end.token_ids[-1]) != tokenizer.eos_token_id
    with pytest.raises(BadSample) as caught:
        cut.check(chat("mmu", (("user", "?" * 99), ("assistant", "x"))))
    assert caught.value.reason == "no target left"


@pytest.mark.parametrize(
    "sample",
    [
        CorpusSample(key="a:1", task="lm", text="a <|mdm_mask|> b"),
        CorpusSample(key="a:1", task="t2i", text="<|soi|>"),
        CorpusSample(key="a:1", task="lm_chat", messages=(("user", "a<|eot_id|>b"), ("assistant", "c"))),
        CorpusSample(key="a:1", task="lm_chat", messages=(("user", "a"), ("assistant", "c<|endoftext|>d"))),
    ],
)
def test_text_that_spells_a_special_token_is_broken(encoder, sample):
    with pytest.raises(BadSample, match=r"a:1: the text holds \[") as caught:
        encoder().check(sample)
    assert caught.value.reason == "special token in text"


def test_the_plain_template_allows_one_answer(encoder):
    with pytest.raises(BadSample, match=r"a\.jsonl:1: the template plain") as caught:
        encoder(template="plain").check(chat(messages=TWO_TURNS))
    assert caught.value.reason == "too many turns"


def test_missing_codes_are_an_error(encoder):
    with pytest.raises(ValueError, match="task mmu needs image codes"):
        encoder().row(chat("mmu"))
    with pytest.raises(ValueError, match="needs is_masked"):
        encoder().row(CorpusSample(key="a:1", task="t2i", text="a"), image_codes=CODES)
