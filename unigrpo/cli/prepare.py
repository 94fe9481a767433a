"""Write a filtered prompt file from a public data set or a generator, and a record of its source."""

from __future__ import annotations

import argparse
import hashlib
import io
import json
import logging
import re
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
The source may be a downloaded copy, which needs no network. Rows without a usable gold answer and repeated rows are
dropped and counted. F.jsonl.source.json has source, licence, counts and the SHA-256 of the prompt file F.jsonl.
Embedded images are written into a folder beside the prompt file. `describe` uses the images of any table and asks for
descriptions of them. With --held_out, F.jsonl and F_test.jsonl have no image and no question in common."""


@dataclass(frozen=True)
class PublicSet:
    """A data set that can be prepared."""

    source: str
    """Name on the Hub; empty if the source must be given or the set is generated."""
    licence: str
    """Licence of the original."""
    task: str
    kind: str = ""
    """Kind with which `math_answer` grades its gold answers; empty if it does not grade them."""
    request: str = ""
    """Prompt of every row, of which only the image is used; empty if the rows have prompts of their own."""


NOT_STATED = "not stated"
SETS = {
    "gsm8k": PublicSet("openai/gsm8k:main", "MIT", "text", "gsm8k"),
    "math": PublicSet("DigitalLearningGmbH/MATH-lighteval", "MIT", "text", "math"),
    "geoqa": PublicSet("leonardPKU/GEOQA_R1V_Train_8K", NOT_STATED, "mmu", "geoqa"),
    "clevr": PublicSet("leonardPKU/clevr_cogen_a_train", "CC BY 4.0 (CLEVR)", "mmu", "clevr"),
    "captions": PublicSet("", NOT_STATED, "t2i"),
    "describe": PublicSet("", NOT_STATED, "mmu", request="Please describe this image."),
    "countdown": PublicSet("", NOT_STATED, "text"),
    "sudoku": PublicSet("", NOT_STATED, "text"),
}
LICENCE_OF_GENERATED = "CC0 (generated)"
GENERATED = ("countdown", "sudoku")


def run(arguments: Sequence[str]) -> int:
    """Runs ``unigrpo prepare``. Returns the exit status."""
    given = prepare_parser().parse_args(list(arguments))
    record = prepare(
        given.name, given.output, given.source, given.split, given.max_rows, given.seed, held_out=given.held_out
    )
    for what, number in record["rows"].items():
        sys.stdout.write(f"{number:8d}  {what}\n")
    note = f"; {record['licence_note']}" if "licence_note" in record else ""
    sys.stdout.write(f"written to {given.output} (source {record['source']}, licence {record['licence']}{note})\n")
    if given.held_out:
        sys.stdout.write(f"held out: {held_out_file(given.output)}\n")
    return 0


def prepare_parser() -> argparse.ArgumentParser:
    """Returns the parser of the command line."""
    parser = argparse.ArgumentParser(prog="unigrpo prepare", description=__doc__, epilog=HELP)
    parser.add_argument("name", choices=SETS, help="data set; countdown and sudoku are generated without --source")
    parser.add_argument("--output", type=Path, required=True, metavar="F.jsonl", help="prompt file to write")
    parser.add_argument("--source", default="", help="file, folder or Hub name (default: the set's name on the Hub)")
    parser.add_argument("--split", default="train", help="split of the source (default: %(default)s)")
    parser.add_argument("--max_rows", type=int, default=0, help="largest number of rows to keep; 0 keeps all")
    parser.add_argument(
        "--held_out",
        type=int,
        default=0,
        metavar="N",
        help="number of rows that are written to F_test.jsonl instead, for sets with one split",
    )
    parser.add_argument("--seed", type=int, default=0, help="seed of generated puzzles (default: %(default)s)")
    return parser


def held_out_file(output: Path) -> Path:
    """Returns the path of the held-out rows beside a prompt file.

    >>> held_out_file(Path("data/rl/geoqa.jsonl")).name
    'geoqa_test.jsonl'
    """
    return output.with_name(f"{output.stem}_test{output.suffix}")


def prepare(
    name: str,
    output: Path,
    source: str = "",
    split: str = "train",
    max_rows: int = 0,
    seed: int = 0,
    *,
    held_out: int = 0,
) -> dict[str, Any]:
    """Writes the prompt file and the record beside it.

    Args:
        name: One of :data:`SETS`.
        output: The prompt file; its folder is created.
        source: Any path of prompts; if empty, the set's name on the Hub is used, or the set is generated.
        split: Split of the source. The split `test` of generated puzzles shares no puzzle with other splits.
        max_rows: Largest number of rows to keep; 0 keeps all, or 10,000 generated ones.
        seed: Seed of generated puzzles.
        held_out: Number of the kept rows that go into :func:`held_out_file` instead, chosen by the hashes of their
            images or texts, so that both files have no image and no text in common.

    Returns:
        The record: set, source, split, licence (with a note if it is uncertain), numbers of kept and dropped rows, and
        SHA-256 of the prompt file.

    Raises:
        ValueError: The source cannot be read, the output cannot be a file, or no row was kept.
    """
    found = SETS[name]
    source = source or found.source
    is_generated = not source and name in GENERATED
    if not source and not is_generated:
        raise ConfigError(f"prepare {name} needs --source: a file, folder or Hub name of prompts")
    if output.is_dir():
        raise ConfigError(f"--output {output} is a folder; name a file in it, such as {output / name}.jsonl")
    output.absolute().parent.mkdir(parents=True, exist_ok=True)
    counts: Counter[str] = Counter()
    if is_generated:
        prompts = _generated(name, seed, split)
    else:
        prompts = (_requests if found.request else _read)(name, source, split, counts)
    lines: list[Line] = []
    limit = max_rows or (NUM_GENERATED if is_generated else 0)
    for line in _lines(prompts, found, output, counts):
        lines.append(line)
        if counts["kept"] == limit:
            break
    tests = _held_out(lines, held_out)
    kept = [line for line in lines if line.key not in tests]
    if not kept:
        raise ConfigError(f"{source}: no row was kept: {dict(counts)}, {len(lines)} of them held out")
    record = {
        "set": name,
        "source": f"generated with seed {seed}" if is_generated else source,
        "split": split,
        **({"licence": LICENCE_OF_GENERATED} if is_generated else _licences(found, source)),
        "rows": dict(counts),
    }
    if held_out:
        record["rows"] |= {"kept": len(kept), "held out": len(lines) - len(kept)}
        _write(held_out_file(output), [line for line in lines if line.key in tests], record)
    return _write(output, kept, record)


@dataclass(frozen=True)
class Line:
    """A row that was kept."""

    text: str
    """Its JSON."""
    key: str
    """SHA-256 of its image, or of its prompt if it has none."""


def _held_out(lines: Sequence[Line], number: int) -> set[str]:
    """Returns the smallest keys that belong to at least so many rows, or no keys for 0."""
    rows = Counter(line.key for line in lines)
    chosen: set[str] = set()
    for key in sorted(rows):
        if sum(rows[one] for one in chosen) >= number:
            break
        chosen.add(key)
    return chosen


def _write(file: Path, lines: Sequence[Line], record: dict[str, Any]) -> dict[str, Any]:
    """Writes a prompt file and its record with the file's SHA-256, and returns the record."""
    part = file.with_name(file.name + ".part")
    part.write_text("".join(line.text for line in lines), encoding="utf-8")
    part.replace(file)
    whole = record | {"sha256": hashlib.sha256(file.read_bytes()).hexdigest()}
    file.with_name(file.name + ".source.json").write_text(json.dumps(whole, indent=1) + "\n")
    return whole


