"""Precision, recall and F1 for yes-or-no questions, as reported by POPE (arXiv:2305.10355)."""

from __future__ import annotations

from collections.abc import Sequence

from unigrpo.records import Prompt, RewardOutput

CORRECTNESS = ("pope", "mme", "math_answer")
"""Rewards that tell whether an answer is right. The first of them that a sample has is used."""


def yes_no_metrics(prompts: Sequence[Prompt], outputs: Sequence[RewardOutput]) -> dict[str, float]:
    """Returns metrics over the samples whose gold answer is yes or no; empty unless there are samples of both.

    `yes` is the positive class. An answer that is neither `yes` nor `no` counts as the wrong one of the two. Samples
    of the reward `pope` with a column `category` (POPE's settings random, popular and adversarial) add the F1 of each
    category, ``yes_no_f1_<category>``.

    Args:
        prompts: Prompt of each sample.
        outputs: Rewards of each sample.
    """
    metrics = _metrics(prompts, outputs)
    if not metrics or not any("pope" in output.parts for output in outputs):
        return metrics
    for category in sorted({str(prompt.metadata["category"]) for prompt in prompts if "category" in prompt.metadata}):
        members = [number for number, prompt in enumerate(prompts) if str(prompt.metadata.get("category")) == category]
        own = _metrics([prompts[number] for number in members], [outputs[number] for number in members])
        if own:
            metrics[f"yes_no_f1_{category}"] = own["yes_no_f1"]
    return metrics


def _metrics(prompts: Sequence[Prompt], outputs: Sequence[RewardOutput]) -> dict[str, float]:
    golds = [(prompt.label or "").strip().lower().rstrip(".") for prompt in prompts]
    pairs = [
        (gold == "yes", correct > 0)
        for gold, correct in zip(golds, map(_correctness, outputs), strict=True)
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
        "yes_fraction": said / len(pairs),
    }


def _correctness(output: RewardOutput) -> float | None:
    return next((output.parts[name] for name in CORRECTNESS if name in output.parts), None)
