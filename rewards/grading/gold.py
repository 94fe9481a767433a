"""Gold answers are found in the texts of data sets, and matched with a comparison."""

from __future__ import annotations

import re
from collections.abc import Callable
from functools import lru_cache
from typing import Any

from rewards.grading import choices, equality, numbers
from rewards.grading.extraction import candidates
from rewards.grading.text import clean, strip_wrapping

_MARKED = re.compile(r"answer\b|</think>|\\(?:boxed|fbox)\b|####|(?:^|\n)[ \t*_]*A[ \t*_]*:", re.IGNORECASE)
"""A whole solution has one of these marks, and a bare answer has none."""


def extract_gold(text: str) -> str:
    """Returns the bare gold of a data set's text, which may be a whole solution.

    The answer is taken from ``<answer>`` tags, a box, a line after ``####``, "A:" or "Answer:"; a text without any of
    them is the answer itself. The result is empty where a mark holds no answer, such as a box that is not closed.
    """
    text = clean(text).strip()
    if _MARKED.search(text):
        found = next(candidates(text), None)
        text = found.text if found and found.rule not in ("whole", "sentence") else ""
    return strip_wrapping(text)


@lru_cache(maxsize=4096)  # the samples of one prompt share their gold
def prepare(gold: str, kind: str) -> tuple[str, str]:
    """Returns how to compare (`number`, `choice`, `yes_no`, `word`, `math` or `geo_number`), and the bare gold.

    Raises:
        ValueError: Unknown kind, or a gold that cannot be graded as this kind.
    """
    if kind not in _READERS:
        raise ValueError(f"kind {kind!r} is not one of {list(_READERS)}")
    bare = extract_gold(gold)
    if not bare:
        raise ValueError(f"expected a gold answer, found {gold[:80]!r}")
    expected, readers = _READERS[kind]
    for form, read in readers.items():
        prepared = read(bare)
        if prepared:
            return form, prepared
    raise ValueError(f"expected {expected}, found {bare[:80]!r}")


def _if(test: Callable[[str], Any]) -> Callable[[str], str | None]:
    return lambda bare: bare if test(bare) else None


_number, _mathematics = _if(numbers.parse), _if(equality.is_usable)
_letter, _yes_or_no = choices.gold_letter, _if(lambda bare: choices.tokens(bare) in (["yes"], ["no"]))
_MATHEMATICS = f"a mathematical gold of at most {equality.LONGEST} characters with its brackets closed"
_READERS: dict[str, tuple[str, dict[str, Callable[[str], str | None]]]] = {
    "auto": (_MATHEMATICS, {
        "yes_no": _yes_or_no,
        "choice": lambda bare: _letter(bare) if bare.strip("()[].: ").isupper() else None,
        "number": _if(lambda bare: not {"\\", "="} & set(bare) and numbers.parse(bare)),
        "math": _mathematics,
    }),
    "gsm8k": ("a number as GSM8K's gold", {"number": _number}),
    "math": (_MATHEMATICS, {"math": _mathematics}),
    "choice": ("one letter from A to J as the gold choice", {"choice": _letter}),
    "geoqa": (_MATHEMATICS, {"choice": _letter, "geo_number": _mathematics}),
    "clevr": ("a number, yes, no or a word as CLEVR's gold", {
        "number": _number,
        "yes_no": _yes_or_no,
        "word": _if(lambda bare: re.fullmatch(r"[\w '.-]+", bare) and 0 < len(choices.tokens(bare)) <= 3),
    }),
}  # fmt: skip
"""Each kind has a name for error messages, and readers of the forms of its gold; the first that reads it decides."""
KINDS = tuple(_READERS)