def _requests(name: str, source: str, split: str, counts: Counter[str]) -> Iterator[Prompt]:
    """Yields the request of a set with the image of every row; rows without exactly one image are counted."""
    from unigrpo.data.bad_samples import BadSample  # noqa: PLC0415  # loads torch, which --help need not
    from unigrpo.data.embedded_images import embedded_name, images_in  # noqa: PLC0415
    from unigrpo.data.prompt_columns import IMAGE_KEYS  # noqa: PLC0415
    from unigrpo.data.tables import open_table  # noqa: PLC0415
    from unigrpo.records import Prompt  # noqa: PLC0415

    table = open_table(source, split)
    for index in range(len(table)):
        where = table.key(index)
        try:
            row = table.row(index)
            column = next((key for key in row if key.lower() in IMAGE_KEYS), "")
            images = images_in(row.get(column), where)
        except BadSample as error:
            counts[f"dropped: {error.reason}"] += 1
            logger.warning("%s", error)
            continue
        if len(images) != 1:
            counts["dropped: no single image"] += 1
            continue
        image = images[0]
        path = str(table.folder / image) if isinstance(image, str) else embedded_name(source, split, index, column, 0)
        yield Prompt(id=where, text=SETS[name].request, task=SETS[name].task, images=(path,))


def _read(name: str, source: str, split: str, counts: Counter[str]) -> Iterator[Prompt]:
    """Yields the prompts of a source; unusable rows are counted."""
    from unigrpo.data.bad_samples import BadSample  # noqa: PLC0415  # loads torch, which --help need not
    from unigrpo.data.prompt_rows import PromptReader  # noqa: PLC0415
    from unigrpo.data.tables import open_table  # noqa: PLC0415

    file = PromptFileConfig(path=source, task=SETS[name].task, split=split)  # type: ignore[arg-type]
    table = open_table(source, split)
    try:
        reader = PromptReader(table, file, split)
    except BadSample as error:
        raise ConfigError(str(error)) from error
    logger.info("%s: %d rows; %s", source, len(table), reader.describe())
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


