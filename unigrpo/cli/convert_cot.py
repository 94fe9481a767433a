"""Convert a file of solved questions to chain-of-thought data, and drop those with a wrong answer."""

from __future__ import annotations

import argparse
import json
import logging
import sys
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rewards.grading.grader import KINDS, Grader
from unigrpo import ConfigError
from unigrpo.cli.main import run_old_name
from unigrpo.data.bad_samples import BadSample
from unigrpo.data.cot_format import ANSWER_KEYS, QUESTION_KEYS, THINKING_KEYS, CotError, convert_row, matches_gold

logger = logging.getLogger(__name__)
KEPT, UNCHECKED = "kept", "kept, without a gold answer to compare with"
WRONG, NO_GRADE = "dropped: wrong answer", "dropped: gold cannot be graded"
HELP = """\
Each row of the input has a question, thoughts or a solution, and the right answer. The answer of the solution (the
text after its thoughts, after ####, or in the last box) is compared with the right answer. Rows in which they differ
or in which a part is missing are dropped. Each line of the output has the fields question, thinking, answer and gold,
and the other fields of its row. Sources of kind cot read the output."""


def run(arguments: Sequence[str]) -> int:
    """Runs ``unigrpo convert-cot``. Returns the exit status."""
    parser = argparse.ArgumentParser(prog="unigrpo convert-cot", description=__doc__, epilog=HELP)
    parser.add_argument("--input", required=True, metavar="F", help="JSONL, JSON, CSV or parquet, or a Hub name")
    parser.add_argument("--output", type=Path, required=True, metavar="G.jsonl", help="file to write")
    parser.add_argument("--split", default="train", help="split of a Hub data set (default: %(default)s)")
    parser.add_argument(
        "--kind", choices=KINDS, default="auto", help="how answers are compared (default: %(default)s)"
    )
    parser.add_argument("--task", choices=("text", "mmu", "r2i"), default="text",
                        help="r2i has thoughts before an image and no answer (default: %(default)s)")  # fmt: skip
    given = parser.parse_args(list(arguments))
    counts = convert_file(given.input, given.output, given.kind, given.split, needs_answer=given.task != "r2i")
    sys.stdout.write("".join(f"{number:8d}  {what}\n" for what, number in counts.most_common()))
    sys.stdout.write(f"written to {given.output}\n")
    return 0


def convert_file(
    source: str, target: Path, kind: str = "auto", split: str = "train", *, needs_answer: bool = True
) -> Counter[str]:
    """Converts and filters the rows of a table; the output appears when it is complete.

    Args:
        source: Path of the input, in a form that ``SourceConfig.path`` accepts.
        target: JSON-lines file to write.
        kind: How the grader compares answers.
        split: Split of a Hugging Face data set.
        needs_answer: False for thoughts before images, which have no answer to compare.

    Returns:
        Counts of what happened to the rows; each row is in one count. The log names the dropped rows.

    Raises:
        ValueError: The input cannot be read, the output is not a place for a file, or no row was kept.
    """
    from unigrpo.data.tables import open_table  # noqa: PLC0415  # takes seconds, which --help need not wait for

    table = open_table(source, split)
    if not target.absolute().parent.is_dir() or target.is_dir():
        raise ConfigError(f"--output {target}: expected a file name in a folder that exists")
    counts: Counter[str] = Counter()
    grader = Grader()
    part = target.with_name(target.name + ".part")
    try:
        with part.open("w", encoding="utf-8") as output:
            for index in range(len(table)):
                try:
                    outcome, line = _converted(dict(table.row(index)), grader, kind, needs_answer)
                except (BadSample, CotError) as error:
                    outcome, line = f"dropped: {error.reason}", ""
                counts[outcome] += 1
                output.write(line)
                if not line:
                    logger.warning("%s: %s", table.key(index), outcome)
        if not counts[KEPT] + counts[UNCHECKED]:
            raise ConfigError(f"{source}: no row was kept: {dict(counts)}")
        part.replace(target)
    finally:
        grader.close()
        part.unlink(missing_ok=True)
    return counts


def _converted(row: dict[str, Any], grader: Grader, kind: str, needs_answer: bool) -> tuple[str, str]:
    """Returns what happened to a row, and its line; an empty line if it is dropped."""
    sample = convert_row(row, needs_answer=needs_answer)
    outcome = KEPT
    if needs_answer:
        try:
            is_right = matches_gold(sample, lambda answer, gold: grader(answer, gold, kind).correct)
        except ValueError:
            return NO_GRADE, ""
        if is_right is False:
            return WRONG, ""
        outcome = UNCHECKED if is_right is None else KEPT
    other = {key: value for key, value in row.items() if key not in (*QUESTION_KEYS, *THINKING_KEYS, *ANSWER_KEYS)}
    found = {"question": sample.question, "thinking": sample.thinking, "answer": sample.answer, "gold": sample.gold}
    return outcome, json.dumps({**found, **other}, ensure_ascii=False, default=str) + "\n"


if __name__ == "__main__":
    run_old_name("unigrpo.cli.convert_cot", "convert-cot")
