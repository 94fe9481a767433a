"""Reward for a short answer that is exactly the gold answer, as GQA's accuracy."""

from __future__ import annotations

import string
from collections.abc import Sequence

from rewards.base import Reward, RewardInput, check_text_prompt
from rewards.reply import final_reply

_NO_PUNCTUATION = str.maketrans("", "", string.punctuation)


class Gqa(Reward):
    """1 if the answer is the gold word or phrase, else 0.

    GQA compares exactly, and its gold answers are words in lower case. Here, case and punctuation are ignored, because
    models write capitals and full stops. Synonyms and further words make an answer wrong.

    Source:
        GQA, arXiv:1902.09506, section 4.4 (accuracy).
    """

    name = "gqa"
    range = (0.0, 1.0)
    unit = "1 if correct"

    def __call__(self, inputs: Sequence[RewardInput]) -> list[float | None]:
        return [float(_plain(final_reply(item.completion)) == _plain(item.label or "")) for item in inputs]

    def check_prompt(self, prompt: RewardInput) -> None:
        check_text_prompt(prompt)
        super().check_prompt(prompt)

    def check_label(self, label: str | None) -> None:
        if not _plain(label or ""):
            raise ValueError(f"expected a word or phrase as gold answer, found {label!r:.80}")


def _plain(text: str) -> str:
    """Returns a text in lower case without punctuation and with single spaces.

    >>> _plain(" Living  room.")
    'living room'
    """
    return " ".join(text.lower().translate(_NO_PUNCTUATION).split())
