"""The graders of benchmarks against the examples and rules that their authors publish."""

from __future__ import annotations

import itertools
from typing import Any

import pytest

from rewards.base import Reward, RewardInput
from rewards.loading import load_reward
from rewards.mmmu import chosen_letter, matches_open
from rewards.vqav2 import normalized, soft_accuracy

THOUGHTS = "<think>There is no dog, or is there? (A) maybe.</think>"


def value(name: str, completion: str, label: str | None, **metadata: Any) -> float | None:
    question = RewardInput(prompt="?", completion=completion, label=label, task="mmu", metadata=metadata)
    reward = load_reward(name)
    reward.check_prompt(question)
    return reward([question])[0]


@pytest.mark.parametrize(
    ("answer", "said"),
    [
        ("Yes, there is a chair.", "yes"),
        ("No, there is not a chair in the image.", "no"),
        ("There is not a chair.", "no"),
        ("There are, no, chairs", "no"),
        ("The image shows a table. There is no chair.", "yes"),  # only the first sentence counts
        ("Nothing", "yes"),  # whole words only
        ("NO", "yes"),  # as in the published script, which knows `No` and `no`
        ("", "yes"),
    ],
)
def test_pope_reads_no_in_the_first_sentence_and_otherwise_yes(answer: str, said: str) -> None:
    assert value("pope", THOUGHTS + answer, said) == 1.0
    assert value("pope", answer, {"yes": "No.", "no": "Yes"}[said]) == 0.0


@pytest.mark.parametrize(
    ("answer", "said"),
    [("Yes", "yes"), ("YES.", "yes"), ("no", "no"), ("No, it is", "no"), ("not", "no"), (" Yes", "yes"),
     ("A. Yes", "other"), ("The answer is yes.", "other"), ("", "other")],
)  # fmt: skip
def test_mme_reads_the_first_four_characters(answer: str, said: str) -> None:
    assert [value("mme", answer, gold) for gold in ("Yes", "No")] == [float(said == "yes"), float(said == "no")]


@pytest.mark.parametrize(
    ("answer", "expected"),
    [
        # the steps that visualqa.org/evaluation lists
        ("DOG", "dog"),
        ("dog.", "dog"),
        ("2.5", "2.5"),
        ("three", "3"),
        ("the dog and a cat", "dog and cat"),
        ("dont", "don't"),
        ("wouldnt've", "wouldn't've"),
        ("t-shirt", "t shirt"),
        ("100,978", "100978"),
        ("it's 5:30", "it's 5:30"),
        # and what they come to
        ("The man's hat!", "man's hat"),
        ("yes , no", "yes no"),
        ("well", "well"),
        ("None\tof\nthem", "0 of them"),
    ],
)
def test_vqav2_normalizes_answers(answer: str, expected: str) -> None:
    assert normalized(answer) == expected


@pytest.mark.parametrize("matches", range(11))
def test_vqav2_averages_over_the_people_that_are_left_out(matches: int) -> None:
    humans = ["red"] * matches + ["blue"] * (10 - matches)
    ways = [min(1.0, nine.count("red") / 3) for nine in itertools.combinations(humans, 9)]
    assert soft_accuracy("Red", humans) == pytest.approx(sum(ways) / 10, abs=1e-12)


def test_vqav2_finds_the_answers_of_people() -> None:
    people = [{"answer": word, "answer_confidence": "yes", "answer_id": 1} for word in ["two", "2", "3", "3"]]
    assert value("vqav2", THOUGHTS + "2", "3", answers=people) == pytest.approx((2 * 1 / 3 + 2 * 2 / 3) / 4)
    assert value("vqav2", "3.", "3", answers={"answer": ["3"] * 10, "answer_id": [1] * 10}) == 1.0
    assert value("vqav2", "The Dog", "dog") == 1.0
    with pytest.raises(ValueError, match="expected texts, or objects with `answer`"):
        value("vqav2", "3", "3", answers=[3])
    with pytest.raises(ValueError, match="found neither"):
        value("vqav2", "3", None)


@pytest.mark.parametrize(
    ("answer", "is_right"),
    [("Living room.", True), ("living room", True), ("room", False), ("a living room", False), ("", False)],
)
def test_gqa_compares_exactly(answer: str, is_right: bool) -> None:
    assert value("gqa", THOUGHTS + answer, "living room") == float(is_right)


OPTIONS = ["75 + 13.3 cos(250t)", "red fox", "fox", "$6,000"]


@pytest.mark.parametrize(
    ("response", "letter"),
    [
        ("B", "B"),
        ("B.", "B"),
        ("(C)", "C"),
        ("(A) is too small, hence (D).", "D"),
        ("The answer is B", "B"),
        ("I say (A) because B is wrong", "A"),  # letters in brackets go first
        ("So in this picture I see a red fox", "C"),  # both `red fox` and `fox` occur, `fox` begins last
        ("The total value then must be $6,000", "D"),
        ("red fox", None),  # too short to be searched for the text of an option
        ("I do not know", None),
    ],
)
def test_mmmu_finds_the_chosen_option(response: str, letter: str | None) -> None:
    assert chosen_letter(response, OPTIONS) == letter
    for gold in "ABCD":
        for options in (OPTIONS, repr(OPTIONS)):
            found = value("mmmu", response, gold, options=options, question_type="multiple-choice")
            assert found == float(gold == letter)


@pytest.mark.parametrize(
    ("response", "golds", "is_right"),
    [
        ("The answer is 24/7.", ["24/7"], True),
        ("x = 3 so the total = 1,250", ["1250"], True),
        ("The result is 0.333", ["1/3", "0.33"], True),  # numbers are compared with two places
        ("12 apples", ["2"], False),
        ("It could be an echinoderm", ["Echinoderm"], True),
        ("a", ["b"], False),
        ("vitamin", ["a"], False),  # a single letter only beside a space
        ("the answer is vitamin a ", ["a"], True),
    ],
)
def test_mmmu_grades_open_answers(response: str, golds: list[str], is_right: bool) -> None:
    assert matches_open(response, golds) is is_right
    assert value("mmmu", response, repr(golds), question_type="open", options="[]") == float(is_right)


@pytest.mark.parametrize("name", ["pope", "mme", "gqa", "mmmu"])
def test_golds_that_a_rule_cannot_compare_are_refused_before_the_run(name: str) -> None:
    reward: Reward = load_reward(name)
    with pytest.raises(ValueError, match="gold"):
        reward.check_prompt(RewardInput(prompt="?", completion="", label=None, task="mmu"))
    with pytest.raises(ValueError, match="writes no text"):
        reward.check_prompt(RewardInput(prompt="?", completion="", label="yes", task="t2i"))


def test_mmmu_refuses_a_letter_without_an_option() -> None:
    with pytest.raises(ValueError, match="the gold is 'C', but the question has 2 options"):
        value("mmmu", "A", "C", options=["x", "y"])
    assert value("mmmu", "(C)", "C") == 1.0, "a file may have no column of options"


@pytest.mark.parametrize("name", ["pope", "mme", "vqav2", "gqa", "mmmu"])
@pytest.mark.parametrize("form", ["<think>no</think>{}", "I think so. <answer>{}</answer>", "It is \\boxed{{{}}}."])
def test_the_answer_may_stand_after_thoughts_in_a_tag_or_in_a_box(name: str, form: str) -> None:
    right, wrong = ("B", "A") if name == "mmmu" else ("yes", "no")
    assert value(name, form.format(right), right) == 1.0
    assert value(name, form.format(wrong), right) == 0.0
