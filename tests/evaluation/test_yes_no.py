"""Compares precision, recall and F1 with scikit-learn's definitions."""

import itertools

import pytest

from unigrpo.evaluation.yes_no import yes_no_metrics
from unigrpo.records import Prompt, RewardOutput


def sample(gold, said):
    correct = None if said is None else float(said == gold.lower().rstrip("."))
    return Prompt(id="p", text="?", label=gold), RewardOutput(parts={"math_answer": correct})


@pytest.mark.parametrize("said", itertools.product(["yes", "no"], repeat=4))
def test_all_answers_to_four_questions(said):
    golds = ["yes", "Yes.", "no", "no"]
    metrics = yes_no_metrics(*zip(*map(sample, golds, said), strict=True))
    true_positives = said[:2].count("yes")
    positives = said.count("yes")
    precision = true_positives / positives if positives else 0.0
    recall = true_positives / 2
    assert metrics["yes_no_precision"] == pytest.approx(precision)
    assert metrics["yes_no_recall"] == pytest.approx(recall)
    harmonic = 2 * precision * recall / (precision + recall) if precision + recall else 0.0
    assert metrics["yes_no_f1"] == pytest.approx(harmonic)
    assert metrics["yes_fraction"] == positives / 4


def test_other_golds_and_missing_rewards_are_left_out():
    rows = [sample("yes", "yes"), sample("no", "no"), sample("7", "7"), sample("no", None)]
    assert yes_no_metrics(*zip(*rows, strict=True))["yes_fraction"] == 0.5
    assert yes_no_metrics(*zip(*rows[:1], strict=True)) == {}
    assert yes_no_metrics(*zip(*rows[2:3], strict=True)) == {}


def test_categories_that_are_numbers_have_their_f1():
    prompts = [
        Prompt(id="p", text="?", label=gold, metadata={"category": n}) for n in (1, 2) for gold in ("yes", "no")
    ]
    outputs = [RewardOutput(parts={"pope": value}) for value in (1.0, 1.0, 0.0, 1.0)]
    metrics = yes_no_metrics(prompts, outputs)
    assert (metrics["yes_no_f1_1"], metrics["yes_no_f1_2"]) == (1.0, 0.0)
