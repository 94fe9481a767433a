"""The process that runs math-verify: one JSON line in, one out; limits itself, and dies with its parent."""

from __future__ import annotations

import json
import os
import resource
import sys
from typing import Any

MEMORY = 2 * 1024**3
"""Address space, in bytes."""
CPU_SECONDS = 5
"""For one comparison: ends a comparison whose parent died."""


def main() -> None:
    """Answers until its input ends: ``[gold, answer]`` -> true, false or null for an error."""
    _limit(resource.RLIMIT_AS, MEMORY)
    _limit(resource.RLIMIT_CORE, 0)
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)  # nothing that a library prints may look like an answer
    compare = _comparison()
    answers.write("ready\n")
    answers.flush()
    for line in sys.stdin:
        used = resource.getrusage(resource.RUSAGE_SELF)
        _limit(resource.RLIMIT_CPU, int(used.ru_utime + used.ru_stime) + 1 + CPU_SECONDS)
        gold, answer = json.loads(line)
        try:
            outcome = compare(gold, answer)
        except Exception:  # a parser may fail in any way on a model's text
            outcome = None
        answers.write(json.dumps(outcome) + "\n")
        answers.flush()


def _limit(which: int, soft: int) -> None:
    hard = resource.getrlimit(which)[1]
    resource.setrlimit(which, (soft if hard == resource.RLIM_INFINITY else min(soft, hard), hard))


def _comparison() -> Any:
    from math_verify import LatexExtractionConfig, parse, verify  # noqa: PLC0415 - after the memory limit

    config = [LatexExtractionConfig(boxed_match_priority=0)]

    def expressions(text: str) -> list[Any]:
        found = parse(f"\\boxed{{{text}}}", config, fallback_mode="no_fallback", parsing_timeout=None)  # pyright: ignore[reportArgumentType]
        return [item for item in found if not isinstance(item, str)]

    def compare(gold: str, answer: str) -> bool:
        # Twelve decimals: at the usual six, 1.414214 would be the root of two.
        return bool(verify(expressions(gold), expressions(answer), float_rounding=12, timeout_seconds=None))

    return compare


if __name__ == "__main__":
    main()
