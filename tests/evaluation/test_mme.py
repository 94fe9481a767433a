"""Compares accuracy+ and scores of MME with calculations by hand."""

from __future__ import annotations

import pytest

from unigrpo.evaluation.mme import mme_metrics
from unigrpo.evaluation.yes_no import yes_no_metrics
from unigrpo.records import Prompt, RewardOutput

ROWS = [
    # category, image, and whether each of its two answers is right
    ("count", "count/1.png", 1.0, 1.0),
    ("count", "count/2.png", 1.0, 0.0),
    ("OCR", "OCR/1.png", 1.0, 1.0),
    ("code_reasoning", "code/1.png", 0.0, 0.0),
    ("code_reasoning", "code/2.png", 0.0, 1.0),
]


def samples(rows=ROWS, repeats=1):
    prompts, outputs = [], []
    for category, image, *right in rows:
        for question, value in enumerate(right):
            prompt = Prompt(
                id=f"{image}:{question}", text="?", label=("Yes", "No")[question], task="mmu",
                metadata={"category": category, "question_id": image},
            )  # fmt: skip
            prompts += [prompt] * repeats
            outputs += [RewardOutput(parts={"mme": value})] * repeats
    return prompts, outputs


def test_the_scores_are_those_of_the_definition():
    assert mme_metrics(*samples()) == pytest.approx({
        "mme_accuracy_plus": 2 / 5,
        "mme_score_count": 100 * (3 / 4 + 1 / 2),
        "mme_score_OCR": 200.0,
        "mme_score_code_reasoning": 100 * (1 / 4 + 0),
        "mme_perception": 125.0 + 200.0,
        "mme_cognition": 25.0,
    })  # fmt: skip
    assert yes_no_metrics(*samples())["yes_no_recall"] == pytest.approx(3 / 5)


def test_several_samples_of_a_question_are_paired_by_number():
    prompts, outputs = samples([("count", "count/1.png", 1.0, 1.0)], repeats=2)
    # The second sample of one question, and the first of the other.
    outputs[1] = outputs[2] = RewardOutput(parts={"mme": 0.0})
    assert mme_metrics(prompts, outputs)["mme_accuracy_plus"] == 0.0
    outputs[2] = RewardOutput(parts={"mme": 1.0})
    assert mme_metrics(prompts, outputs)["mme_accuracy_plus"] == 0.5


def test_an_image_with_one_question_and_a_missing_reward_are_left_out():
    prompts, outputs = samples([("count", "count/1.png", 1.0, 1.0), ("count", "count/2.png", 1.0)])
    assert mme_metrics(prompts, outputs)["mme_accuracy_plus"] == 1.0
    assert mme_metrics(prompts[:1], outputs[:1]) == {}
    outputs[0] = RewardOutput(parts={"mme": None})
    assert mme_metrics(prompts, outputs) == {}


def test_pope_has_the_f1_of_each_setting():
    prompts = [Prompt(id=str(n), text="?", label=gold, metadata={"category": category})
               for n, (gold, category) in enumerate([("yes", "random"), ("no", "random")] * 2
                                                    + [("yes", "popular"), ("no", "popular")])]  # fmt: skip
    outputs = [RewardOutput(parts={"pope": value}) for value in (1.0, 1.0, 0.0, 1.0, 1.0, 0.0)]
    metrics = yes_no_metrics(prompts, outputs)
    # One answer is yes, and one of the two questions whose gold answer is yes.
    assert metrics["yes_no_f1_random"] == pytest.approx(2 * 1 / (1 + 2))
    assert metrics["yes_no_f1_popular"] == pytest.approx(2 * 1 / (2 + 1))
    graded = [RewardOutput(parts={"math_answer": output.parts["pope"]}) for output in outputs]
    assert set(metrics) - set(yes_no_metrics(prompts, graded)) == {"yes_no_f1_random", "yes_no_f1_popular"}
