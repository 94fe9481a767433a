"""Grades a file of predictions: ``unigrpo grade --input F.jsonl --output G.jsonl``."""

from __future__ import annotations

import argparse
import json
import sys
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tqdm import tqdm

from rewards.grading.grader import KINDS, Grader, prepare
from rewards.runtime.jsonl import numbered_lines
from rewards.runtime.limited import ProcessUnavailable

SHOWN = 10
"""Largest number of bad lines that are listed."""
STATUSES = ("ok", "no_answer", "timeout", "error")
IMAGE_TASKS = ("t2i", "r2i")
"""Tasks whose samples are images, with the caption as their label."""
_FIELDS = {"prediction": ("text", (str,)), "gold": ("text or a number", (str, int, float)), "kind": ("text", (str,))}
"""The types of the fields that a line must have, in words and as classes."""
HELP = """\
Compares the final answer of each prediction with its gold answer.

Each line of the input is a JSON object with the fields
  prediction  the model's text, with its thoughts and special tokens
  gold        the right answer, as in the data set
  kind        how to compare:
                gsm8k   a number (the gold may be a whole solution ending in "#### 18")
                math    an expression, set, interval, matrix or word (the gold may hold a \\boxed{})
                choice  a letter from A to J
                geoqa   a letter, or a number or expression with its unit
                clevr   a number, yes or no, or a word
                auto    any of these; the kind is found from the gold answer
The samples.jsonl of `unigrpo evaluate` and `unigrpo generate` can be graded, too: its texts are the predictions, its
labels are the gold answers, and the kind is auto or that of --kind. Samples of images (t2i, r2i) are left out and
counted.

Other fields are kept. Each line of the output has three more fields:
  correct     true or false
  extracted   the answer as written, or null
  status      ok, no_answer, timeout or error (the last three are never correct)

All lines are checked before the first is graded; a line that cannot be graded ends the program with status 2."""


class InputError(Exception):
    """The command or the input is wrong; the message says how."""


