"""Sums of three terms, with the thoughts that lead to the answer."""

from __future__ import annotations

import itertools
import json
import random
from pathlib import Path

NUM_TERMS = 3
NUM_TEST = 200
NUM_SHOWN = 1500
"""Number of the 5,832 sums of :func:`stage_split` on which the stages before UniGRPO train."""
SEED = 2505
SLIP_RATE = 0.2
"""Fraction of wrong additions in the demonstrations, with which 36% of their answers are wrong."""
DEMONSTRATIONS_PER_PROBLEM = 16


def problems(seed: int = SEED, first: range = range(1, 10)) -> list[tuple[int, ...]]:
    """Returns all sums of a term of ``first`` and two terms from 1 to 9, shuffled with the seed."""
    terms = list(itertools.product(first, range(1, 10), range(1, 10)))
    random.Random(seed).shuffle(terms)
    return terms


def split(seed: int = SEED) -> tuple[list[tuple[int, ...]], list[tuple[int, ...]]]:
    """Returns sums of one-digit terms to train on, and held-out ones. They are disjoint and together all 729."""
    shuffled = problems(seed)
    num_test = min(NUM_TEST, len(shuffled) // 4)
    return shuffled[num_test:], shuffled[:num_test]


def stage_split(seed: int = SEED) -> tuple[list[tuple[int, ...]], list[tuple[int, ...]], list[tuple[int, ...]]]:
    """Returns sums whose first term and totals have two digits, for the stages before UniGRPO, for UniGRPO, and held
    out.

    They are disjoint and together all 5,832.
    """
    shuffled = problems(seed, first=range(10, 82))
    others = shuffled[NUM_TEST:]
    return others[:NUM_SHOWN], others[NUM_SHOWN:], shuffled[:NUM_TEST]


def question(terms: tuple[int, ...]) -> str:
    """Returns the question of a sum.

    >>> question((3, 4, 5))
    '3+4+5='
    """
    return "+".join(map(str, terms)) + "="


def thoughts_and_answer(terms: tuple[int, ...], slips: tuple[int, ...] = ()) -> str:
    """Returns a response in the format of MMaDA.

    Args:
        terms: The terms of the sum.
        slips: Error of each addition; the response continues with the wrong sum. With None, there are no errors.

    >>> thoughts_and_answer((3, 4, 5))
    '<think>3+4=7 7+5=12</think>12'
    >>> thoughts_and_answer((3, 4, 5), slips=(1, 0))
    '<think>3+4=8 8+5=13</think>13'
    """
    total, steps = terms[0], []
    for i, term in enumerate(terms[1:]):
        result = total + term + (slips[i] if slips else 0)
        steps.append(f"{total}+{term}={result}")
        total = result
    return f"<think>{' '.join(steps)}</think>{total}"


def draw_slips(rng: random.Random) -> tuple[int, ...]:
    """Returns the error of each addition of a response: 1 or -1 with probability :data:`SLIP_RATE`, otherwise 0."""
    return tuple(rng.choice((-1, 1)) if rng.random() < SLIP_RATE else 0 for _ in range(NUM_TERMS - 1))


def write_prompts(folder: Path) -> None:
    """Writes ``train.jsonl`` and ``test.jsonl``."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, part in zip(("train", "test"), split(), strict=True):
        rows = [{"prompt": question(terms), "label": str(sum(terms))} for terms in part]
        (folder / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))


if __name__ == "__main__":
    write_prompts(Path(__file__).parent / "prompts")
