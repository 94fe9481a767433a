"""Precision, recall and F1 of yes-or-no questions, as POPE (arXiv:2305.10355) reports them."""

from __future__ import annotations

from collections.abc import Sequence

from unigrpo.records import Prompt, RewardOutput

CORRECTNESS = "math_answer"
"""Reward that says whether an answer is right."""


def yes_no_metrics(prompts: Sequence[Prompt], outputs: Sequence[RewardOutput]) -> dict[str, float]:
    """Returns metrics over the samples whose gold answer is yes or no; empty unless there are samples of both.

    `yes` is the positive class. An answer that is neither counts as the wrong one of the two.

    Args:
        prompts: Prompt of each sample.
        outputs: Rewards of each sample.
    """
    golds = [(prompt.label or "").strip().lower().rstrip(".") for prompt in prompts]
    rewards = [output.parts.get(CORRECTNESS) for output in outputs]
    pairs = [
        (gold == "yes", correct > 0)
        for gold, correct in zip(golds, rewards, strict=True)
        if gold in ("yes", "no") and correct is not None
    ]
    if len({is_yes for is_yes, _ in pairs}) < 2:
        return {}
    found = sum(is_yes and correct for is_yes, correct in pairs)
    said = sum(is_yes == correct for is_yes, correct in pairs)
    golden = sum(is_yes for is_yes, _ in pairs)
    return {
        "yes_no_precision": found / max(said, 1),
        "yes_no_recall": found / golden,
        "yes_no_f1": 2 * found / (said + golden),
        "yes_share": said / len(pairs),
    }
