"""The soft accuracy of VQAv2, which follows from the number of people who gave the same answer."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

from rewards.base import Reward, RewardInput, check_text_prompt
from rewards.reply import final_reply

NUMBER_WORDS = {
    word: str(number)
    for number, word in enumerate(
        ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten")
    )
} | {"none": "0"}
ARTICLES = frozenset({"a", "an", "the"})
PUNCTUATION = ';/[]"{}()=+\\_-><@`,?!'
"""Signs that are removed. The apostrophe and the colon stay; the full stop has a rule of its own."""
CONTRACTED = (
    "ain't aren't can't could've couldn't couldn't've didn't doesn't don't hadn't hadn't've hasn't haven't "
    "he'd he'd've he's how'd how'll how's isn't it'd it'd've it'll ma'am might've mightn't mightn't've must've "
    "mustn't needn't not've o'clock oughtn't 'ow's'at shan't she'd've should've shouldn't shouldn't've "
    "somebody'd've somebody'll somebody's someone'd someone'd've someone'll someone's something'd "
    "something'd've something'll that's there'd there'd've there're there's they'd they'd've they'll they're "
    "they've 'twas wasn't we'd've we've weren't what'll what're what's what've when's where'd where's where've "
    "who'd who'd've who'll who's who've why'll why're why's won't would've wouldn't wouldn't've y'all "
    "y'all'd've y'all'll you'd you'd've you'll you're you've"
)
"""Contractions to which a missing apostrophe is restored; `hell`, `well` and others that are words are not here."""
_MISSING_APOSTROPHE = {
    word[:place] + word[place + 1 :]: word
    for word in CONTRACTED.split()
    for place, sign in enumerate(word)
    if sign == "'"
}  # fmt: skip
_COMMA_OF_NUMBER = re.compile(r"\d,\d")
_FULL_STOP = re.compile(r"\.(?!\d)")


class Vqav2(Reward):
    """The soft accuracy of an answer: 1 if at least four of ten people gave it, and less for fewer.

    The answers of the people are in the column `answers`, as texts or as VQAv2's objects with `answer`. Without such a
    column the gold is the only answer, and the value is 0 or 1.

    Source:
        VQA, arXiv:1505.00468, section 3, and visualqa.org/evaluation: the mean of min(matches / 3, 1) over all ways of
        leaving one person out. The answer and those of the people are normalized alike, as on the test server.
    """

    name = "vqav2"
    range = (0.0, 1.0)
    unit = "soft accuracy"

    def __call__(self, inputs: Sequence[RewardInput]) -> list[float | None]:
        return [soft_accuracy(final_reply(item.completion), human_answers(item)) for item in inputs]

    def check_prompt(self, prompt: RewardInput) -> None:
        check_text_prompt(prompt)
        if not human_answers(prompt):
            raise ValueError("expected a column `answers` with the answers of people, or a gold answer; found neither")


def soft_accuracy(answer: str, humans: Sequence[str]) -> float:
    """Returns the mean of min(matches / 3, 1) over all ways of leaving one person out.

    A single person is not left out; then the value is 1 for the same answer and 0 for another one.

    >>> soft_accuracy("Two.", ["2"] * 3 + ["3"] * 7)
    0.9
    """
    said, golds = normalized(answer), [normalized(human) for human in humans]
    matches = golds.count(said)
    if len(golds) == 1:
        return float(matches)
    others = [matches - (gold == said) for gold in golds]
    return sum(min(number, 3) for number in others) / (3 * len(others))


def normalized(answer: str) -> str:
    """Returns an answer in lower case without articles and punctuation, with digits for number words up to ten and
    with the apostrophes of contractions.

    A sign between two characters becomes a space, as in `t-shirt`; next to a space, or in a text with a comma inside a
    number, signs are removed. Full stops are removed unless a digit follows.

    >>> normalized("The dog, dont you see?"), normalized("1,000"), normalized("t-shirt"), normalized("2.5.")
    ("dog don't you see", '1000', 't shirt', '2.5')
    """
    text = answer.replace("\n", " ").replace("\t", " ").strip()
    has_number = bool(_COMMA_OF_NUMBER.search(text))
    cleaned = text
    for sign in PUNCTUATION:
        is_at_space = f"{sign} " in text or f" {sign}" in text
        cleaned = cleaned.replace(sign, "" if is_at_space or has_number else " ")
    words = (NUMBER_WORDS.get(word, word) for word in _FULL_STOP.sub("", cleaned).lower().split())
    return " ".join(_MISSING_APOSTROPHE.get(word, word) for word in words if word not in ARTICLES)


def human_answers(item: RewardInput) -> list[str]:
    """Returns the answers of people to a question, or only the gold answer if there is no column `answers`.

    Raises:
        ValueError: The column has entries other than texts or objects with `answer`.
    """
    answers: Any = item.metadata.get("answers")
    if answers is None:
        return [] if item.label is None else [item.label]
    if isinstance(answers, Mapping):  # datasets stores a list of objects as an object of lists
        answers = answers.get("answer")
    if not isinstance(answers, Sequence) or isinstance(answers, str):
        raise ValueError(f"expected a list of answers in the column `answers`, found {answers!r:.80}")
    texts: list[Any] = [one.get("answer") if isinstance(one, Mapping) else one for one in answers]
    if not all(isinstance(text, str) for text in texts):
        raise ValueError(f"expected texts, or objects with `answer`, in the column `answers`; found {answers!r:.80}")
    return texts
