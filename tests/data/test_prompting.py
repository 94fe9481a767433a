"""Tests prompts as tokens and responses as text."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from transformers import AutoTokenizer, PreTrainedTokenizerBase

from unigrpo import DataError
from unigrpo.config import DataConfig
from unigrpo.data import prompting
from unigrpo.data.bad_samples import BadSample
from unigrpo.data.prompting import check_prompt_text, decode_completion, encode_prompt, prompt_lengths
from unigrpo.data.text import checked
from unigrpo.records import Prompt


def test_a_chat_prompt_ends_after_the_header_of_the_assistant(tokenizer, vocabulary):
    data = DataConfig(instruction="Think. ")
    ids = encode_prompt(Prompt(id="a:1", text="2+3=?"), tokenizer, vocabulary, data)
    tokens = tokenizer.convert_ids_to_tokens(ids.tolist())
    header = ["<|start_header_id|>", *"user", "<|end_header_id|>", "\n"]
    answer = ["<|start_header_id|>", *"assistant", "<|end_header_id|>", "\n"]
    assert tokens == ["<|startoftext|>", *header, *"Think. 2+3=?", "<|eot_id|>", *answer]
    assert ids.dtype == torch.int64


def test_the_header_of_the_assistant_is_added_if_it_is_an_option_of_the_template(tiny_model_folder, vocabulary):
    other = AutoTokenizer.from_pretrained(tiny_model_folder)
    other.chat_template = "{{ messages[0]['content'] }}{% if add_generation_prompt %}A:{% endif %}"
    ids = encode_prompt(Prompt(id="a:1", text="2"), other, vocabulary, DataConfig())
    assert other.convert_ids_to_tokens(ids.tolist()) == [*"2A:"]


def test_a_plain_prompt_is_begin_of_text_and_the_text(tokenizer, vocabulary):
    data = DataConfig(prompt_template="plain", instruction="Add: ")
    ids = encode_prompt(Prompt(id="a:1", text="2+3"), tokenizer, vocabulary, data)
    assert tokenizer.convert_ids_to_tokens(ids.tolist()) == ["<|startoftext|>", *"Add: 2+3"]


def test_instruction_and_template_may_differ_by_task(tokenizer, vocabulary):
    data = DataConfig(
        instruction="Think. ",
        instructions={"r2i": "Describe. ", "t2i": "Draw "},
        prompt_templates={"text": "plain", "r2i": "chat_two_newlines"},
    )

    def text(prompt):
        codes = torch.zeros(0, dtype=torch.long) if prompt.task == "mmu" else None
        return "".join(
            tokenizer.convert_ids_to_tokens(encode_prompt(prompt, tokenizer, vocabulary, data, codes).tolist())
        )

    assert text(Prompt(id="a:1", text="2+3")) == "<|startoftext|>Think. 2+3"
    header, end = "<|start_header_id|>user<|end_header_id|>", "<|eot_id|><|start_header_id|>assistant<|end_header_id|>"
    assert text(Prompt(id="a:1", text="2+3", task="mmu")).endswith(f"{header}\nThink. 2+3{end}\n")
    assert f"{header}\n\nDescribe. 2+3{end}\n\n" in text(Prompt(id="a:1", text="2+3", task="r2i"))
    assert "Draw 2+3" in text(Prompt(id="a:1", text="2+3", task="t2i"))
    own = text(Prompt(id="a:1", text="2+3", task="r2i", instruction="Own. "))
    assert "Own. 2+3" in own and "Describe" not in own


def test_begin_of_text_is_not_repeated_if_the_tokenizer_adds_it(tokenizer, vocabulary):
    class Adding:
        """A tokenizer that puts begin-of-text before every text, as Llama's does."""

        __class__ = PreTrainedTokenizerBase  # type: ignore[assignment]
        chat_template = tokenizer.chat_template
        get_chat_template = tokenizer.get_chat_template
        special_tokens_map = tokenizer.special_tokens_map

        def encode(self, text, add_special_tokens=True):
            begin = [vocabulary.begin_of_text_id] if add_special_tokens else []
            return begin + tokenizer.encode(text, add_special_tokens=False)

    for template in ("chat", "plain"):
        data = DataConfig(prompt_template=template)
        ids = encode_prompt(Prompt(id="a:1", text="2"), Adding(), vocabulary, data)  # type: ignore[arg-type]
        assert ids[0] == vocabulary.begin_of_text_id
        assert (ids == vocabulary.begin_of_text_id).sum() == 1


