"""Tests how chats are read from the forms of data sets, and how they become text to train on."""

import pytest
from transformers import AutoTokenizer

from unigrpo.data.bad_samples import BadSample
from unigrpo.data.corpora.chat_format import leading_turns, read_messages, render_segments, template_newlines

TWO_TURNS = (("user", "2+3?"), ("assistant", "5"), ("user", "sure?"), ("assistant", "yes"))


def header(role):
    return f"<|start_header_id|>{role}<|end_header_id|>"


@pytest.mark.parametrize("newlines", ["\n", "\n\n"])
@pytest.mark.parametrize("end", ["<|eot_id|>", "<eot_id>"])
@pytest.mark.parametrize("tail", ["", f"{header('assistant')}\n", f"{header('assistant')}\n\n", "<|endoftext|>"])
def test_text_with_headers_is_read_alike_in_all_its_forms(newlines, end, tail):
    """The texts have one newline or two, the token or its misspelling, and an empty header at the end or none."""
    text = "<|startoftext|>" + "".join(f"{header(role)}{newlines}{content}{end}" for role, content in TWO_TURNS)
    assert read_messages(text + tail, "a:1") == TWO_TURNS


def test_text_without_an_end_after_the_answer_is_read():
    text = f"{header('user')}\n2+3?<eot_id>{header('assistant')}\n5"
    assert read_messages(text, "a:1") == TWO_TURNS[:2]


@pytest.mark.parametrize(
    ("turns", "reason"),
    [
        ("no headers at all", "no headers"),
        (f"preface {header('user')}a", "no headers"),
        (f"{header('user')}a{header('assistant')} ", "no answer"),
        ([], "no answer"),
        (None, "no messages"),
        ([1, 2], "no messages"),
        ([{"role": "user", "content": [{"type": "text"}]}, {"role": "assistant", "content": "a"}], "no messages"),
        ([{"role": "user", "content": "a<eot_id>b"}, {"role": "assistant", "content": "c"}], "broken turn"),
        ([{"role": "user", "content": " "}, {"role": "assistant", "content": "c"}], "broken turn"),
        ([{"role": "assistant", "content": "c"}], "turns out of order"),
        ([{"role": "tool", "content": "c"}], "unknown role"),
        ([{"role": "system", "content": "c"}], "no answer"),
    ],
)
def test_a_chat_that_cannot_be_trained_says_why(turns, reason):
    with pytest.raises(BadSample, match=r"a\.jsonl:1") as caught:
        read_messages(turns, "a.jsonl:1")
    assert caught.value.reason == reason


def test_a_system_turn_is_kept():
    turns = [{"role": role, "content": role} for role in ("system", "user", "assistant")]
    assert read_messages(turns, "a:1")[0] == ("system", "system")


def test_leading_turns_end_in_an_answer():
    assert leading_turns(TWO_TURNS, 1) == TWO_TURNS[:2]
    assert leading_turns((("system", "s"), *TWO_TURNS), 2) == (("system", "s"), *TWO_TURNS)


def test_targets_are_the_last_answer_or_all():
    last = render_segments(TWO_TURNS, "\n")
    every = render_segments(TWO_TURNS, "\n", every_turn=True)
    assert [text for text, _ in last] == [text for text, _ in every]
    assert [text for text, targeted in last if targeted] == ["\nyes<|eot_id|>"]
    assert [text for text, targeted in every if targeted] == ["\n5<|eot_id|>", "\nyes<|eot_id|>"]


def test_text_to_train_on_is_the_tokenizers_without_its_empty_header(tiny_model_folder):
    tokenizer = AutoTokenizer.from_pretrained(tiny_model_folder)
    messages = [{"role": role, "content": content} for role, content in TWO_TURNS]
    own = str(tokenizer.apply_chat_template(messages, tokenize=False))
    text = "<|startoftext|>" + "".join(text for text, _ in render_segments(TWO_TURNS, "\n"))
    assert own == f"{text}{header('assistant')}\n"


def test_the_newlines_are_those_of_the_tokenizers_template(tiny_model_folder):
    tokenizer = AutoTokenizer.from_pretrained(tiny_model_folder)
    assert template_newlines(tokenizer, "chat") == "\n"
    tokenizer.chat_template = str(tokenizer.chat_template).replace("<|end_header_id|>\n", "<|end_header_id|>\n\n")
    assert template_newlines(tokenizer, "chat") == "\n\n"
    assert template_newlines(tokenizer, "chat_one_newline") == "\n"
    assert template_newlines(tokenizer, "plain") is None


def test_a_template_of_another_form_is_refused(tiny_model_folder):
    tokenizer = AutoTokenizer.from_pretrained(tiny_model_folder)
    tokenizer.chat_template = "{{ messages[0]['content'] }}"
    with pytest.raises(ValueError, match="template 'chat' needs"):
        template_newlines(tokenizer, "chat")
