"""Tests the rule of the OCR reward, and the real model on a rendered text if it is installed."""

from __future__ import annotations

import functools
import itertools
import sys
import types

import pytest
from PIL import Image, ImageDraw, ImageFont

from rewards.base import RewardInput
from rewards.loading import load_reward
from rewards.ocr import Ocr, accuracy, edit_distance, wanted_text


def sample(prompt: str, label: str | None = None) -> RewardInput:
    return RewardInput(prompt=prompt, completion="", task="t2i", label=label, image=Image.new("RGB", (8, 8)))


@functools.cache
def by_recursion(a: str, b: str) -> int:
    if not a or not b:
        return len(a) + len(b)
    return min(by_recursion(a[1:], b) + 1, by_recursion(a, b[1:]) + 1, by_recursion(a[1:], b[1:]) + (a[0] != b[0]))


def test_the_edit_distance_is_that_of_its_definition() -> None:
    texts = ["".join(letters) for length in range(4) for letters in itertools.product("ab", repeat=length)]
    for a, b in itertools.product(texts, repeat=2):
        assert edit_distance(a, b) == by_recursion(a, b)


@pytest.mark.parametrize(
    ("read", "wanted", "expected", "alone"),
    [
        ("HELLO world", "Hello World", 1.0, 1.0),
        ("hello w0rld", "Hello World", 0.9, 0.9),  # 1 of 10 characters
        ("big sale today", "sale", 1.0, 0.0),  # 8 additional characters, more than the text has
        ("sales", "sale", 1.0, 0.75),
        ("", "sale", 0.0, 0.0),
        ("Ｓａｌｅ", "sale", 1.0, 1.0),  # full-width letters
        ("STRASSE", "straße", 1.0, 1.0),
    ],
)
def test_the_accuracy_is_one_minus_the_normalized_distance(
    read: str, wanted: str, expected: float, alone: float
) -> None:
    assert accuracy(read, wanted) == pytest.approx(expected)
    assert accuracy(read, wanted, allow_more=False) == pytest.approx(alone)


def test_the_text_is_the_gold_or_what_is_quoted() -> None:
    assert wanted_text(sample('A "red" sign', "blue")) == "blue"
    assert wanted_text(sample("A poster: “Jazz” in “May”")) == "Jazz May"
    with pytest.raises(ValueError, match="requests no text"):
        Ocr().check_prompt(sample("A sign"))
    with pytest.raises(ValueError, match="generates no image"):
        Ocr().check_prompt(RewardInput(prompt='"a"', completion="", task="text"))


def test_a_custom_reader_is_called_with_the_image(monkeypatch: pytest.MonkeyPatch) -> None:
    module = types.ModuleType("my_ocr")
    monkeypatch.setattr(module, "read", lambda image: f"{image.width} b", raising=False)
    monkeypatch.setitem(sys.modules, "my_ocr", module)
    reward = load_reward("ocr", {"reader": "my_ocr:read"})
    assert reward([sample('"8b"'), sample('"8c"')]) == [1.0, 0.5]
    with pytest.raises(ValueError, match=r"expected package\.module:function"):
        Ocr(reader="my_ocr")


def test_without_the_package_the_error_says_how_to_install_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "rapidocr", None)
    with pytest.raises(ValueError, match=r"pip install 'unigrpo\[ocr\]'"):
        Ocr().load()


def test_the_model_reads_a_rendered_text() -> None:
    pytest.importorskip("rapidocr", reason="needs the extra ocr: pip install 'unigrpo[ocr]'")
    image = Image.new("RGB", (256, 128), "white")
    ImageDraw.Draw(image).text((20, 40), "Hello World", fill="red", font=ImageFont.load_default(32))
    asked = RewardInput(prompt='A sign that says "hello world"', completion="", task="t2i", image=image)
    other = RewardInput(prompt='A sign that says "quick fox"', completion="", task="t2i", image=image)
    empty = RewardInput(
        prompt='A sign that says "hello"', completion="", task="t2i", image=Image.new("RGB", (64, 64), "white")
    )
    reward = Ocr()
    first, second, third = reward([asked, other, empty])
    assert first == 1.0 and third == 0.0
    assert second is not None and second < 0.5
