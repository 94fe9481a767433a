"""A reward class, for rewards with weights or a server, or with a check of gold answers when the data is loaded."""

from collections.abc import Sequence

from rewards.base import Reward, RewardInput


class ContainsWord(Reward):
    """Returns 1 for an answer that contains the gold answer of the prompt, and otherwise 0."""

    name = "contains_word"
    range = (0.0, 1.0)
    unit = "1 if the word is there"

    def __init__(self, ignore_case: bool = True) -> None:
        self._ignore_case = ignore_case

    def __call__(self, inputs: Sequence[RewardInput]) -> list[float | None]:
        return [float(self._fold(item.label or "") in self._fold(item.completion)) for item in inputs]

    def check_label(self, label: str | None) -> None:
        """Checks the gold answer of every prompt before the run starts. Errors are shown with file and line."""
        if not label or len(label.split()) != 1:
            raise ValueError(f"expected one word as gold, found {label!r}")

    def _fold(self, text: str) -> str:
        return text.lower() if self._ignore_case else text