def main(arguments: Sequence[str] | None = None) -> None:
    """Runs the command; ends with status 2 for a bad input."""
    parser = argparse.ArgumentParser(
        prog="unigrpo grade", description=HELP, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--input", type=Path, required=True, metavar="F.jsonl", help="file of predictions")
    parser.add_argument("--output", type=Path, required=True, metavar="G.jsonl", help="file to write")
    parser.add_argument("--kind", choices=KINDS, help="kind of the lines without a field kind")
    parser.add_argument("--deadline", type=float, default=2.0, metavar="SECONDS",
                        help="CPU time for one comparison of two expressions (default: %(default)s)")  # fmt: skip
    given = parser.parse_args(arguments)
    try:
        summary = grade_file(given.input, given.output, given.kind, given.deadline)
    except (InputError, ProcessUnavailable) as error:
        parser.exit(2, f"{parser.prog}: {error}\n")
    sys.stdout.write(f"{summary}\nwritten to {given.output}\n")


def grade_file(source: Path, target: Path, kind: str | None = None, deadline: float = 2.0) -> str:
    """Grades the lines of one file into another, which appears only when it is complete.

    Args:
        source: JSON lines with `prediction`, `gold` and `kind`.
        target: The same lines with `correct`, `extracted` and `status`.
        kind: Kind of lines without a field `kind`.
        deadline: CPU seconds for one comparison of two expressions.

    Returns:
        A table of the outcomes by kind.

    Raises:
        InputError: A file is missing, or lines, which are listed by number, cannot be graded.
    """
    total = _check(source, target, kind, deadline)
    counts: Counter[tuple[str, str]] = Counter()
    num_images = 0
    part = target.with_name(target.name + ".part")
    grader = Grader(deadline)
    try:
        with part.open("w", encoding="utf-8") as output:
            for _, line in tqdm(numbered_lines(source), total=total, unit="answer", desc="grading", disable=None):
                item = _parsed(line, kind)
                if item is None:
                    num_images += 1
                    continue
                grade = grader(item["prediction"], str(item["gold"]), item["kind"])
                item |= {"correct": grade.correct, "extracted": grade.extracted, "status": grade.status}
                output.write(json.dumps(item) + "\n")
                counts.update([(item["kind"], grade.status), (item["kind"], "correct")][: 1 + grade.correct])
        part.replace(target)
    finally:
        grader.close()
        part.unlink(missing_ok=True)
    return _summary(counts) + (f"\nsamples of images, which are left out: {num_images}" if num_images else "")


def _check(source: Path, target: Path, kind: str | None, deadline: float) -> int:
    """Returns the number of lines, all of which can be graded or are samples of images."""
    if not source.is_file():
        raise InputError(f"--input {source}: no such file")
    if target.is_dir() or not target.absolute().parent.is_dir():
        raise InputError(f"--output {target}: expected a file name in a folder that exists")
    if target.exists() and target.samefile(source):
        raise InputError(f"--output {target}: is the input; choose another name")
    if not deadline > 0:
        raise InputError(f"--deadline {deadline}: expected more than 0 seconds")
    total, num_images, problems = 0, 0, list[str]()
    for number, line in numbered_lines(source):
        total += 1
        try:
            item = _parsed(line, kind)
            if item is None:
                num_images += 1
                continue
            prepare(str(item["gold"]), item["kind"])
        except ValueError as error:
            problems.append(f"line {number}: {error}")
    if problems:
        more = [f"... and {len(problems) - SHOWN} more"] if len(problems) > SHOWN else []
        title = f"{source}: {len(problems)} of {total} lines cannot be graded"
        raise InputError("\n".join([title, *problems[:SHOWN], *more]))
    if total == num_images:
        raise InputError(f"{source}: holds " + ("samples of images alone, without an answer" if total else "no line"))
    return total


def _parsed(line: bytes, kind: str | None) -> dict[str, Any] | None:
    """Returns a line with the fields of a prediction, which `samples.jsonl` has under other names; None for an
    image."""
    try:
        item = json.loads(line.decode("utf-8"))
    except (ValueError, RecursionError) as error:
        raise ValueError(f"is no JSON ({type(error).__name__}: {error})") from error
    if not isinstance(item, dict):
        raise ValueError("expected a JSON object with the fields prediction, gold and kind")
    if "prediction" not in item and item.get("task") in IMAGE_TASKS:
        return None
    text = item.get("completion", item.get("text"))
    if "prediction" not in item and "label" in item and isinstance(text, str):
        sampling = {"sampling": item["kind"]} if "kind" in item else {}  # the kind of a sample says how it was drawn
        item = {**item, **sampling, "prediction": text, "gold": item["label"], "kind": kind or "auto"}
    item = {"kind": kind, **item} if kind else item
    for name, (expected, types) in _FIELDS.items():
        if name not in item:
            raise ValueError(f"has no field {name}; found {list(item)[:8]}")
        if type(item[name]) not in types:
            raise ValueError(f"expected {expected} as {name}, found {item[name]!r:.80}")
    return item


def _summary(counts: Counter[tuple[str, str]]) -> str:
    kinds = sorted({kind for kind, _ in counts})
    text = f"{'kind':>8}{'answers':>10}{'correct':>18}" + "".join(f"{status:>11}" for status in STATUSES)
    for name, members in [*((kind, [kind]) for kind in kinds), *([("all", kinds)] if len(kinds) > 1 else [])]:
        right, *by_status = (sum(counts[kind, status] for kind in members) for status in ("correct", *STATUSES))
        correct = f"{right} ({right / sum(by_status):.1%})"
        text += f"\n{name:>8}{sum(by_status):>10}{correct:>18}" + "".join(f"{number:>11}" for number in by_status)
    return text


if __name__ == "__main__":
    main()
