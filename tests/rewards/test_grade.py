"""Tests ``python -m rewards.grade`` on valid and invalid files."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from rewards.grade import InputError, grade_file, main

GOOD = [
    {"prediction": "The answer is 18.", "gold": "#### 18", "kind": "gsm8k", "id": "a"},
    {"prediction": "\\boxed{0.5}", "gold": "\\frac{1}{2}", "kind": "math"},
    {"prediction": "(C)", "gold": "B", "kind": "choice"},
    {"prediction": "∠A = 50°", "gold": "50°", "kind": "geoqa"},
    {"prediction": "<think>yes", "gold": "yes", "kind": "clevr"},
]


def write(path: Path, items: list[Any]) -> Path:
    path.write_text("\n".join(json.dumps(item) for item in items) + "\n\n", encoding="utf-8")
    return path


def read(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def test_every_line_is_written_with_its_grade(tmp_path):
    summary = grade_file(write(tmp_path / "f.jsonl", GOOD), tmp_path / "g.jsonl")
    graded = read(tmp_path / "g.jsonl")
    assert [{key: line[key] for key in item} for line, item in zip(graded, GOOD, strict=True)] == GOOD
    assert [(line["correct"], line["extracted"], line["status"]) for line in graded] == [
        (True, "18", "ok"),
        (True, "0.5", "ok"),
        (False, "(C)", "ok"),
        (True, "∠A = 50°", "ok"),
        (False, None, "no_answer"),
    ]
    assert "3 (60.0%)" in summary.splitlines()[-1]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["f.jsonl", "g.jsonl"]


def test_lines_may_leave_the_kind_to_the_command_and_the_gold_may_be_a_number(tmp_path):
    source = write(tmp_path / "f.jsonl", [{"prediction": "18", "gold": 18}])
    grade_file(source, tmp_path / "g.jsonl", kind="gsm8k")
    assert read(tmp_path / "g.jsonl")[0]["correct"] is True


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("{", "is no JSON"),
        ("[" * 100_000, "is no JSON"),
        ("[1, 2]", "expected a JSON object"),
        ('{"prediction": "1", "kind": "gsm8k"}', "has no field gold"),
        ('{"prediction": null, "gold": "1", "kind": "gsm8k"}', "expected text as prediction, found None"),
        ('{"prediction": "1", "gold": ["1"], "kind": "gsm8k"}', "expected text or a number as gold"),
        ('{"prediction": "1", "gold": "1", "kind": "sudoku"}', "kind 'sudoku' is not one of"),
        ('{"prediction": "1", "gold": "1", "kind": ["gsm8k"]}', "expected text as kind"),
        ('{"prediction": "1", "gold": "many", "kind": "gsm8k"}', "expected a number as GSM8K's gold, found 'many'"),
        ('{"prediction": "1", "gold": "", "kind": "math"}', "expected a gold answer"),
    ],
)
def test_a_bad_line_is_named_before_anything_is_written(tmp_path, line, message):
    source = write(tmp_path / "f.jsonl", GOOD)
    source.write_text(source.read_text(encoding="utf-8") + line + "\n", encoding="utf-8")
    with pytest.raises(InputError, match="1 of 6 lines") as error:
        grade_file(source, tmp_path / "g.jsonl")
    assert "line 7: " in str(error.value)
    assert message in str(error.value)
    assert not (tmp_path / "g.jsonl").exists()


def test_invalid_utf8_is_named(tmp_path):
    (tmp_path / "f.jsonl").write_bytes(b'{"prediction": "\xff"}\n')
    with pytest.raises(InputError, match="line 1: is no JSON"):
        grade_file(tmp_path / "f.jsonl", tmp_path / "g.jsonl")


def test_only_the_first_bad_lines_are_listed(tmp_path):
    source = write(tmp_path / "f.jsonl", [{"prediction": "1", "gold": "", "kind": "math"}] * 25)
    with pytest.raises(InputError, match="and 15 more"):
        grade_file(source, tmp_path / "g.jsonl")


def test_bad_paths_are_named(tmp_path):
    source = write(tmp_path / "f.jsonl", GOOD)
    (tmp_path / "empty.jsonl").touch()
    for origin, target, message in [
        (tmp_path / "missing.jsonl", tmp_path / "g.jsonl", "no such file"),
        (source, tmp_path / "folder" / "g.jsonl", "folder that exists"),
        (source, tmp_path, "expected a file name"),
        (source, source, "is the input"),
        (tmp_path / "empty.jsonl", tmp_path / "g.jsonl", "holds no line"),
    ]:
        with pytest.raises(InputError, match=message):
            grade_file(origin, target)


def test_the_command_prints_a_summary_and_explains_itself(tmp_path, capsys):
    main(["--input", str(write(tmp_path / "f.jsonl", GOOD)), "--output", str(tmp_path / "g.jsonl")])
    assert "answers" in capsys.readouterr().out
    with pytest.raises(SystemExit) as stopped:
        main(["--help"])
    assert stopped.value.code == 0
    assert "no_answer" in capsys.readouterr().out
    with pytest.raises(SystemExit) as stopped:
        main(["--input", str(tmp_path / "missing.jsonl"), "--output", str(tmp_path / "g.jsonl")])
    assert stopped.value.code == 2
    assert "missing.jsonl: no such file" in capsys.readouterr().err


def test_the_module_runs_as_a_program(tmp_path):
    source = write(tmp_path / "f.jsonl", GOOD[:1])
    command = [sys.executable, "-m", "rewards.grade", "--input", str(source), "--output", str(tmp_path / "g.jsonl")]
    root = Path(__file__).parents[2]
    done = subprocess.run(command, cwd=root, capture_output=True, text=True, check=True)
    assert "1 (100.0%)" in done.stdout
    assert done.stderr == "", "a progress bar is shown only on terminals"


def test_the_samples_of_evaluate_and_generate_are_graded_unchanged(tmp_path):
    source, target = tmp_path / "samples.jsonl", tmp_path / "graded.jsonl"
    rows = [
        {"kind": "greedy", "prompt_id": "p:1", "label": "7", "completion": "<think>3+4</think>7", "rewards": {}},
        {"number": 0, "prompt": "3+4=", "label": "7", "text": "<think>3+4</think>8"},
        {"kind": "greedy", "task": "t2i", "label": "a cat", "completion": "", "image": "images/0.png"},
    ]
    source.write_text("".join(json.dumps(row) + "\n" for row in rows))
    assert grade_file(source, target).endswith("\nsamples of images, which are left out: 1")
    graded = [json.loads(line) for line in target.read_text().splitlines()]
    assert [(row["correct"], row["extracted"], row["kind"]) for row in graded] == [
        (True, "7", "auto"),
        (False, "8", "auto"),
    ]
    assert (graded[0]["sampling"], graded[0]["prompt_id"]) == ("greedy", "p:1")
    grade_file(source, target, "gsm8k")
    assert {json.loads(line)["kind"] for line in target.read_text().splitlines()} == {"gsm8k"}
    source.write_text(json.dumps(rows[-1]) + "\n")
    with pytest.raises(InputError, match=r"samples\.jsonl: holds samples of images alone, without an answer"):
        grade_file(source, target)
