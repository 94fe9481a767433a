"""Write a prompt file from a public data set or a generator, filtered and counted, with its source beside it."""

from __future__ import annotations

import argparse
import hashlib
import io
import json
import logging
import sys
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from unigrpo import ConfigError
from unigrpo.config import PromptFileConfig

if TYPE_CHECKING:
    from unigrpo.records import Prompt

logger = logging.getLogger(__name__)
NUM_GENERATED = 10_000
MAX_GENERATED = 10_000_000
"""Puzzles that are tried; there are not many more different Sudokus of 4x4 cells."""
HELP = """\
The source may be a downloaded copy, so that nothing is fetched. Rows without a usable gold answer and repeated rows
are dropped and counted. OUTPUT.source.json beside the prompt file has source, licence, counts and the file's SHA-256.
Embedded images are written into a folder beside the prompt file."""


@dataclass(frozen=True)
class PublicSet:
    """A data set that can be prepared."""

    source: str
    """Name on the Hub; empty if it has to be given or is generated."""
    licence: str
    """Licence of the original, where its copy names none."""
    task: str
    kind: str = ""
    """How `math_answer` grades its golds; empty for golds that it does not grade."""


SETS = {
    "gsm8k": PublicSet("openai/gsm8k:main", "MIT", "text", "gsm8k"),
    "math": PublicSet("DigitalLearningGmbH/MATH-lighteval", "MIT", "text", "math"),
    "geoqa": PublicSet("leonardPKU/GEOQA_R1V_Train_8K", "not stated", "mmu", "geoqa"),
    "clevr": PublicSet("leonardPKU/clevr_cogen_a_train", "CC BY 4.0 (CLEVR)", "mmu", "clevr"),
    "captions": PublicSet("", "not stated", "t2i"),
    "countdown": PublicSet("", "CC0 (generated)", "text"),
    "sudoku": PublicSet("", "CC0 (generated)", "text"),
}
GENERATED = ("countdown", "sudoku")


def run(arguments: Sequence[str]) -> int:
    """Runs ``unigrpo prepare``. Returns the exit status."""
    parser = argparse.ArgumentParser(prog="unigrpo prepare", description=__doc__, epilog=HELP)
    parser.add_argument("name", choices=SETS, help="data set; countdown and sudoku are generated without --source")
    parser.add_argument("--output", type=Path, required=True, metavar="F.jsonl", help="prompt file to write")
    parser.add_argument("--source", default="", help="file, folder or Hub name (default: the set's name on the Hub)")
    parser.add_argument("--split", default="train", help="split of the source (default: %(default)s)")
    parser.add_argument("--max_rows", type=int, default=0, help="largest number of rows to keep; 0 keeps all")
    parser.add_argument("--seed", type=int, default=0, help="seed of generated puzzles (default: %(default)s)")
    given = parser.parse_args(list(arguments))
    record = prepare(given.name, given.output, given.source, given.split, given.max_rows, given.seed)
    for what, number in record["rows"].items():
        sys.stdout.write(f"{number:8d}  {what}\n")
    sys.stdout.write(f"written to {given.output} (source {record['source']}, licence {record['licence']})\n")
    return 0


def prepare(
    name: str, output: Path, source: str = "", split: str = "train", max_rows: int = 0, seed: int = 0
) -> dict[str, Any]:
    """Writes the prompt file and the record beside it.

    Args:
        name: One of :data:`SETS`.
        output: The prompt file.
        source: Any path that prompts are read from; empty takes the set's name on the Hub or generates.
        split: Of the source. Of generated puzzles, `test` has those that no other split has.
        max_rows: Largest number of rows to keep; 0 keeps all, or 10,000 generated ones.
        seed: Seed of generated puzzles.

    Returns:
        The record: set, source, split, licence, rows by what became of them, and SHA-256 of the prompt file.

    Raises:
        ValueError: The source cannot be read, the output is no place for a file, or no row was kept.
    """
    found = SETS[name]
    source = source or found.source
    is_generated = not source and name in GENERATED
    if not source and not is_generated:
        raise ConfigError(f"prepare {name} needs --source: a file, folder or Hub name of prompts")
    if not output.absolute().parent.is_dir() or output.is_dir():
        raise ConfigError(f"--output {output}: expected a file name in a folder that exists")
    counts: Counter[str] = Counter()
    prompts = _generated(name, seed, split) if is_generated else _read(name, source, split, counts)
    limit = max_rows or (NUM_GENERATED if is_generated else 0)
    part = output.with_name(output.name + ".part")
    with part.open("w", encoding="utf-8") as file:
        for line in _lines(prompts, found, output, counts):
            file.write(line)
            if counts["kept"] == limit:
                break
    if not counts["kept"]:
        part.unlink()
        raise ConfigError(f"{source}: no row was kept: {dict(counts)}")
    part.replace(output)
    record = {
        "set": name,
        "source": f"generated with seed {seed}" if is_generated else source,
        "split": split,
        "licence": found.licence if is_generated else _licence(source) or found.licence,
        "rows": dict(counts),
        "sha256": hashlib.sha256(output.read_bytes()).hexdigest(),
    }
    output.with_name(output.name + ".source.json").write_text(json.dumps(record, indent=1) + "\n")
    return record


