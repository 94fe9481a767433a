"""Tests the reward for thoughts followed by an answer."""

from __future__ import annotations

import pytest

from rewards.base import RewardInput
from rewards.cot_format import CotFormat, is_well_formed
from rewards.loading import load_reward


@pytest.mark.parametrize(
    "text",
    [
        "<think>3+4=7</think>7",
        " \n<think>\nfirst\n\nthen\n</think>\n\nThe answer is 7.\n",
        "<think>a</think><answer>7</answer>",
        "<think>a</think>7<|eot_id|><|endoftext|><|endoftext|>",
        "<|startoftext|><think>a</think>7</s>",
        "<think>1 < 2 and <b>bold</b></think>7",
    ],
)
def test_thoughts_and_then_an_answer_are_well_formed(text):
    assert is_well_formed(text)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "7",
        "<think>a</think>",
        "<think>a</think> \n",
        "<think>a</think><|eot_id|><|endoftext|>",
        "<think></think>7",
        "<think> \n </think>7",
        "<think>\u200b</think>7",
        "<think>a</think>\u200b\ufeff",
        "<think>a 7",
        "a</think>7",
        "</think>a<think>7",
        "So <think>a</think>7",
        "<think><think>a</think>7",
        "<think>a</think></think>7",
        "<think>a</think>b<think>c</think>7",
        "<THINK>a</THINK>7",
        "<think>a<|mdm_mask|></think>7",
        "<think>a</think>7<|mdm_mask|>",
        "<think>a</think>7<|mdm_mask|><|endoftext|>",
    ],
)
def test_other_texts_are_not_well_formed(text):
    assert not is_well_formed(text)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("<think>a</think><answer>7</answer>", True),
        ("<think>a</think>\n\n<answer> 7 </answer>\n", True),
        ("<think>a</think>7", False),
        ("<think>a</think><answer></answer>", False),
        ("<think>a</think><answer>7", False),
        ("<think>a</think>so <answer>7</answer>", False),
        ("<think>a</think><answer>7</answer> I hope it is right", False),
        ("<think>a</think><answer>7</answer><answer>8</answer>", False),
        ("<think>a<answer>7</answer></think>", False),
        ("<think>a</think></answer>7<answer>", False),
    ],
)
def test_an_answer_tag_can_be_required(text, expected):
    assert is_well_formed(text, require_answer_tag=True) is expected


@pytest.mark.parametrize(
    ("text", "expected"), [("a</think>7", True), ("<think>a</think>7", False), ("</think>7", False), ("a 7", False)]
)
def test_the_prompt_may_contain_the_opening_tag(text, expected):
    assert is_well_formed(text, prefilled_think=True) is expected


@pytest.mark.parametrize(
    ("text", "options", "expected"),
    [
        ("<think>\na\n</think>\n7", {}, True),
        ("<think>a</think>7", {}, False),
        ("<think>\na\n</think> 7", {}, False),
        ("a\n</think>\n7", {"prefilled_think": True}, True),
        ("<think>\na\n</think>\n<answer>\n7\n</answer>\n", {"require_answer_tag": True}, True),
        ("<think>\na\n</think>\n<answer>7</answer>", {"require_answer_tag": True}, False),
    ],
)
def test_tags_on_separate_lines_can_be_required(text, options, expected):
    assert is_well_formed(text, strict_newlines=True, **options) is expected


def test_options_come_from_the_config():
    reward = load_reward("cot_format", {"require_answer_tag": True})
    assert isinstance(reward, CotFormat)
    items = [
        RewardInput(prompt="", completion=text) for text in ("<think>a</think>7", "<think>a</think><answer>7</answer>")
    ]
    assert reward(items) == [0.0, 1.0]


@pytest.mark.parametrize(
    ("piece", "expected"),
    [
        ("<think>", False),
        ("</think>", False),
        ("<|endoftext|>", False),
        ("\u200b", False),
        (" ", False),
        ("<answer>", True),
        ("<", True),
        ("<|", True),
    ],
)
@pytest.mark.timeout(60)  # an algorithm of quadratic time would take hours
def test_a_megabyte_of_anything_takes_no_longer_than_its_length(piece, expected):
    assert is_well_formed("<think>a</think>" + piece * (1_000_000 // len(piece))) is expected
