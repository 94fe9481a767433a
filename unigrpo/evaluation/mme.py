"""Accuracy+ and the scores of MME (arXiv:2306.13394, section 2.2), which asks two questions about each image."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Sequence

from unigrpo.records import Prompt, RewardOutput

REWARD = "mme"
"""The reward that tells whether an answer is right."""
PERCEPTION = (
    "existence", "count", "position", "color", "posters", "celebrity", "scene", "landmark", "artwork", "OCR",
)  # fmt: skip
COGNITION = ("commonsense_reasoning", "numerical_calculation", "text_translation", "code_reasoning")


def mme_metrics(prompts: Sequence[Prompt], outputs: Sequence[RewardOutput]) -> dict[str, float]:
    """Returns the metrics of the questions that the reward `mme` scores; empty if it scores no pair of questions.

    ``mme_accuracy_plus`` is the fraction of images whose questions are all answered correctly; with several samples of
    a question, each counts with the sample of the same number of the other question. An image with only one
    question is left out. The column `question_id` identifies the image, as in the data set lmms-lab/MME; without this
    column, the path of the image does. The column `category` adds ``mme_score_<category>``, which is 100 times the sum
    of accuracy and accuracy+ and at most 200, and the sums over the categories of each kind, ``mme_perception`` and
    ``mme_cognition``.

    Args:
        prompts: Prompt of each sample.
        outputs: Rewards of each sample.
    """
    images = _answers_by_image(prompts, outputs)
    if not images:
        return {}
    scores: dict[str, float] = {}
    for category in sorted({category for category, _ in images if category}):
        own = [answers for (name, _), answers in images.items() if name == category]
        scores[category] = 100 * (_accuracy(own) + _accuracy_plus(own))
    metrics = {"mme_accuracy_plus": _accuracy_plus(list(images.values()))}
    for kind, members in (("perception", PERCEPTION), ("cognition", COGNITION)):
        found = [scores[name] for name in members if name in scores]
        if found:
            metrics[f"mme_{kind}"] = sum(found)
    return metrics | {f"mme_score_{name}": score for name, score in scores.items()}


def _answers_by_image(
    prompts: Sequence[Prompt], outputs: Sequence[RewardOutput]
) -> dict[tuple[str, tuple[str, int]], list[bool]]:
    """Returns whether each answer is right, by category and by image and number of the sample; only images with two
    questions or more."""
    images: dict[tuple[str, tuple[str, int]], list[bool]] = defaultdict(list)
    numbers: Counter[str] = Counter()
    for prompt, output in zip(prompts, outputs, strict=True):
        value = output.parts.get(REWARD)
        if value is not None:
            image = str(prompt.metadata.get("question_id") or prompt.images)
            category = str(prompt.metadata.get("category", ""))
            images[category, (image, numbers[prompt.id])].append(value > 0)
            numbers[prompt.id] += 1
    return {key: answers for key, answers in images.items() if len(answers) > 1}


def _accuracy(images: Sequence[Sequence[bool]]) -> float:
    answers = [is_right for image in images for is_right in image]
    return sum(answers) / len(answers)


def _accuracy_plus(images: Sequence[Sequence[bool]]) -> float:
    return sum(map(all, images)) / len(images)
