"""Characters of a model's response in one form."""

from __future__ import annotations

import pytest

from rewards.grading.text import CAP, MASK, SEPARATOR, UNDECIDED, clean, without_padding


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("１２", "12"),
        ("٣", "3"),
        ("5²", "5^{2}"),
        ("3½", "3 1/2"),
        ("x₁₀", "x_{10}"),
        ("√3", "\\sqrt{3}"),
        ("∛(x+1)", "\\sqrt[3]{x+1}"),
        ("−1 × 2", "-1 * 2"),
        ("x ≤ π", "x ≤ \\pi "),
        ("50º", "50°"),
        ("a\u200bb\x00c", "abc"),
        ("“12”", '"12"'),
        ("a\r\nb", "a\n\nb"),
        ("12<|eot_id|>3", f"12{SEPARATOR}3"),
        (f"1{MASK}2", f"1{UNDECIDED}2"),
        ("\x08oxed{3}", "\\boxed{3}"),
        ("a" * (CAP + 5), "a" * CAP),
    ],
)
def test_characters_of_one_meaning_become_one(text, expected):
    assert clean(text) == expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("12<|eot_id|><|endoftext|> \n", "12"),
        ("12\0</s>", "12"),
        (f"12{MASK}", f"12{MASK}"),
        ("12 <b>", "12 <b>"),
        ("", ""),
    ],
)
def test_padding_at_the_end_goes_and_masks_stay(text, expected):
    assert without_padding(text) == expected
