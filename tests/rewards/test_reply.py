"""Tests the padding of a response."""

from __future__ import annotations

import time

import pytest

from rewards.reply import MASK, without_padding


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("12<|eot_id|><|endoftext|> \n", "12"),
        ("12\0</s>", "12"),
        ("12" + 30 * "<|endoftext|>\n", "12"),
        ("12</s" + 60 * " ", "12</s"),
        ("<pad>", ""),
        (f"12{MASK}", f"12{MASK}"),
        ("12 <b>", "12 <b>"),
        ("", ""),
    ],
)
def test_padding_at_the_end_is_removed_and_masks_are_not(text, expected):
    assert without_padding(text) == expected


def test_long_padding_takes_linear_time():
    text = "12" + 50_000 * "<|endoftext|>"
    started = time.process_time()
    assert without_padding(text) == "12"
    assert time.process_time() - started < 10