def test_a_tokenizer_without_chat_template_says_what_to_do(tiny_model_folder, vocabulary):
    bare = AutoTokenizer.from_pretrained(tiny_model_folder)
    bare.chat_template = None
    prompt = Prompt(id="a:1", text="2")
    with pytest.raises(ValueError, match=r"no chat template.*data\.prompt_template plain"):
        encode_prompt(prompt, bare, vocabulary, DataConfig())
    assert len(encode_prompt(prompt, bare, vocabulary, DataConfig(prompt_template="plain"))) == 2


@pytest.mark.parametrize("template", ["chat", "plain"])
def test_a_prompt_with_the_mask_token_is_refused_before_sampling(tokenizer, vocabulary, template):
    with pytest.raises(ValueError, match=r"a\.jsonl:7: .*mask token"):
        encode_prompt(
            Prompt(id="a.jsonl:7", text="fill <|mdm_mask|> in"),
            tokenizer,
            vocabulary,
            DataConfig(prompt_template=template),
        )


def test_a_caption_is_put_unchanged_between_the_tokens_of_its_task(tokenizer, vocabulary):
    data = DataConfig(instruction="Think. ")
    ids = encode_prompt(Prompt(id="a:1", text="a cat", task="t2i"), tokenizer, vocabulary, data)
    tokens = tokenizer.convert_ids_to_tokens(ids.tolist())
    assert tokens == ["<|t2i|>", "<|startoftext|>", *"a cat", "<|endoftext|>", "<|soi|>"]


def test_a_prompt_of_r2i_is_a_chat_after_its_task_token(tokenizer, vocabulary):
    chat, drawing = (
        encode_prompt(Prompt(id="a:1", text="a cat", task=task), tokenizer, vocabulary, DataConfig())
        for task in ("text", "r2i")
    )
    assert drawing.tolist() == [vocabulary.r2i_id, *chat.tolist()]


def test_a_question_about_an_image_follows_the_codes(tokenizer, vocabulary):
    vocabulary = dataclasses.replace(vocabulary, codebook_size=8)
    chat = encode_prompt(Prompt(id="a:1", text="how many?"), tokenizer, vocabulary, DataConfig())
    prompt = Prompt(id="a:1", text="how many?", task="mmu", images=("a.png",))
    ids = encode_prompt(prompt, tokenizer, vocabulary, DataConfig(), torch.tensor([7, 0]))
    image = [vocabulary.soi_id, vocabulary.image_offset + 7, vocabulary.image_offset, vocabulary.eoi_id]
    assert ids.tolist() == [vocabulary.mmu_id, *image, *chat.tolist()]


def test_codes_are_required_for_prompts_with_an_image_and_only_for_them(tokenizer, vocabulary):
    for task, codes in (("mmu", None), ("text", torch.tensor([1])), ("t2i", torch.tensor([1]))):
        with pytest.raises(ValueError, match=f"a:1: .*image codes were given for task '{task}'; mmu needs"):
            encode_prompt(Prompt(id="a:1", text="b", task=task), tokenizer, vocabulary, DataConfig(), codes)