def _lines(prompts: Iterator[Prompt], found: PublicSet, output: Path, counts: Counter[str]) -> Iterator[Line]:
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
            content = prompt.text.encode()
            try:
                if grader:
                    grader.check_label(prompt.label)
                if prompt.images:
                    row["image"], content = _image(prompt.images[0], output, counts["kept"])
            except ValueError as error:
                counts["dropped: unusable gold or image"] += 1
                logger.warning("%s: %s", prompt.id, error)
                continue
            if prompt.label is not None and prompt.task != "t2i":
                row["label"] = prompt.label
            counts["kept"] += 1
            yield Line(json.dumps(row, ensure_ascii=False) + "\n", hashlib.sha256(content).hexdigest())
    finally:
        if grader:
            grader.close()


def _image(name: str, output: Path, number: int) -> tuple[str, bytes]:
    """Returns path and content of a prompt's image; an embedded one is written beside the output as it is.

    Raises:
        ValueError: The image cannot be read.
    """
    from PIL import Image  # noqa: PLC0415

    from unigrpo.data.embedded_images import EMBEDDED, embedded_bytes  # noqa: PLC0415
    from unigrpo.data.images import FORMATS, read_image  # noqa: PLC0415

    read_image(name)
    if not name.startswith(EMBEDDED):
        return str(Path(name).absolute()), Path(name).read_bytes()
    content = embedded_bytes(name)
    with Image.open(io.BytesIO(content), formats=FORMATS) as image:
        ending = (image.format or "PNG").lower()
    folder = output.with_name(f"{output.stem}_images")
    folder.mkdir(exist_ok=True)
    file = folder / f"{number:06}.{ending}"
    file.write_bytes(content)
    return f"{folder.name}/{file.name}", content


def _licences(found: PublicSet, source: str) -> dict[str, str]:
    """Returns the licence for the record: that of the source's own README, or otherwise that of the original. A note
    is added if the original has another licence, or if the source names none."""
    own, original = _own_licence(source), found.licence
    if not own:
        is_copy = source != found.source and original != NOT_STATED
        return {"licence": original} | (
            {"licence_note": f"that of {found.source}; {source} names none"} if is_copy else {}
        )
    if original == NOT_STATED or _plain(own) == _plain(original):
        return {"licence": own}
    return {"licence": own, "licence_note": f"{found.source} was known under {original}; read the terms of both"}


def _plain(licence: str) -> str:
    """Returns a licence without case, punctuation and remarks in brackets."""
    return re.sub(r"[^a-z0-9.]", "", licence.partition("(")[0].lower())


def _own_licence(source: str) -> str:
    """Returns the licence that the README of a data set names; empty if it names none."""
    import yaml  # noqa: PLC0415

    readme = _readme(source)
    if readme is None:
        return ""
    head = readme.read_text(encoding="utf-8", errors="replace").split("---")
    try:
        values = yaml.safe_load(head[1]) if len(head) > 2 else None
    except yaml.YAMLError:
        return ""
    licence = values.get("license_name") or values.get("license") if isinstance(values, dict) else None
    return ", ".join(map(str, licence)) if isinstance(licence, list) else str(licence or "")


def _readme(source: str) -> Path | None:
    """Returns the README of a file, a folder or a data set of the Hub, if it has one."""
    from huggingface_hub import try_to_load_from_cache  # noqa: PLC0415
    from huggingface_hub.errors import HFValidationError  # noqa: PLC0415

    for path in (Path(source).expanduser(), Path(source.rpartition(":")[0] or source).expanduser()):
        folders = (path,) if path.is_dir() else (path.parent, path.parent.parent) if path.is_file() else ()
        for folder in folders:
            if (folder / "README.md").is_file():
                return folder / "README.md"
        if folders:
            return None
    try:
        cached = try_to_load_from_cache(source.partition(":")[0], "README.md", repo_type="dataset")
    except HFValidationError:  # several files, or a pattern
        return None
    return Path(cached) if isinstance(cached, str) else None