def _read(name: str, source: str, split: str, counts: Counter[str]) -> Iterator[Prompt]:
    """Yields the prompts of a source; rows that are none are counted."""
    from unigrpo.data.bad_samples import BadSample  # noqa: PLC0415  # loads torch, which --help need not
    from unigrpo.data.prompt_rows import PromptReader  # noqa: PLC0415
    from unigrpo.data.tables import open_table  # noqa: PLC0415

    file = PromptFileConfig(path=source, task=SETS[name].task, split=split)  # type: ignore[arg-type]
    table = open_table(source, split)
    try:
        reader = PromptReader(table, file, split)
    except BadSample as error:
        raise ConfigError(str(error)) from error
    logger.info("%s: %d rows; %s", source, len(table), reader.columns.describe())
    for index in range(len(table)):
        try:
            yield reader.read(index, table.key(index))
        except BadSample as error:
            counts[f"dropped: {error.reason}"] += 1
            logger.warning("%s", error)


def _generated(name: str, seed: int, split: str) -> Iterator[Prompt]:
    """Yields puzzles, those of the split `test` or all others."""
    from unigrpo.data import puzzles  # noqa: PLC0415  # loads torch, which --help need not
    from unigrpo.records import Prompt  # noqa: PLC0415

    for index in range(MAX_GENERATED):
        if name == "countdown":
            numbers, target = puzzles.countdown_puzzle(seed, index)
            text, label = puzzles.countdown_question(numbers, target), puzzles.countdown_label(numbers, target)
        else:
            puzzle, solution = puzzles.sudoku_puzzle(seed, index)
            text, label = puzzles.sudoku_question(puzzle), puzzles.sudoku_label(puzzle, solution)
        if puzzles.is_held_out(label) == (split == "test"):
            yield Prompt(id=f"{name}:{index}", text=text, label=label)


def _lines(prompts: Iterator[Prompt], found: PublicSet, output: Path, counts: Counter[str]) -> Iterator[str]:
    """Yields a line for each prompt that is kept, and counts all."""
    from rewards.math_answer import MathAnswer  # noqa: PLC0415  # loads the grader, which --help need not

    grader = MathAnswer(found.kind) if found.kind else None
    seen: set[tuple[str, ...]] = set()
    try:
        for prompt in prompts:
            key = (prompt.text, *prompt.images)
            if key in seen:
                counts["dropped: repeated"] += 1
                continue
            seen.add(key)
            row: dict[str, Any] = {"task": prompt.task, "prompt": prompt.text}
            try:
                if grader:
                    grader.check_label(prompt.label)
                if prompt.images:
                    row["image"] = _image(prompt.images[0], output, counts["kept"])
            except ValueError as error:
                counts["dropped: unusable gold or image"] += 1
                logger.warning("%s: %s", prompt.id, error)
                continue
            if prompt.label is not None and prompt.task != "t2i":
                row["label"] = prompt.label
            counts["kept"] += 1
            yield json.dumps(row, ensure_ascii=False) + "\n"
    finally:
        if grader:
            grader.close()


def _image(name: str, output: Path, number: int) -> str:
    """Returns the path of a prompt's image; an embedded one is written beside the output as it is.

    Raises:
        ValueError: The image cannot be read.
    """
    from PIL import Image  # noqa: PLC0415

    from unigrpo.data.embedded_images import EMBEDDED, embedded_bytes  # noqa: PLC0415
    from unigrpo.data.images import FORMATS, read_image  # noqa: PLC0415

    read_image(name)
    if not name.startswith(EMBEDDED):
        return str(Path(name).absolute())
    content = embedded_bytes(name)
    with Image.open(io.BytesIO(content), formats=FORMATS) as image:
        ending = (image.format or "PNG").lower()
    folder = output.with_name(f"{output.stem}_images")
    folder.mkdir(exist_ok=True)
    file = folder / f"{number:06}.{ending}"
    file.write_bytes(content)
    return f"{folder.name}/{file.name}"


def _licence(source: str) -> str:
    """Returns the licence that the README of a downloaded copy names; empty if it names none."""
    import yaml  # noqa: PLC0415

    folder = Path(source.rpartition(":")[0] if not Path(source).is_dir() else source)
    readme = folder / "README.md"
    if not source or not folder.is_dir() or not readme.is_file():
        return ""
    head = readme.read_text(encoding="utf-8", errors="replace").split("---")
    try:
        values = yaml.safe_load(head[1]) if len(head) > 2 else None
    except yaml.YAMLError:
        return ""
    licence = values.get("license") if isinstance(values, dict) else None
    return ", ".join(licence) if isinstance(licence, list) else str(licence or "")