def test_lengths_of_many_prompts_are_those_of_each_with_the_same_errors(tokenizer, vocabulary, monkeypatch):
    monkeypatch.setattr(prompting, "BATCH", 3)
    vocabulary = dataclasses.replace(vocabulary, codebook_size=8)
    codes = torch.tensor([7, 0, 3])
    chat = (
        {"role": "user", "content": "1+1"},
        {"role": "assistant", "content": "2"},
        {"role": "user", "content": "2"},
    )
    bad_turn = ({"role": "user", "content": "<|eot_id|>"}, {"role": "user", "content": "2"})
    prompts = [
        Prompt(id="a:1", text="2+3=?"),
        Prompt(id="a:2", text="how many?", task="mmu", images=("a.png",)),
        Prompt(id="a:3", text="a cat", task="t2i"),
        Prompt(id="a:4", text="a cat", task="r2i", instruction="Own. "),
        Prompt(id="a:5", text="2+3", template="plain", response_start="<think>"),
        Prompt(id="a:6", text="2", messages=chat),
        Prompt(id="a:7", text="2", messages=chat, template="plain"),
        Prompt(id="a:8", text="2", messages=bad_turn),
        Prompt(id="a:9", text="1<|mdm_mask|>"),
        Prompt(id="a:10", text="2", instruction="fill <|mdm_mask|> in "),
        Prompt(id="a:11", text="a \ud800"),
        Prompt(id="a:12", text="2", template="chat_two_newlines"),
    ]
    data = DataConfig(instruction="Think. ")

    def alone(prompt):
        try:
            checked(prompt.text, prompt.id)
            check_prompt_text(prompt, tokenizer)
            return len(encode_prompt(prompt, tokenizer, vocabulary, data, codes if prompt.task == "mmu" else None))
        except (DataError, BadSample) as error:
            return str(error)

    found = prompt_lengths(prompts, tokenizer, vocabulary, data, codes)
    assert [str(each) if isinstance(each, DataError) else each for each in found] == [alone(each) for each in prompts]
    assert [n for n, each in enumerate(found, start=1) if isinstance(each, DataError)] == [7, 8, 9, 10, 11]
    assert prompt_lengths([], tokenizer, vocabulary, data, codes) == []


def decode(tokenizer, vocabulary, text, prompt="2+3=", **options):
    tokens = torch.tensor(tokenizer.encode(prompt + text, add_special_tokens=False))
    response = torch.arange(len(tokens)) >= len(prompt)
    return decode_completion(tokens, response, tokenizer, vocabulary, **options)


@pytest.mark.parametrize(
    ("text", "expected", "raw"),
    [
        ("5<|endoftext|>6<|endoftext|>", "5", "5"),
        ("<|endoftext|><|endoftext|>", "", ""),
        ("2 + 3 , is 5 .", "2 + 3 , is 5 .", "2 + 3 , is 5 ."),
        ("<think>no end", "<think>no end", "<think>no end"),
        ("5<|eot_id|><|endoftext|><|endoftext|>", "5", "5<|eot_id|>"),
        ("5<|eot_id|> and<|endoftext|>", "5", "5<|eot_id|> and"),
        ("<|mdm_mask|>5<|eot_id|>", "<|mdm_mask|>5", "<|mdm_mask|>5<|eot_id|>"),
        (" \n5 <|endoftext|>", " \n5 ", " \n5 "),
    ],
)
def test_a_completion_is_the_unchanged_response_up_to_the_end_of_the_turn(tokenizer, vocabulary, text, expected, raw):
    assert decode(tokenizer, vocabulary, text) == expected
    assert decode(tokenizer, vocabulary, text, keep_end_of_turn=True) == raw


def test_end_of_text_in_the_prompt_does_not_cut_the_response(tokenizer, vocabulary):
    tokens = torch.tensor([vocabulary.end_of_text_id, *tokenizer.encode("57", add_special_tokens=False)])
    response = torch.tensor([False, True, True])
    assert decode_completion(tokens, response, tokenizer, vocabulary) == "57"


def test_ids_beyond_the_tokenizer_are_left_out_of_the_text(tokenizer, vocabulary):
    tokens = torch.tensor([*tokenizer.encode("5", add_special_tokens=False), len(tokenizer) + 3])
    assert decode_completion(tokens, torch.tensor([True, True]), tokenizer, vocabulary) == "5"
